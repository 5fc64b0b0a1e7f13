"""From prints to answers, compared with the plain-Python oracle."""

import itertools
import random
from datetime import date

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowtape
import oracle
from flowtape.cache.cache import MINUTES, Cache
from flowtape.errors import StoreError, UsageError
from flowtape.model.query import Filter, Query
from flowtape.pipeline.ingestor import Ingestor
from flowtape.queries import CUMULATIVE, cumulative_columns, instants, window_minutes
from flowtape.queries.flow_data import FlowData
from stores import ENGINE, every_print, examples
from stores import make_store as open_store
from tapes import ROW, SECOND, T0, frame, row, rows

MINUTE = 60 * SECOND
LATER = T0 + 24 * 3600 * SECOND


@pytest.fixture
def store(tmp_path):
    kept = open_store(tmp_path / "x.duckdb")
    yield kept
    kept.close()


def points(found):
    """Return totals as the points of an answer."""
    numbers = cumulative_columns(found, "option")
    columns = (numbers["net_volume"], numbers["cumulative"], numbers["vwap"] / 10_000, numbers["trade_count"])
    names = ("ts", "netVolume", "cumulative", "vwap", "tradeCount")
    return [
        dict(zip(names, row, strict=True))
        for row in zip(instants(found.minute), *(column.tolist() for column in columns), strict=True)
    ]


def filtered(expiry):
    return Filter() if expiry is None else Filter(expiries=((expiry, expiry),))


def from_store(store, symbol, at=LATER, minutes=MINUTES, expiry=None):
    end = at // MINUTE
    query = Query(symbol=symbol, at=at, filter=filtered(expiry))
    return points(FlowData(store, None, at).totals(query, end - minutes, end, CUMULATIVE))


def from_window(window, symbol, now=LATER, minutes=MINUTES):
    start, end = window_minutes(now, minutes)
    return points(window.of("option").view().line(window.number("option", symbol), start, end, CUMULATIVE))


def expected(tape, symbol, at=LATER, minutes=MINUTES, expiry=None):
    return oracle.cumulative(tape, symbol, at // MINUTE - minutes, at // MINUTE, expiry)


def pieces(tape, cuts):
    """Return the tape cut into batches at the given places."""
    places = [0, *sorted(cut % (len(tape) + 1) for cut in cuts), len(tape)]
    return [tape[a:b] for a, b in itertools.pairwise(places)]


def taken(path, batches, source="test"):
    """Return a store and its cache after ingesting the batches."""
    store = open_store(path)
    window = Cache(store.catalog, LATER // MINUTE)
    ingestor = Ingestor(store, window)
    for batch in batches:
        ingestor.take(frame(batch), source)
    return store, window


@settings(max_examples=examples(20), deadline=None)
@given(rows(), st.lists(st.integers(0, 100), max_size=4), st.randoms(use_true_random=False))
def test_answers_ignore_order_batches_and_repeats(tmp_path_factory, tape, cuts, chance):
    shuffled = tape + chance.sample(tape, len(tape) // 2)
    chance.shuffle(shuffled)
    folder = tmp_path_factory.mktemp("s")
    store, window = taken(folder / "x.duckdb", pieces(shuffled, cuts))
    try:
        for symbol in ("SPY", "SPX"):
            points = expected(tape, symbol)
            assert from_store(store, symbol) == points
            assert from_window(window, symbol) == points
            whole = [
                expected(tape, symbol, expiry=expiry) for expiry in (date(2026, 3, 6), date(2026, 3, 20))
            ]
            assert [
                from_store(store, symbol, expiry=e) for e in (date(2026, 3, 6), date(2026, 3, 20))
            ] == whole
            assert sum(p["netVolume"] for part in whole for p in part) == sum(p["netVolume"] for p in points)
            assert [p["cumulative"] for p in points][-1:] == [sum(p["netVolume"] for p in points)][
                : len(points)
            ]
    finally:
        store.close()


@settings(max_examples=examples(20), deadline=None)
@given(rows(), st.integers(0, 10 * 3600))
def test_at_equals_the_tape_cut_at_that_instant(tmp_path_factory, tape, second):
    at = T0 + second * SECOND
    store, _ = taken(tmp_path_factory.mktemp("s") / "x.duckdb", [tape])
    try:
        before = [one for one in tape if one["ts"] < at]
        for symbol in ("SPY", "SPX"):
            assert from_store(store, symbol, at) == expected(before, symbol, at)
    finally:
        store.close()


@settings(max_examples=examples(12), deadline=None)
@given(rows())
def test_the_library_gives_the_same_numbers(tape):
    if not tape:
        return
    bars = flowtape.minutes(flowtape.sign(frame(tape)))
    for symbol in ("SPY", "SPX"):
        line = flowtape.cumulative(bars, symbol, MINUTES)
        points = expected(tape, symbol)
        assert line["net_volume"].to_list() == [point["netVolume"] for point in points]
        assert line["cumulative"].to_list() == [point["cumulative"] for point in points]
        assert line["vwap"].to_list() == [point["vwap"] for point in points]
        assert line["trade_count"].to_list() == [point["tradeCount"] for point in points]
    volumes = bars.select(pl.col("buy_volume", "sell_volume", "mid_volume").sum()).row(0)
    assert sum(volumes) == sum(one["size"] for one in oracle.standing(tape))


def test_the_cache_is_loaded_again_after_a_restart(tmp_path):
    chance = random.Random(5)
    tape = [row(ts=T0 + n * SECOND, seq=n, price=chance.choice([11_000, 12_500])) for n in range(400)]
    tape.append(row(ts=T0 + 500 * SECOND, seq=900, price=tape[3]["price"], condition="CANC"))
    store, window = taken(tmp_path / "x.duckdb", pieces(tape, [100, 200, 399]))
    before = from_window(window, "SPY")
    store.close()
    store = open_store(tmp_path / "x.duckdb")
    again = Cache(store.catalog, LATER // MINUTE)
    again.load(store)
    assert before == from_window(again, "SPY") == from_store(store, "SPY") == expected(tape, "SPY")
    store.close()


def test_the_cache_has_all_10080_minutes(store):
    end = LATER // MINUTE
    tape = [row(ts=(end - n) * MINUTE + 5, seq=n) for n in range(MINUTES + 10)]
    window = Cache(store.catalog, end)
    ingestor = Ingestor(store, window)
    ingestor.take(frame(tape), "test")
    points = from_window(window, "SPY")
    assert len(points) == MINUTES
    again = Cache(store.catalog, end)
    again.load(store)
    assert from_window(again, "SPY") == points


def test_a_second_source_is_refused_unless_it_replaces(store):
    window = Cache(store.catalog, LATER // MINUTE)
    ingestor = Ingestor(store, window)
    ingestor.take(frame([row(), row(seq=1, symbol="SPX", root="SPXW")]), "first")
    report = ingestor.take(
        frame([row(seq=7, size=9, price=13_000), row(seq=2, symbol="QQQ", root="QQQ")]), "second"
    )
    assert (report.added, report.refused) == (1, 1)
    assert [(r.symbol, r.held_by) for r in report.refusals] == [("SPY", "first")]
    assert from_window(window, "SPY") == expected([ROW], "SPY")
    ingestor.take(frame([row(seq=7, size=9, price=13_000)]), "second", replace=True)
    changed = expected([row(seq=7, size=9, price=13_000)], "SPY")
    assert from_window(window, "SPY") == from_store(store, "SPY") == changed
    assert len(from_store(store, "SPX")) == 1
    held = Ingestor(store).take(frame([row(seq=8)]), "first")
    assert held.refused == 1, "the source of a day is kept in the store, not only in memory"


def test_rebuild_makes_the_same_minutes(store):
    chance = random.Random(8)
    tape = [
        row(ts=T0 + chance.randrange(400) * SECOND, seq=n, price=chance.choice([11_000, 12_000, 13_000]),
            condition=chance.choice(["AUTO", "MLET", "CANC"]), right=chance.choice("CP"))
        for n in range(300)
    ]  # fmt: skip
    window = Cache(store.catalog, LATER // MINUTE)
    ingestor = Ingestor(store, window)
    ingestor.take(frame(tape), "test")
    before = from_store(store, "SPY")
    assert before == expected(tape, "SPY")
    with store.transaction():
        store.clear_minutes(0, 2**62)
    if ENGINE != "duckdb":  # the embedded store makes bars from prints
        assert from_store(store, "SPY") == []
    assert ingestor.rebuild(date(2026, 3, 6)) > 0
    assert from_store(store, "SPY") == from_window(window, "SPY") == before


def test_a_failed_commit_changes_nothing(store, monkeypatch):
    window = Cache(store.catalog, LATER // MINUTE)
    ingestor = Ingestor(store, window)
    ingestor.take(frame([row()]), "test")
    monkeypatch.setattr(
        type(store),
        "append_bars",
        lambda self, bars: (self._run if ENGINE == "duckdb" else self._link.run)(
            "INSERT INTO no_such_table VALUES (1)"
        ),
    )
    with pytest.raises(StoreError):
        ingestor.take(frame([row(seq=1, root="NEWW", symbol="NEWW", venue="NEWV")]), "test")
    monkeypatch.undo()
    assert from_window(window, "SPY") == from_store(store, "SPY") == expected([ROW], "SPY")
    ingestor.take(frame([row(seq=1, root="NEWW", symbol="NEWW", venue="NEWV")]), "test")
    assert len(from_store(store, "NEWW")) == len(from_window(window, "NEWW")) == 1


def test_a_frame_with_a_print_beyond_the_limit_is_refused(store):
    with pytest.raises(UsageError, match="row 2: 2147483647: of a print whose price x size is beyond"):
        Ingestor(store).take(frame([row(seq=1), row(price=10**11, size=2**31 - 1)]), "test")
    assert from_store(store, "SPY") == []


@pytest.mark.skipif(ENGINE != "duckdb", reason="views of the embedded store")
def test_views_have_the_documented_columns(store):
    Ingestor(store).take(
        frame([row(), row(seq=1, ts=T0 + 1, condition="CANC"), row(seq=2, right="P")]), "test"
    )
    prints = store._frame("FROM prints ORDER BY seq")
    assert prints.height == 3
    assert prints.row(0, named=True)["strike"] == 600.0
    assert prints["condition"].to_list() == ["AUTO", "CANC", "AUTO"]
    assert store._frame("FROM removals").height == 1
    minutes = store._frame("FROM minutes")
    assert minutes["trades"].to_list() == [1]
    assert minutes["right"].to_list() == ["P"]


def test_a_better_quote_brings_its_own_underlying_price(store):
    ingestor = Ingestor(store)
    for underlying, at in ((6_000_000, 2), (None, 1)):
        ingestor.take(frame([row(underlying=underlying, quote_ts=T0 - at)]), "test")
    series = store.catalog.find("option", "SPY")
    assert every_print(store).height == 1
    assert store.underlying(series, 0, 2**62).is_empty()


def test_compaction_changes_no_answer(store):
    ingestor = Ingestor(store)
    for n in range(30):
        ingestor.take(frame([row(ts=T0 + n * 30 * SECOND, seq=n)]), "feed", cursors={"feed": str(n)})
    assert store.cursor("feed") == "29"
    assert store.bars(None, 0, 2**31 - 1).height < 30
    assert from_store(store, "SPY") == expected(
        [row(ts=T0 + n * 30 * SECOND, seq=n) for n in range(30)], "SPY"
    )
