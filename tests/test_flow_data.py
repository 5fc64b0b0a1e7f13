"""Minutes, prints and cross-sections of a query: bars, prints and the plain-Python oracle agree."""

import itertools
import threading
from datetime import UTC, date, datetime
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import oracle
from flowtape.cache.cache import Cache
from flowtape.model.conditions import FAMILIES
from flowtape.model.prints import SIZE_SCALE
from flowtape.model.query import Filter, Query
from flowtape.orderflow.minute_bars import FIELDS, SUMS, VALUES, gross, of_side
from flowtape.pipeline.ingestor import Ingestor
from flowtape.queries.flow_data import FlowData, Span
from oracle_routes import allowed, closing, opening
from stores import examples
from stores import make_store as open_store
from tapes import SECOND, T0, frame, row, rows

MINUTE = 60 * SECOND
LATER = T0 + 24 * 3600 * SECOND
START, END = T0 // MINUTE - 5, LATER // MINUTE + 1


def as_stocks(tape):
    """Return rows of options as rows of stocks, with fractional sizes and prints that may not set every price."""
    plain = {"asset": "stock", "expiry": None, "right": None, "strike": None}
    sizes = {1: Fraction(1, 10_000), 2: Fraction(25_001, 10_000)}
    return [
        one
        | plain
        | {"root": one["symbol"], "size": sizes.get(one["size"], one["size"]), "price_flags": one["seq"] % 4}
        for one in tape
    ]


def units(size, asset):
    """Return a row's size in the units of a frame."""
    return int(size * SIZE_SCALE[asset])


def distinct(tape):
    """Return rows whose copies are equal, as in a tape that is sent twice."""
    seen = {}
    for one in tape:
        seen.setdefault((one["venue"], oracle.contract(one), one["ts"], one["seq"]), one)
    return [seen[one["venue"], oracle.contract(one), one["ts"], one["seq"]] for one in tape]


def batches(tape, cuts):
    places = [0, *sorted(cut % (len(tape) + 1) for cut in cuts), len(tape)]
    return [tape[low:high] for low, high in itertools.pairwise(places)]


_STORES = itertools.count()


def taken(path, tape, cuts):
    store = open_store(path.with_name(f"{next(_STORES)}.duckdb"))
    window = Cache(store.catalog, LATER // MINUTE)
    ingestor = Ingestor(store, window)
    for batch in batches(tape, cuts):
        ingestor.take(frame(batch), "test")
    return store, window


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("flow") / "x.duckdb"


def plain(totals):
    return totals.minute.tolist(), {name: values.tolist() for name, values in totals.values.items()}


FILTERS = st.builds(
    Filter,
    right=st.sampled_from([None, "C", "P"]),
    expiries=st.sampled_from([
        (), ((date(2026, 3, 6), date(2026, 3, 6)),), ((date(2026, 3, 7), date(2026, 3, 30)),),
        ((date(2026, 3, 1), date(2026, 3, 6)), (date(2026, 3, 20), date(2026, 3, 20))),
    ]),
    dte=st.sampled_from([None, (0, 0), (0, 7), (13, 14)]),
    exclude=st.sampled_from([(), ("multileg",), ("auction", "floor"), ("late", "regular", "unknown")]),
)  # fmt: skip


@settings(max_examples=examples(10), deadline=None)
@given(rows(), st.lists(st.integers(0, 60), max_size=3), FILTERS, st.booleans())
def test_cache_store_and_prints_give_equal_minutes(path, tape, cuts, which, stocks):
    tape = distinct(as_stocks(tape)) if stocks else tape
    names = FIELDS if stocks else VALUES
    which = Filter(exclude=which.exclude) if stocks else which
    store, window = taken(path, tape, cuts)
    try:
        query = Query(asset="stock" if stocks else "option", symbol="SPX", filter=which)
        every = Filter(right=which.right, expiries=which.expiries, dte=which.dte, exclude=which.exclude,
                       strike=None if stocks else (0, 10**9))  # fmt: skip
        by_print = Query(asset=query.asset, symbol="SPX", filter=every)
        now = FlowData(store, window, LATER)
        past = Query(asset=query.asset, symbol="SPX", filter=which, at=LATER * 2)
        found = plain(now.totals(query, START, END, names))
        assert found == plain(FlowData(store, None, LATER).totals(query, START, END, names))
        assert found == plain(now.totals(by_print, START, END, names))
        assert found == plain(now.totals(past, START, END, names))
        assert found == plain(now.bars(query, Span(START * MINUTE, END * MINUTE), names, MINUTE))
        counted = [
            one
            for one in oracle.standing(tape)
            if one["symbol"] == "SPX" and passes(one, which) and START <= one["ts"] // MINUTE < END
        ]
        assert sum(found[1]["trades"]) == len(counted)
        span = Span(START * MINUTE, END * MINUTE)
        assert now.trades(query, span) == len(counted)
        shown = now.newest(query, span, len(tape))
        assert shown.height == len(counted)
        assert sorted(zip(shown["ts"].to_physical(), shown["size"], strict=True)) == sorted(
            (one["ts"], units(one["size"], query.asset)) for one in counted
        )
        assert now.newest(query, span, 3).rows() == shown.head(3).rows()
        check_extremes(found, counted, query.asset)
    finally:
        store.close()


@settings(max_examples=examples(10), deadline=None)
@given(rows(), st.lists(st.integers(0, 60), min_size=2, max_size=6), FILTERS, st.booleans())
def test_filtered_minutes_equal_the_store_after_each_batch(path, tape, cuts, which, stocks):
    tape = distinct(as_stocks(tape)) if stocks else tape
    which = Filter(side="buy") if stocks else replace(which, strike=(0, 11 * 10**5))
    query = Query(asset="stock" if stocks else "option", symbol="SPX", filter=which)
    names = FIELDS if stocks else VALUES
    store = open_store(path.with_name(f"{next(_STORES)}.duckdb"))
    cache = Cache(store.catalog, LATER // MINUTE)
    ingestor = Ingestor(store, cache)
    try:
        for batch in batches(tape, cuts):
            ingestor.take(frame(batch), "test")
            found = FlowData(store, cache, LATER).totals(query, START, END, names)
            expected = FlowData(store, None, LATER).totals(query, START, END, names)
            assert found.as_of == expected.as_of
            assert plain(found) == plain(expected)
    finally:
        store.close()


def check_extremes(found, counted, asset):
    for place, minute in enumerate(found[0]):
        mine = [one for one in counted if one["ts"] // MINUTE == minute]
        value = {name: column[place] for name, column in found[1].items()}
        biggest = max(one["size"] for one in mine)
        assert value["biggest"] == units(biggest, asset)
        assert value["biggest_ts"] == min(one["ts"] for one in mine if one["size"] == biggest)
        ranging = [one["price"] for one in allowed(mine, 1)]
        assert (value["high"], value["low"]) == (max(ranging), min(ranging))
        if asset == "stock":
            assert (value["open"], value["close"]) == (opening(mine), closing(mine))


FAMILY = {
    "AUTO": "regular", "ISOI": "regular", "SLAN": "auction", "MLET": "multileg", "SLCN": "cross",
    "MLFT": "floor", "OSEQ": "late", "EXHT": "extended", "unknown": "unknown",
}  # fmt: skip


def passes(one, which):
    if FAMILY[one["condition"]] in which.exclude or (which.right and one["right"] != which.right):
        return False
    if which.expiries and not any(low <= one["expiry"] <= high for low, high in which.expiries):
        return False
    return which.dte is None or which.dte[0] <= (one["expiry"] - oracle.day(one["ts"])).days <= which.dte[1]


def test_the_families_are_those_of_the_program():
    assert set(FAMILY.values()) <= set(FAMILIES)


@settings(max_examples=examples(10), deadline=None)
@given(
    rows(), st.lists(st.integers(0, 60), max_size=4), st.booleans(), st.integers(-3, 8), st.integers(1, 600)
)
def test_cross_sections_equal_the_sums_of_minutes(path, tape, cuts, stocks, begin, length):
    tape = distinct(as_stocks(tape)) if stocks else tape
    asset = "stock" if stocks else "option"
    store, window = taken(path, tape, cuts)
    try:
        start = T0 // MINUTE + begin
        end = start + length
        reloaded = Cache(store.catalog, LATER // MINUTE)
        reloaded.load(store)
        for one in (window, reloaded):
            for right in (None,) if stocks else (None, "C", "P"):
                check_all_symbols(FlowData(store, one, LATER), asset, start, end, Filter(right=right))
    finally:
        store.close()


def check_all_symbols(data, asset, start, end, which):
    found = data.all_symbols(Query(asset=asset, filter=which), start, end)
    names = (*SUMS, "biggest", "biggest_ts", "last_ts")
    expected = {}
    for symbol in ("QQQ", "SPX", "SPY"):
        totals = data.totals(Query(asset=asset, symbol=symbol, filter=which), start, end, names)
        if len(totals.minute):
            expected[symbol] = totals
    assert found.symbols == sorted(expected)
    assert found.as_of == max((totals.as_of for totals in expected.values()), default=None)
    details = found.details(np.arange(len(found.symbols)))
    for place, symbol in enumerate(found.symbols):
        value = expected[symbol].values
        for kind in ("volume", "notional"):
            for side in ("buy", "sell", "mid"):
                expected_sum = int(of_side(value, side, kind).sum())
                assert int(of_side(found.sums, side, kind)[place]) == expected_sum, (side, kind)
        assert int(found.sums["trades"][place]) == int(value["trades"].sum())
        biggest = int(value["biggest"].max())
        assert details.biggest[place] == biggest
        assert details.biggest_ts[place] == value["biggest_ts"][value["biggest"] == biggest].min()
        assert details.last_ts[place] == expected[symbol].as_of
        assert details.last_notional[place] == gross(value, "notional")[-1]
        assert details.last_volume[place] == sum(int(value[name][-1]) for name in SUMS[:3])


@settings(max_examples=examples(10), deadline=None)
@given(rows(), st.booleans(), st.sampled_from([None, "C", "P"]), st.integers(0, 9 * 60), st.integers(1, 12))
def test_past_cross_sections_are_point_in_time(path, tape, stocks, right, seconds, length):
    tape = distinct(as_stocks(tape)) if stocks else tape
    at = T0 + seconds * SECOND
    end = at // MINUTE
    query = Query(asset="stock" if stocks else "option", filter=Filter(right=None if stocks else right))
    store, window = taken(path, tape, [len(tape) // 2])
    then, window_then = taken(path, [one for one in tape if one["ts"] < at], [])
    try:
        expected = plain_sums(FlowData(then, window_then, at).all_symbols(query, end - length, end))
        past = replace(query, at=at)
        assert plain_sums(FlowData(store, window, LATER).all_symbols(past, end - length, end)) == expected
        assert plain_sums(FlowData(store, None, LATER).all_symbols(past, end - length, end)) == expected
        assert plain_sums(FlowData(then, None, at).all_symbols(query, end - length, end)) == expected
    finally:
        store.close()
        then.close()


def plain_sums(found):
    places = np.arange(len(found.symbols))
    details = {name: values.tolist() for name, values in found.details(places)._asdict().items()}
    sums = {name: values.tolist() for name, values in found.sums.items()}
    return found.symbols, sums, details, found.squares().tolist(), found.as_of


def test_a_batch_and_its_cancels_are_published_together(path):
    """No reader sees a batch's prints without the effect of its cancels."""
    store, cache = taken(path, [row()], [])
    tape = [
        row(seq=1),
        row(seq=2, ts=T0 + 1, price=12_500),
        row(seq=3, ts=T0 + 2, price=12_500, condition="CANC"),
    ]
    seen = []

    def trades(*_):
        query = Query(symbol="SPY")
        return int(
            FlowData(store, cache, LATER).totals(query, START, END, ("trades",)).values["trades"].sum()
        )

    cache.of("option").listeners.append(lambda *_: seen.append(trades()))
    try:
        Ingestor(store, cache).take(frame(tape), "test")
        assert seen == [2], "one step, and no third print in it"
    finally:
        store.close()


@pytest.mark.parametrize("cuts", [[], [1, 2]])
def test_sequence_orders_prints_of_one_instant(path, cuts):
    same = [row(seq=seq, price=price) for seq, price in ((2, 11_000), (1, 12_000), (3, 11_500))]
    store, window = taken(path, [one | {"price_flags": 3} for one in as_stocks(same)], cuts)
    try:
        query = Query(asset="stock", symbol="SPY")
        found = [
            FlowData(store, one, LATER).totals(query, START, END, ("open", "close")) for one in (window, None)
        ]
        assert plain(found[0])[1] == {"open": [12_000], "close": [11_500]}
        assert plain(found[1]) == plain(found[0])
    finally:
        store.close()


def test_a_cancelled_print_is_neither_largest_nor_newest(path):
    prints = [row(seq=1, size=50), row(seq=2, ts=T0 + MINUTE, size=900, price=12_500)]
    cancel = row(seq=3, ts=T0 + 2 * MINUTE, size=900, price=12_500, condition="CANC")
    store, window = taken(path, [*prints, cancel], [1, 2])
    try:
        found = FlowData(store, window, LATER).all_symbols(Query(), START, END)
        details = found.details(np.array([0]))
        assert (details.biggest[0], details.biggest_ts[0], details.last_ts[0]) == (50, T0, T0)
        assert (details.last_volume[0], details.last_notional[0]) == (50, 50 * 12_000)
        assert found.as_of == T0
    finally:
        store.close()


def test_one_answer_reads_one_snapshot(path):
    store, window = taken(path, [row()], [])
    try:
        query, data = Query(symbol="SPY", at=LATER), FlowData(store, window, LATER)
        day = data.day(query)
        with store.snapshot():
            before = data.trades(query, day)
            writer = threading.Thread(target=Ingestor(store, window).take, args=(frame([row(seq=9)]), "test"))
            writer.start()
            writer.join()
            assert (before, data.trades(query, day), data.newest(query, day, 9).height) == (1, 1, 1)
        assert data.trades(query, day) == data.newest(query, day, 9).height == 2
    finally:
        store.close()


def test_a_concurrent_print_does_not_change_the_day(tmp_path):
    # 23:59:30 and 00:09:30 in New York.
    before = int(datetime(2026, 3, 11, 3, 59, 30, tzinfo=UTC).timestamp()) * 10**9
    query = Query(symbol="SPY", limit=50, min_size=1)
    store = open_store(tmp_path / "x.duckdb")
    ingestor = Ingestor(store)
    ingestor.take(
        frame([row(seq=1, ts=before, size=7), row(seq=2, ts=before - 3600 * SECOND, size=9)]), "test"
    )
    data = FlowData(store, None, before + SECOND)
    day = data.day(query)
    ingestor.take(frame([row(seq=3, ts=before + 600 * SECOND)]), "test")
    for most, min_size, sizes in ((1, 1, [7]), (50, 1, [7, 9]), (500, 9, [9]), (500, 100, [])):
        assert data.newest(query, day, most, min_size)["size"].to_list() == sizes
    (made, after) = (data.day(query), data.newest(query, data.day(query), 50))
    assert made.start == day.end
    assert after.height == 1
    store.close()
