"""Answers from a real store: exact numbers, pages, sessions, bars, leaders and tables."""

import itertools
import json
from datetime import UTC, date, datetime
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle_routes as routes
from flowtape import queries
from flowtape.cache.cache import Cache
from flowtape.model.conditions import CANCEL, FAMILIES, OFFICIAL
from flowtape.model.query import Filter, Query
from flowtape.pipeline.ingestor import Ingestor
from flowtape.queries import leaders, prints, spans
from flowtape.queries.flow_data import FlowData
from flowtape.queries.render import numbers
from oracle_compare import differences
from stores import examples
from stores import make_store as open_store
from tapes import SECOND, T0, frame, row

MINUTE = 60 * SECOND
NOW = T0 + 30 * MINUTE + 1_234_567_890
STOCK = {"asset": "stock", "root": "SPY", "expiry": None, "right": None, "strike": None}


def ints(*values):
    return np.array(values, np.int64)


def ns(text):
    return int(datetime.fromisoformat(text).timestamp()) * 10**9


def body(made):
    return json.loads(queries.encode(made, simulated=False).body)


class Kept:
    """A `FlowData` over one tape."""

    def __init__(self, folder, rows, now=NOW):
        self.rows, self.tape = rows, routes.Tape(rows)
        self.store = open_store(folder / "x.duckdb")
        self.window = Cache(self.store.catalog, now // MINUTE)
        Ingestor(self.store, self.window).take(frame(rows), "test")
        self.data = FlowData(self.store, self.window, now)

    def ask(self, function, **query):
        return body(function(self.data, Query(**({"symbol": "SPY"} | query))))


@pytest.fixture
def kept(tmp_path):
    made = []

    def make(rows, now=NOW):
        made.append(Kept(tmp_path, rows, now))
        return made[-1]

    yield make
    for one in made:
        one.store.close()


@given(st.lists(st.tuples(st.integers(-(10**16), 10**16), st.integers(1, 2**31)), min_size=1))
def test_quotients_are_exact_and_round_half_to_even(pairs):
    found = numbers.half_even(*(np.array(column, np.int64) for column in zip(*pairs, strict=True)))
    assert found.tolist() == [round(Fraction(*pair)) for pair in pairs]


@given(st.lists(st.integers(-(2**62), 2**62)), st.sampled_from([100, 10_000]))
def test_dollars_are_the_nearest_doubles(values, scale):
    assert numbers.decimals(np.array(values, np.int64), scale) == [float(Fraction(v, scale)) for v in values]


def test_instants_have_as_many_decimals_as_needed():
    assert queries.instant(T0) == "2026-03-06T20:58:00Z"
    assert queries.instant(T0 + 5_000_000) == "2026-03-06T20:58:00.005Z"
    assert queries.instant(T0 + 1) == "2026-03-06T20:58:00.000000001Z"
    assert (
        numbers.stamp(T0 + 5_999_999) == numbers.stamps(ints(T0 + 5_999_999))[0] == "2026-03-06T20:58:00.005Z"
    )
    assert numbers.stamps(ints(T0 + 999_999_999), "s") == ["2026-03-06T20:58:00Z"]


@pytest.mark.parametrize(
    ("buy", "sell", "percent", "name"),
    [
        (0, 0, 0.0, "FLAT"),
        (10_999, 9_001, 9.99, "FLAT"),
        (55, 45, 10.0, "MILD_BUY"),
        (45, 55, 10.0, "MILD_SELL"),
        (65, 35, 30.0, "BUY"),
        (6_499, 3_501, 29.98, "MILD_BUY"),
        (2, 8, 60.0, "STRONG_SELL"),
        (7_999, 2_001, 59.98, "BUY"),
        (1, 0, 100.0, "STRONG_BUY"),
        (0, 1, 100.0, "STRONG_SELL"),
        (100_005, 99_995, 0.0, "FLAT"),
        (100_015, 99_985, 0.02, "FLAT"),
    ],
)
def test_imbalance_and_its_name(buy, sell, percent, name):
    found = leaders.signed_imbalance(ints(buy), ints(sell))
    assert (numbers.decimals(np.abs(found), 100), leaders.skew(int(found[0]))) == ([percent], name)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_imbalance_is_the_rounded_fraction(buy, sell):
    exact = Fraction(10_000 * (buy - sell), buy + sell) if buy + sell else Fraction(0)
    assert leaders.signed_imbalance(ints(buy), ints(sell)).tolist() == [round(exact)]


def test_instrument_ids_depend_on_the_contract_alone():
    one = prints.instrument_id("SPY", date(2026, 3, 20), "C", 6_000_000)
    assert one == 1_300_417_876_924_740, "the same on every machine, in every run"
    others = [("SPX", date(2026, 3, 20), "C", 6_000_000), ("SPY", date(2026, 3, 21), "C", 6_000_000),
              ("SPY", date(2026, 3, 20), "P", 6_000_000), ("SPY", date(2026, 3, 20), "C", 6_000_005)]  # fmt: skip
    assert len({one, *(prints.instrument_id(*other) for other in others)}) == 5
    assert all(prints.instrument_id(*other) < 2**53 for other in others)


def flow(places, **changes):
    """Return one print in each of some minutes from T0 on, with alternating sides."""
    return [
        row(ts=T0 + place * MINUTE + n, seq=n, size=n % 7 + 1, price=11_000 + 1_000 * (n % 3), **changes)
        for n, place in enumerate(places)
    ]


@settings(max_examples=examples(6), deadline=None)
@given(
    st.sets(st.integers(0, 200), max_size=20),
    st.integers(5, 12),
    st.integers(-5, 100),
    st.none() | st.integers(101, 210),
    st.sampled_from(["window", "session"]),
    st.sampled_from([Filter(), Filter(side="buy")]),
)
def test_pages_join_to_the_whole(tmp_path_factory, places, size, since, until, anchor, which):
    folder = tmp_path_factory.mktemp("pages")
    made = Kept(folder, flow(sorted(places)) or [row(symbol="QQQ")], T0 + 205 * MINUTE)
    asked = {
        "since": T0 + since * MINUTE - 5, "until": None if until is None else T0 + until * MINUTE + 5,
        "filter": which,
    }  # fmt: skip
    try:
        for function, name, more in (
            (queries.cumulative, "points", {"anchor": anchor}),
            (queries.history, "buckets", {}),
        ):
            whole = made.ask(function, **asked, **more)
            assert "nextCursor" not in whole
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(spans, "PAGE", size)
                pages, cursor = [], None
                while not pages or cursor is not None:
                    pages.append(made.ask(function, **asked, **more, cursor=cursor))
                    cursor = int(pages[-1]["nextCursor"]) if "nextCursor" in pages[-1] else None
            assert [one for page in pages for one in page[name]] == whole[name]
            assert [len(page[name]) for page in pages[:-1]] == [size] * (len(pages) - 1)
            assert all(page["count"] == len(page[name]) for page in pages)
            minutes = [
                place for place in sorted(places) if since <= place < (205 if until is None else until)
            ]
            if which == Filter():
                assert whole["count"] == len(minutes)
    finally:
        made.store.close()


def test_a_page_ends_where_the_next_begins(kept, monkeypatch):
    made = kept(flow(range(0, 20, 2)))
    monkeypatch.setattr(spans, "PAGE", 4)
    for function, name, cursors in (
        (queries.cumulative, "points", [8, 16]),
        (queries.history, "buckets", [10, 2]),
    ):
        first = made.ask(function, since=T0)
        second = made.ask(function, since=T0, cursor=int(first["nextCursor"]))
        third = made.ask(function, since=T0, cursor=int(second["nextCursor"]))
        assert [first["nextCursor"], second["nextCursor"]] == [str(T0 // MINUTE + n) for n in cursors]
        assert [first["count"], second["count"], third["count"]] == [4, 4, 2]
        assert "nextCursor" not in third
        monkeypatch.undo()
        assert first[name] + second[name] + third[name] == made.ask(function, since=T0)[name]
        monkeypatch.setattr(spans, "PAGE", 4)


def test_from_and_to_replace_minutes(kept):
    made = kept(flow(range(10)))
    found = made.ask(queries.cumulative, since=T0 + 1, until=T0 + 4 * MINUTE + 30 * SECOND)
    assert list(found) == ["symbol", "from", "to", "count", "points"]
    assert (found["from"], found["to"]) == ("2026-03-06T20:58:00.000000001Z", "2026-03-06T21:02:30Z")
    assert [point["ts"][11:16] for point in found["points"]] == ["20:59", "21:00", "21:01"]
    open_end = made.ask(queries.history, since=T0)
    assert list(open_end) == ["symbol", "from", "count", "buckets"]
    assert open_end["count"] == 10


def test_long_gaps_are_crossed(kept):
    now = ns("2026-03-06T21:00:00+00:00")
    made = kept([row(ts=now - days * 1440 * MINUTE, seq=days) for days in (3000, 400, 1)], now)
    found = made.ask(queries.history, since=0)
    assert [bucket["ts"][:10] for bucket in found["buckets"]] == ["2026-03-05", "2025-01-30", "2017-12-18"]
    points = made.ask(queries.cumulative, since=0)["points"]
    assert [point["ts"] for point in points] == [bucket["ts"] for bucket in found["buckets"]][::-1]


def test_measures_anchors_and_filters_are_echoed_in_order(kept):
    made = kept(flow(range(3)))
    echo = (("expiry", "2026-03-20"), ("right", "C"), ("side", "buy"))
    found = made.ask(queries.cumulative, minutes=60, echo=echo, measure="premium", anchor="session")
    names = ["symbol", "expiry", "right", "side", "measure", "anchor", "minutes", "count", "points"]
    assert list(found) == names
    assert list(found["points"][0]) == ["ts", "session", "netPremium", "cumulative", "vwap", "tradeCount"]
    assert list(made.ask(queries.cumulative, minutes=60)) == ["symbol", "minutes", "count", "points"]


@pytest.mark.parametrize(("asset", "shares"), [("option", 100), ("stock", 1)])
def test_premium_is_exact(kept, asset, shares):
    changes = STOCK if asset == "stock" else {}
    rows = [
        row(ts=T0 + n * MINUTE, seq=n, price=price, size=size, **changes)
        for n, (price, size) in enumerate([(12_345, 3), (11_111, 7), (12_999, 1_000_003)])
    ]
    points = kept(rows).ask(queries.cumulative, asset=asset, minutes=60, measure="premium")["points"]
    signed = [shares * sign * one["price"] * one["size"] for sign, one in zip((1, -1, 1), rows, strict=True)]
    assert [point["netPremium"] for point in points] == [value / 10_000 for value in signed]
    assert [point["cumulative"] for point in points] == [v / 10_000 for v in itertools.accumulate(signed)]


def test_a_session_s_sum_begins_at_its_open(kept):
    friday, monday = ns("2026-03-06T14:30:00+00:00"), ns("2026-03-09T13:30:00+00:00")
    opens = [(friday, "2026-03-06"), (monday, "2026-03-09")]
    times = [friday, friday + 100 * MINUTE, friday + 101 * MINUTE, monday, monday + MINUTE]
    rows = [row(ts=ts, seq=n, price=12_500, size=n + 1, root="X", symbol="X") for n, ts in enumerate(times)]
    made = kept(rows, monday + 2 * MINUTE)
    tape = made.tape
    for minutes in (1, 2, 3, 4320, 10_080):
        found = made.ask(queries.cumulative, symbol="X", minutes=minutes, anchor="session")
        expected = routes.cumulative(tape, "option", "X", now=made.data.now, minutes=minutes, opens=opens)
        assert found["points"] == expected["points"]
    late = made.ask(queries.cumulative, symbol="X", since=times[2], anchor="session")["points"]
    assert [(point["session"], point["cumulative"]) for point in late] == [
        ("2026-03-06", 6), ("2026-03-09", 4), ("2026-03-09", 9)
    ]  # fmt: skip


def test_quality_equals_the_oracle(kept):
    rows = [
        row(seq=1, price=12_500, size=3, quote_ts=T0 - SECOND),
        row(seq=2, price=12_000, size=2, quote_ts=T0 - 2_000_001),
        row(seq=3, bid=None, size=1, condition="unknown", quote_ts=T0 - 900 * SECOND),
        row(seq=4, price=12_500, size=1, condition="SLCN"),
        row(ts=T0 + MINUTE, seq=5, bid=None),
    ]
    made = kept(rows)
    first, last = made.ask(queries.cumulative, minutes=60, quality=True)["points"]
    assert {name: first[name] for name in list(first)[5:]} == {
        "nbboShare": 0.8571,
        "sidedShare": 0.4286,
        "families": {"unknown": 0.1429, "regular": 0.7143, "cross": 0.1429},
        "medianQuoteAgeMs": 501.0000005,
    }
    assert "medianQuoteAgeMs" not in last
    assert last["nbboShare"] == 0.0
    plain = made.ask(queries.cumulative, minutes=60)["points"]
    assert [{name: point[name] for name in plain[0]} for point in (first, last)] == plain
    buckets = made.ask(queries.history, minutes=60, quality=True)["buckets"]
    assert [bucket["families"] for bucket in buckets] == [last["families"], first["families"]]
    assert made.ask(queries.history, minutes=1, quality=True)["buckets"] == []


@pytest.mark.parametrize("asset", ["option", "stock"])
def test_answers_without_prints_are_empty(kept, asset):
    made = kept([row(symbol="QQQ")])
    asked = {"asset": asset, "minutes": 60, "limit": 9, "min_size": 1}
    assert made.ask(queries.recent, **asked) == {
        "symbol": "SPY", "count": 0, "totalAvailable": 0, "trades": []
    }  # fmt: skip
    assert made.ask(queries.blocks, **asked)["blocks"] == []
    summary = made.ask(queries.summary, **asked)
    assert summary.pop("lastTradeUtc") is None
    assert {value for name, value in summary.items() if name != "symbol"} == {0}
    assert ("contractsWithTrades" in summary) == (asset == "option")
    for function in (queries.cumulative, queries.history):
        assert made.ask(function, **asked)["count"] == 0
        assert made.ask(function, asset=asset, since=0)["count"] == 0
    if asset == "stock":
        found = made.ask(queries.bars, **asked, resolution="5m")
        assert (found["dataStartUtc"], found["bars"]) == (None, [])
        assert made.ask(queries.bars, **asked, resolution="1s")["bars"] == []


def test_an_unknown_quote_is_written_as_zeros(kept):
    found = kept([row(bid=None), row(seq=1, ask=None), row(seq=2)]).ask(queries.recent, limit=10)["trades"]
    assert [(trade["bid"], trade["ask"]) for trade in found] == [(1.1, 1.3), (0.0, 0.0), (0.0, 0.0)]


@settings(max_examples=examples(6), deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30 * 60), st.integers(-30, 30), st.integers(1, 9)), max_size=40),
    st.data(),
)
def test_bars_of_every_resolution(tmp_path_factory, prints, data):
    rows = [
        row(ts=T0 + second * SECOND, seq=n // 2, price=12_000 + move, size=size, venue=f"V{n}", **STOCK)
        for n, (second, move, size) in enumerate(prints)
    ]
    made = Kept(tmp_path_factory.mktemp("bars"), rows or [row(symbol="QQQ")])
    minutes = data.draw(st.sampled_from([1, 7, 30, 1440]))
    try:
        for resolution in queries.RESOLUTIONS:
            found = made.ask(queries.bars, asset="stock", minutes=minutes, resolution=resolution)
            expected = routes.bars(made.tape, "SPY", now=NOW, resolution=resolution, minutes=minutes)
            assert found["bars"] == expected["bars"], resolution
            assert list(found) == list(expected)
            oldest = min((one["ts"] for one in rows), default=None)
            assert found["dataStartUtc"] == (None if oldest is None else numbers.stamp(oldest, "s"))
    finally:
        made.store.close()


def test_a_bar_is_closed_when_its_end_has_passed(kept):
    made = kept(flow(range(10), **STOCK), T0 + 7 * MINUTE)
    found = made.ask(queries.bars, asset="stock", minutes=8, resolution="5m")["bars"]
    assert [(bar["ts"][11:16], bar["closed"]) for bar in found] == [
        ("20:55", True), ("21:00", True), ("21:05", False)
    ]  # fmt: skip
    earlier = made.ask(queries.bars, asset="stock", minutes=8, resolution="5m", at=T0 + 6 * MINUTE)["bars"]
    assert [bar["closed"] for bar in earlier] == [True, False]
    assert [bar["tradeCount"] for bar in earlier] == [2, 4]


@pytest.mark.parametrize(("asset", "shares"), [("option", 100), ("stock", 1)])
def test_leaders_rank_by_exact_notional_then_by_name(kept, asset, shares):
    changes = {} if asset == "option" else STOCK
    rows = [
        row(ts=T0 + n, seq=n, price=price, size=size, **(changes | {"symbol": symbol, "root": symbol}))
        for n, (symbol, price, size) in enumerate(
            [("ZZZ", 12_500, 4), ("BBB", 12_500, 4), ("CCC", 11_000, 9), ("AAA", 12_500, 3), ("DDD", 12_000, 5),
             ("EEE", 11_000, 9)]
        )
    ]  # fmt: skip
    made = kept(rows)
    found = made.ask(queries.leaderboard, asset=asset, limit=2, minutes=240, symbol="")
    assert differences(found, routes.leaderboard(made.tape, asset, now=NOW, n=2)) == []
    assert [row["symbol"] for row in found["buyers"]] == ["BBB", "ZZZ"]
    assert [row["symbol"] for row in found["sellers"]] == ["CCC", "EEE"]
    assert found["buyers"][0]["netNotional"] == 4 * 1.25 * shares
    found = made.ask(queries.outliers, asset=asset, limit=200, min_trades=1, minutes=240, symbol="")
    expected = routes.outliers(made.tape, asset, now=NOW, limit=200, minTrades=1)
    assert differences(found, expected) == []
    assert [row["symbol"] for row in found["outliers"]] == ["CCC", "EEE", "BBB", "ZZZ", "AAA", "DDD"]
    none = made.ask(queries.outliers, asset=asset, limit=200, min_trades=2, minutes=240, symbol="")
    assert (none["tracked"], none["qualified"], none["outliers"]) == (6, 0, [])


def test_dealers_buy_what_customers_sell(kept):
    rows = [
        row(price=12_345, size=3),
        row(seq=1, price=11_111, size=7),
        row(seq=2, size=9),
        row(ts=T0 + MINUTE, seq=3),
    ]
    found = kept(rows).ask(queries.dealer_premium, minutes=240)
    assert found == {
        "symbol": "SPY", "as_of": "2026-03-06T21:28:01Z", "window_minutes": 240, "expiry": None,
        "dealer_buy_premium": 777.77, "dealer_write_premium": 370.35, "net_dealer_premium": 407.42,
        "total_premium": 1148.12, "trade_count": 4, "bucket_count": 2,
    }  # fmt: skip


def test_table_columns_have_types(kept):
    made = kept(flow(range(3)))
    data = made.data
    point = queries.table(queries.cumulative(data, Query(symbol="SPY", minutes=60, quality=True)).body)
    families = [f"family_{name}" for name in FAMILIES if name not in (CANCEL, OFFICIAL)]
    assert point.schema == {
        "ts": pl.Datetime("ns", "UTC"), "netVolume": pl.Int64, "cumulative": pl.Int64, "vwap": pl.Float64,
        "tradeCount": pl.Int64, "nbboShare": pl.Float64, "sidedShare": pl.Float64,
        **dict.fromkeys(families, pl.Float64), "medianQuoteAgeMs": pl.Float64,
    }  # fmt: skip
    assert point["ts"][0] == datetime(2026, 3, 6, 20, 58, tzinfo=UTC)
    assert point["family_regular"].to_list() == [1.0] * 3
    asked = Query(symbol="SPY", minutes=60, measure="premium", anchor="session")
    premium = queries.table(queries.cumulative(data, asked).body)
    assert premium["session"].dtype == pl.Date
    assert premium["cumulative"].dtype == pl.Float64
    trades = queries.table(queries.recent(data, Query(symbol="SPY", limit=2)).body)
    assert trades["expiry"].to_list() == [date(2026, 3, 20)] * 2
    assert (trades["isBlock"].dtype, trades["instrumentId"].dtype, trades.height) == (pl.Boolean, pl.Int64, 2)
    day = queries.table(queries.summary(data, Query(symbol="SPY")).body)
    assert (day.height, day["totalTrades"][0], day["lastTradeUtc"].dtype) == (1, 3, pl.Datetime("ns", "UTC"))
    leaders = queries.table(queries.leaderboard(data, Query(limit=5, minutes=60)).body)
    assert leaders["list"].to_list() == ["buyers"]


def test_a_table_without_rows_has_the_same_columns(kept):
    made = kept(flow(range(3)))
    for measure, anchor in itertools.product(("volume", "premium"), ("window", "session")):
        asked = {"minutes": 60, "measure": measure, "anchor": anchor, "quality": True}
        full, empty = (
            queries.table(queries.cumulative(made.data, Query(symbol=symbol, **asked)).body)
            for symbol in ("SPY", "NONE")
        )
        assert full.schema == empty.schema
        assert (full.height, empty.height) == (3, 0)
