"""Fractional shares, sums beyond 64 bits, the limit of a print, and the prints that may set a stock's prices."""

import io
import itertools
import json
import random
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import duckdb
import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowtape
from flowtape.cli import commands
from flowtape.errors import RowError, UsageError
from flowtape.model.prints import conform
from flowtape.queries import Cumulative, CumulativePoint
from flowtape.queries.render.bodies import Rows
from flowtape.queries.render.changes import change, line_of
from flowtape.report.day import read_day
from oracle import MINUTE
from serving import Kept
from stores import ENGINE, examples
from tapes import SECOND, STOCK, T0, row, write_csv

NOW = T0 + 20 * MINUTE
AT = datetime.fromtimestamp(NOW // 10**9, UTC)
HEADER = "ts,symbol,price,size,bid,ask,seq"
ROUNDED = "sizes rounded to 1/10,000 share"


@pytest.fixture
def kept(tmp_path):
    made = Kept(tmp_path, NOW)
    yield made
    made.close()


def stock(**changes):
    return STOCK | changes


def asked(kept, route, **arguments):
    (answer,) = kept.ask((f"/v1/flow/{route}", arguments))
    assert answer.status_code == 200, answer.text
    return answer.json()


def from_tape(path, asset="stock"):
    """Return the output of `flowtape cumulative --tape`."""
    text = io.StringIO()
    arguments = ["SPY", "--tape", str(path), "--asset", asset, "--at", AT.isoformat(), "--as", "json"]
    with redirect_stdout(text):
        commands.main(["cumulative", *arguments], standalone_mode=False)
    return json.loads(text.getvalue())["points"]


def from_library(path, asset="stock"):
    bars = flowtape.minutes(flowtape.sign(flowtape.read(path)))
    line = flowtape.cumulative(bars, "SPY", 240, at=AT, asset=asset)
    names = {"net_volume": "netVolume", "trade_count": "tradeCount"}
    texts = line.with_columns(pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return texts.rename(names).to_dicts()


def three_ways(kept, path, asset="stock"):
    """Return the points of one tape from the server, the command and the library, after a check that they agree."""
    kept.take_file(path, "table")
    points = asked(kept, f"{asset}s/SPY/cumulative", minutes=240, at=AT.isoformat())["points"]
    assert points == from_tape(path, asset) == from_library(path, asset)
    return points


def test_three_thirds_of_a_share_are_one(kept, tmp_path):
    third = [stock(ts=T0 + n * SECOND, seq=n, size=size, price=13_000) for n, size in enumerate(
        [Fraction(3333, 10_000), Fraction(3333, 10_000), Fraction(3334, 10_000)])]  # fmt: skip
    half = [stock(ts=T0 + MINUTE, seq=3, size=Fraction(1, 2), price=13_000)]
    one = [stock(ts=T0 + 2 * MINUTE, seq=4, size=1, price=11_000)]
    write_csv(tmp_path / "x.csv", [*third, *half, *one])
    points = three_ways(kept, tmp_path / "x.csv")
    assert [(point["netVolume"], point["cumulative"]) for point in points] == [(1, 1), (0, 2), (-1, 0)]
    summary = asked(kept, "stocks/SPY/summary")
    assert [summary[name] for name in ("buyVolume", "sellVolume", "netVolume")] == [2, 1, 0]


def test_a_block_has_at_least_ten_thousand_shares(kept):
    sizes = [Fraction(99_999_999, 10_000), 10_000, Fraction(5, 2)]
    kept.take([stock(seq=n, size=size) for n, size in enumerate(sizes)])
    recent = asked(kept, "stocks/SPY/recent")["trades"]
    assert [(one["size"], one["isBlock"]) for one in recent] == [(2, False), (10_000, True), (10_000, False)]
    assert asked(kept, "stocks/SPY/blocks")["count"] == 1
    assert asked(kept, "stocks/SPY/blocks", minSize=3)["count"] == 2


@settings(max_examples=examples(20), deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 10**9), st.sampled_from([11_000, 12_000, 13_001]), st.integers(0, 200)),
             min_size=1, max_size=25),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_fractional_sums_are_those_of_decimals(tmp_path_factory, prints, chance):
    folder = tmp_path_factory.mktemp("f")
    rows = [
        stock(ts=T0 + second * SECOND, seq=n, size=Fraction(size, 10_000), price=price)
        for n, (size, price, second) in enumerate(prints)
    ]
    chance.shuffle(rows)
    write_csv(folder / "x.csv", rows)
    kept = Kept(folder, NOW)
    try:
        points = three_ways(kept, folder / "x.csv")
    finally:
        kept.close()
    running, expected = Decimal(0), []
    for minute in sorted({one["ts"] // MINUTE for one in rows}):
        mine = [
            (Decimal(int(one["size"] * 10_000)) / 10_000, one["price"])
            for one in rows
            if one["ts"] // MINUTE == minute
        ]
        net = sum((size * ((price > 12_000) - (price < 12_000)) for size, price in mine), Decimal(0))
        running += net
        vwap = sum(size * price for size, price in mine) / sum(size for size, _ in mine)
        expected.append((_whole(net), _whole(running), round(Fraction(vwap)) / 10_000))
    assert [(point["netVolume"], point["cumulative"]) for point in points] == [one[:2] for one in expected]


def _whole(number):
    return int(number.quantize(Decimal(1), ROUND_HALF_EVEN))


@pytest.mark.parametrize("asset", ["option", "stock"])
def test_sums_beyond_64_bits_are_exact_everywhere(kept, tmp_path, asset):
    base = row() if asset == "option" else stock()
    large, small = 10**11, 1_000
    tape = [
        base | {"ts": T0 + n, "seq": n, "price": large if n % 2 else small, "size": 100_000}
        for n in range(2_000)
    ]
    write_csv(tmp_path / "x.csv", tape)
    unit = 1 if asset == "option" else 10_000
    assert sum(one["price"] * one["size"] * unit for one in tape) > 2**63
    (point,) = three_ways(kept, tmp_path / "x.csv", asset)
    assert point["vwap"] == (large + small) / 2 / 10_000
    history = asked(kept, f"{asset}s/SPY/history", minutes=240)["buckets"][0]
    assert history["vwap"] == point["vwap"]
    outlier = asked(kept, f"{asset}s/outliers")["outliers"][0]
    shares = 100 if asset == "option" else 1
    assert outlier["notional"] == 2_000 // 2 * 100_000 * (large + small) * shares / 10_000


def test_the_limit_of_a_print_applies_everywhere(kept, tmp_path):
    lines = [f"{T0},SPY,10000000,2147483647,1,2,1", f"{T0},SPY,1.30,5,1.1,1.3,2"]
    path = tmp_path / "x.csv"
    path.write_text("\n".join([HEADER, *lines, ""]))
    outcome = kept.take_file(path, "table")
    (bad,) = outcome.first
    assert (outcome.added, bad.row) == (1, 1)
    assert bad.reason == "price x size is beyond a million million USD: '10000000 x 2147483647'"
    with pytest.warns(UserWarning, match="1 rows left out"):
        assert from_tape(path) == from_library(path)
    assert asked(kept, "stocks/SPY/cumulative", minutes=240)["points"][0]["netVolume"] == 5
    with pytest.raises(RowError, match=r"x\.csv: row 1: price x size is beyond"):
        flowtape.read(path, strict=True)
    with pytest.raises(UsageError, match=r"row 1: .*price x size is beyond a million million USD"):
        conform(pl.DataFrame({
            "ts": [AT], "asset": ["stock"], "symbol": ["SPY"], "root": ["SPY"], "price": [1e7], "size": [2147483647.0],
            "condition": ["unknown"], "venue": ["X"], "seq": [1],
        }))  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_finer_size_is_rounded_and_counted(kept, tmp_path, kind):
    sizes = ["12.3456", "0.00005", "0.00015", "7", "0.99994999"]
    frame = pl.DataFrame({"ts": [T0 + n for n in range(5)], "symbol": ["SPY"] * 5, "price": [1.5] * 5,
                          "size": sizes, "seq": list(range(1, 6))})  # fmt: skip
    path = tmp_path / f"x.{kind}"
    if kind == "csv":
        frame.write_csv(path)
    else:
        frame.with_columns(pl.col("size").cast(pl.Float64)).write_parquet(path)
    outcome = kept.take_file(path, "table")
    assert outcome.notes == {ROUNDED: 2}
    assert [one.row for one in outcome.first] == [2]
    with pytest.warns(UserWarning, match="1 rows left out"):
        prints = flowtape.read(path)
    assert sorted(prints["size"]) == [2, 9_999, 70_000, 123_456]


def test_a_fraction_of_a_contract_is_a_bad_row(kept, tmp_path):
    path = tmp_path / "x.csv"
    columns = "ts,asset,root,expiry,right,strike,price,size,seq"
    path.write_text(f"{columns}\n{T0},option,SPY,2026-03-20,C,600,1.5,2.5,1\n{T0},stock,SPY,,,,600,2.5,2\n")
    outcome = kept.take_file(path, "table")
    assert [(one.row, one.reason) for one in outcome.first] == [
        (1, "size is not a whole number of contracts: '2.5'")
    ]
    assert outcome.added == 1


PRICES = [
    # price, flags: 1 may set high and low, 2 may set open and close
    (12_000, 1), (15_000, 0), (11_000, 3), (10_000, 2), (14_000, 0),
]  # fmt: skip


@pytest.mark.parametrize("cuts", [[5], [1, 2, 3, 4, 5], [3, 5]])
def test_only_eligible_prints_set_a_stock_s_prices(kept, cuts):
    tape = [
        stock(ts=T0 + n * SECOND, seq=n, price=price, price_flags=flags)
        for n, (price, flags) in enumerate(PRICES)
    ]
    places = [0, *cuts]
    for low, high in zip(places, cuts, strict=False):
        kept.take(tape[low:high])
    for body in (
        asked(kept, "stocks/SPY/history", minutes=240)["buckets"][0],
        asked(kept, "stocks/SPY/history", minutes=240, at=AT.isoformat())["buckets"][0],
        asked(kept, "stocks/SPY/bars", resolution="5m", minutes=240)["bars"][0],
    ):
        assert [body[name] for name in ("open", "high", "low", "close")] == [1.1, 1.2, 1.1, 1.0]
        assert body["tradeCount"] == 5
    seconds = asked(kept, "stocks/SPY/bars", resolution="1s", minutes=240)["bars"]
    assert [one["high"] for one in seconds] == [price / 10_000 for price, _ in PRICES]


def test_a_minute_without_eligible_prints_uses_all(kept):
    prices = [12_000, 15_000, 11_000]
    kept.take([stock(ts=T0 + n, seq=n, price=price, price_flags=0) for n, price in enumerate(prices)])
    bucket = asked(kept, "stocks/SPY/history", minutes=240)["buckets"][0]
    assert [bucket[name] for name in ("open", "high", "low", "close")] == [1.2, 1.5, 1.1, 1.1]


def test_a_cancelled_eligible_print_sets_no_price(kept):
    first = stock(seq=1, price=12_000, price_flags=0)
    high = stock(ts=T0 + SECOND, seq=2, price=15_000, price_flags=3)
    cancel = high | {"ts": T0 + 2 * MINUTE, "seq": 3, "condition": "CANC"}
    kept.take([first, high])
    kept.take([cancel])
    now = asked(kept, "stocks/SPY/history", minutes=240)["buckets"]
    before = datetime.fromtimestamp(T0 // 10**9, UTC) + timedelta(minutes=1)
    then = asked(kept, "stocks/SPY/history", minutes=240, at=before.isoformat())["buckets"]
    assert [(one["high"], one["open"]) for one in (*now, *then)] == [(1.2, 1.2), (1.5, 1.5)]


def test_a_report_shows_whole_shares(kept):
    kept.take([stock(size=Fraction(123_456, 10_000))])
    day = read_day(kept.store, "SPY", "stock", datetime.fromtimestamp(T0 // 10**9, UTC).date(), None)
    assert [one.size for one in day.largest] == [12]


@pytest.mark.skipif(ENGINE != "duckdb", reason="views of the embedded store")
def test_the_views_show_shares_and_dollars(tmp_path):
    kept = Kept(tmp_path, NOW)
    kept.take([stock(size=Fraction(123_456, 10_000), price=13_000), row(symbol="SPX", root="SPX", size=3)])
    kept.close()
    with duckdb.connect(str(tmp_path / "x.duckdb"), read_only=True) as store:
        sizes = store.execute("SELECT size, bid_size FROM prints ORDER BY asset").fetchall()
        bars = "SELECT buy_volume, buy_notional, mid_notional FROM minutes ORDER BY asset"
        sums = store.execute(bars).fetchall()
    assert sizes == [(Decimal("3.0000"), Decimal("10.0000")), (Decimal("12.3456"), Decimal("10.0000"))]
    assert sums == [(0, 0, 3 * 12_000), (Decimal("12.3456"), Decimal("12.3456") * 13_000, 0)]


@given(st.lists(st.integers(-(10**7), 10**7), min_size=1, max_size=30), st.integers(0, 8), st.integers(0, 3))
def test_stream_changes_match_rounded_sums(nets, dropped, fresh):
    chance = random.Random(len(nets))
    later = [*nets[dropped:], *(chance.randrange(-(10**6), 10**6) for _ in range(fresh))]
    before, now = _body(nets, 0), _body(later, dropped)
    made = msgspec.to_builtins(change(line_of(before), line_of(now), now))
    before, now = msgspec.to_builtins(before), msgspec.to_builtins(now)
    kept = {
        point["ts"]: point | {"cumulative": point["cumulative"] + made["shift"]}
        for point in before["points"]
        if made["first"] is not None and point["ts"] >= made["first"]
    }
    for ts in made.get("gone", ()):
        del kept[ts]
    kept |= {point["ts"]: point for point in made["points"]}
    assert [kept[ts] for ts in sorted(kept)] == now["points"]


def _body(nets, first):
    """Return a cumulative body for minutes whose net volumes are in 1/10,000 share."""
    running = list(itertools.accumulate(nets, initial=0))[1:]
    ends = [datetime.fromtimestamp((first + place) * 60, UTC) for place in range(len(nets))]
    columns = {
        "ts": [ts.strftime("%Y-%m-%dT%H:%M:%SZ") for ts in ends],
        "net_volume": [round(Fraction(net, 10_000)) for net in nets],
        "cumulative": [round(Fraction(total, 10_000)) for total in running],
    }
    rows = Rows(CumulativePoint, columns)
    return Cumulative(symbol="SPY", minutes=240, count=len(rows), points=rows)
