"""Duplicates and equal prints are told apart, in any order of rows and files."""

import itertools
from collections import Counter
from contextlib import closing
from datetime import date

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import flowtape
from flowtape.errors import TapeError
from flowtape.model.prints import IDENTITY, conform
from flowtape.orderflow.identity import Copies
from flowtape.pipeline.ingest import Request
from flowtape.pipeline.ingest import ingest as run_ingest
from flowtape.pipeline.ingestor import Ingestor
from stores import every_print, examples, make_store
from tapes import T0, frame, row

HEADER = "ts,asset,symbol,root,expiry,right,strike,price,size,bid,ask,condition,venue"
TRADES = [
    f"2026-05-12T14:00:00.123Z,option,SPY,SPY,2026-05-15,C,500,{price},{size},1.00,1.10,AUTO,C"
    for price, size in (("1.10", 10), ("1.05", 20), ("1.00", 40))
]
"""At one instant and venue, without a sequence: bought 10, 20 in the middle, sold 40."""
KEPT = (
    *IDENTITY,
    "bid",
    "ask",
    "bid_size",
    "ask_size",
    "quote_ts",
    "quote_class",
    "underlying",
    "removed_at",
)


@pytest.fixture
def csv(tmp_path):
    numbers = itertools.count()

    def write(lines, header=HEADER):
        path = tmp_path / f"{next(numbers)}.csv"
        path.write_text("\n".join([header, *lines]) + "\n")
        return path

    return write


def ingested(path, files, **options):
    """Return the outcomes of an ingest of files one after another, after a check of the counts."""
    with closing(make_store(path)) as store:
        outcomes = [
            outcome
            for file in files
            for outcome in run_ingest(Ingestor(store), Request(files=[str(file)], **options))
        ]
    for one in outcomes:
        parts = (
            one.added,
            one.duplicates,
            one.replaced_quotes,
            one.corrections,
            one.official,
            one.rejected,
            one.refused,
        )
        assert one.rows == sum(parts), one
    return outcomes


def kept(path):
    with closing(make_store(path)) as store:
        return every_print(store).select(KEPT).sort(IDENTITY)


def sums(path):
    """Return the net volume and the number of trades of a store's minute bars."""
    with closing(make_store(path)) as store:
        store.point()
        bars = store.bars(store.catalog.series["series"], 0, 2**31 - 1)
        found = bars.select(
            net=pl.col("buy_volume").sum() - pl.col("sell_volume").sum(), trades=pl.col("trades").sum()
        )
    return found.row(0)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("files", [1, 2, 3])
def test_three_prints_of_one_instant_are_three_prints(tmp_path, csv, order, files):
    lines = [TRADES[place] for place in order]
    paths = [csv(lines[part::files]) for part in range(files)]
    ingested(tmp_path / "x.duckdb", paths)
    assert sums(tmp_path / "x.duckdb") == (-30, 3)
    bars = flowtape.minutes(flowtape.sign(flowtape.read(paths)))
    line = flowtape.cumulative(bars, "SPY", at=bars["minute"].max().replace(minute=30))
    assert line.select("net_volume", "trade_count").row(0) == (-30, 3)
    ingested(tmp_path / "x.duckdb", paths)
    assert sums(tmp_path / "x.duckdb") == (-30, 3)


def test_equal_rows_count_as_often_as_in_one_file(tmp_path, csv):
    few, many = csv([TRADES[0]] * 2), csv([TRADES[0], TRADES[1]] * 3)
    for place, files in enumerate(([few, many], [many, few], [many, few, many])):
        ingested(tmp_path / f"{place}.duckdb", files)
        assert sums(tmp_path / f"{place}.duckdb") == (30, 6)


def test_rows_of_one_sequence_number_are_one_print(tmp_path, csv):
    lines = [f"{line},7" for line in (TRADES[0], TRADES[0], TRADES[1])]
    [outcome] = ingested(tmp_path / "x.duckdb", [csv(lines, HEADER + ",seq")])
    assert (outcome.added, outcome.duplicates) == (2, 1)
    assert sums(tmp_path / "x.duckdb") == (10, 2)


def test_a_frame_without_copies_is_numbered_like_a_file(csv):
    frame = flowtape.read(csv([TRADES[0]] * 3)).drop("copy")
    bars = flowtape.minutes(flowtape.sign(frame))
    assert bars["trades"].sum() == 3


TRADE = st.tuples(
    st.integers(0, 2), st.sampled_from("AB"), st.sampled_from(["1.00", "1.05", "1.10"]), st.integers(1, 2),
    st.sampled_from(["AUTO", "ISOI", "CANC"]),
)  # fmt: skip


def lines_of(trades, seq=None):
    return [
        f"2026-05-12T14:00:0{second}Z,option,SPY,SPY,2026-05-15,C,500,{price},{size},1.00,1.10,{condition},{venue}"
        + ("" if seq is None else f",{seq[place]}")
        for place, (second, venue, price, size, condition) in enumerate(trades)
    ]


@settings(max_examples=examples(25), deadline=None)
@given(st.lists(TRADE, max_size=14), st.randoms(use_true_random=False), st.integers(1, 4), st.integers(1, 3))
def test_row_order_and_file_splits_do_not_change_answers(tmp_path_factory, trades, chance, files, batch_rows):
    """Equal rows are in one file, because rows without a sequence in two files merge (docs/reference/store.md)."""
    folder = tmp_path_factory.mktemp("orders")
    counts = Counter(trades)
    groups = [[trade] * many for trade, many in counts.items()]

    def write(name, parts):
        path = folder / name
        path.write_text("\n".join([HEADER, *lines_of(parts)]) + "\n")
        return path

    if not trades:
        return
    ingested(folder / "one.duckdb", [write("one.csv", trades)])
    chance.shuffle(groups)
    split = [[trade for group in groups[part::files] for trade in group] for part in range(files)]
    for part in split:
        chance.shuffle(part)
    paths = [write(f"{place}.csv", part) for place, part in enumerate(split) if part]
    ingested(folder / "many.duckdb", [*paths, *paths])
    assert_frame_equal(kept(folder / "many.duckdb"), kept(folder / "one.duckdb"), categorical_as_str=True)
    assert sums(folder / "many.duckdb") == sums(folder / "one.duckdb")


@settings(max_examples=100, deadline=None)
@given(st.lists(TRADE, max_size=40), st.integers(1, 9), st.booleans())
def test_numbers_of_equal_rows_do_not_depend_on_batches(trades, size, in_order):
    rows = sorted(trades) if in_order else trades
    seen, expected = Counter(), []
    for trade in rows:
        seen[trade] += 1
        expected.append(seen[trade])
    if not rows:
        return
    frame = prints_of(rows)
    copies = Copies()
    parts = [copies.number(frame.slice(start, size)) for start in range(0, len(rows), size)]
    assert pl.concat(parts)["copy"].to_list() == expected


def prints_of(trades):
    seconds, venues, prices, sizes, conditions = zip(*trades, strict=True)
    units = [round(float(price) * 10_000) for price in prices]
    base = pl.DataFrame({
        "ts": seconds, "asset": "option", "symbol": "SPY", "root": "SPY", "right": "C", "strike": 5_000_000,
        "price": units, "size": sizes,
        "condition": conditions, "venue": venues,
    })  # fmt: skip
    base = base.with_columns(expiry=date(2026, 5, 15), condition=pl.col("condition").cast(pl.String))
    return conform(base.with_columns((pl.col("ts") * 10**9 + T0).cast(pl.Datetime("ns", "UTC"))))


def test_unnumberable_rows_are_refused():
    frame = prints_of([(second % 3, "A", "1.00", 1, "AUTO") for second in range(30)])
    ordered = frame.sort("ts").with_columns(pl.col("ts") + pl.duration(seconds=pl.int_range(pl.len())))
    copies = Copies("tape.csv", held_rows=10)
    for part in ordered.iter_slices(3):
        assert copies.number(part)["copy"].to_list() == [1] * part.height
    with pytest.raises(TapeError, match=r"tape.csv: .*10 rows.*sort the file by ts"):
        copies.number(ordered.head(1))


MASSIVE = "ticker,conditions,correction,exchange,price,sip_timestamp,size,sequence_number"


def massive(price, correction=0, seq=7, size=100):
    return f"AAPL,,{correction},4,{price},1718373600000000000,{size},{seq}"


@pytest.mark.parametrize(
    ("order", "corrections"),
    [((0, 1), [0, 2]), ((1, 0), [1, 1]), ((0, 1, 0), [0, 2, 1]), ((1, 1, 0), [1, 1, 1])],
)
def test_a_correction_replaces_what_it_corrects(tmp_path, csv, order, corrections):
    files = [
        csv([massive("10.00"), massive("10.00", seq=8)], MASSIVE),
        csv(
            [massive("11.00", correction=1), massive("10.00", correction=12), massive("10.00", seq=8)],
            MASSIVE,
        ),
    ]
    outcomes = ingested(tmp_path / "x.duckdb", [files[place] for place in order])
    found = kept(tmp_path / "x.duckdb")
    assert found.select("seq", "price").rows() == [(7, 110_000), (8, 100_000)]
    assert sums(tmp_path / "x.duckdb")[1] == 2
    assert [outcome.corrections for outcome in outcomes] == corrections


def test_corrections_of_one_frame_stand_alone(csv):
    prints = flowtape.read(csv([massive("10.00"), massive("11.00", correction=1)], MASSIVE))
    bars = flowtape.minutes(flowtape.sign(prints))
    assert bars.select("trades", "high", "low").row(0) == (1, 110_000, 110_000)


@pytest.mark.parametrize("order", [("live", "file"), ("file", "live"), ("live", "file", "live", "file")])
def test_a_vendor_s_file_replaces_its_feed_s_day(tmp_path, order):
    """The feed cuts times to the millisecond, so its rows cannot be matched with those of the file."""
    lots = {
        "live": ("massive:us_options_opra (live)", [row(ts=T0), row(ts=T0 + 10**6)]),
        "file": ("massive:us_options_opra", [row(ts=T0 + 123), row(ts=T0 + 10**6 + 5), row(ts=T0 + 10**7)]),
    }
    with closing(make_store(tmp_path / "x.duckdb")) as store:
        for name in order:
            source, rows = lots[name]
            report = Ingestor(store).take(frame(rows), source)
            assert report.rows == report.added + report.duplicates + report.refused
        assert every_print(store)["ts"].to_physical().to_list() == [T0 + 123, T0 + 10**6 + 5, T0 + 10**7]
        assert store.sources()["source"].to_list() == ["massive:us_options_opra"]
    assert sums(tmp_path / "x.duckdb")[1] == 3
