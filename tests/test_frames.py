"""Frames of a caller become prints: clear types are converted, others refused by column, row and value."""

import math
import re
from datetime import UTC, date, datetime
from decimal import Decimal

import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowtape
from flowtape.errors import UsageError
from flowtape.model.columns import NAIVE
from flowtape.model.prints import OUT_OF_RANGE, SCHEMA, check, conform
from flowtape.pipeline.ingestor import Ingestor
from flowtape.storage import open_store

OPEN = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
ROW = {
    "ts": OPEN, "asset": "option", "symbol": "SPY", "root": "SPY", "expiry": date(2026, 3, 20), "right": "C",
    "strike": 500.0, "price": 5.99, "size": 3, "bid": 5.90, "ask": 6.02, "condition": "AUTO", "venue": "C", "seq": 1,
}  # fmt: skip
"""A print at 5.99 in 5.90/6.02: a buy."""


def frame(rows: int = 3, **changed: object) -> pl.DataFrame:
    """Return a frame of rows that differ in `seq`, with columns replaced by a series or one value."""
    columns = {name: [value] * rows for name, value in ROW.items()} | {"seq": list(range(1, rows + 1))}
    whole = {
        name: value if isinstance(value, list | pl.Series) else [value] * rows
        for name, value in changed.items()
    }
    return pl.DataFrame(columns | whole, strict=False)


def net(prints: object) -> int:
    """Return the net volume of a frame, from the library."""
    line = flowtape.cumulative(flowtape.minutes(flowtape.sign(prints)), "spy")
    return line["net_volume"].sum()


MONEY = pl.col("strike", "price", "bid", "ask")
WAYS = {
    "floats": lambda made: made,
    "lazy": lambda made: made.lazy(),
    "pandas": lambda made: made.to_pandas(),
    "pandas of pyarrow": lambda made: made.to_pandas(use_pyarrow_extension_array=True),
    "pandas with objects": lambda made: made.to_pandas().astype({"right": object, "condition": object}),
    "arrow": lambda made: made.to_arrow(),
    "float32": lambda made: made.with_columns(MONEY.cast(pl.Float32)),
    "decimals": lambda made: made.with_columns(MONEY.cast(pl.String).cast(pl.Decimal(12, 2))),
    "price units": lambda made: made.with_columns((MONEY * 10_000).round().cast(pl.Int32)),
    "lower case": lambda made: made.with_columns(pl.col(pl.String).str.to_lowercase()),
    "categories": lambda made: made.with_columns(pl.col(pl.String).cast(pl.Categorical)),
    "another zone": lambda made: made.with_columns(
        pl.col("ts").dt.convert_time_zone("America/New_York").dt.cast_time_unit("ms")
    ),
    "expiry at midnight": lambda made: made.with_columns(
        pl.col("expiry").cast(pl.Datetime("us")).dt.replace_time_zone("Europe/Berlin")
    ),
    "words": lambda made: made.with_columns(right=pl.lit("call"), asset=pl.lit("Option")),
    "whole floats": lambda made: made.with_columns(pl.col("size", "seq").cast(pl.Float64)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_clear_type_gives_the_same_answer(way: str) -> None:
    given_ = WAYS[way](frame())
    prints = conform(given_)
    assert dict(prints.schema) == SCHEMA
    assert prints.row(0, named=True) | {"quote_class": "own"} == {
        **dict.fromkeys(SCHEMA), **ROW, "strike": 5_000_000, "price": 59_900, "bid": 59_000, "ask": 60_200,
        "venue": "C", "copy": 1, "price_flags": 3, "quote_class": "own",
        **{name: prints[name][0] for name in SCHEMA if name not in (*ROW, "copy", "price_flags", "quote_class")},
    }  # fmt: skip
    assert net(given_) == 9


def test_further_columns_of_a_frame_are_kept() -> None:
    signed = flowtape.sign(frame().with_columns(mine=pl.Series([7, 8, 9])).to_pandas())
    assert signed["mine"].to_list() == [7, 8, 9]
    assert signed["side"].to_list() == ["buy"] * 3


REFUSED = [
    ("price", [5.99, None, 5.99], "column price, row 2: None: a print needs it"),
    ("price", [5.99, 5.99, math.nan], "column price, row 3: nan: a print needs it"),
    ("price", [5.99, -0.01, 5.99], "column price, row 2: -0.01: is not a price from 0 to 10,000,000 USD"),
    ("price", [5.99, math.inf, 5.99], "column price, row 2: inf: is not a price of at most 10,000,000 USD"),
    ("price", ["5.99"] * 3, "column price: text is not a price: integers of 1/10,000 USD, or floats or decimals"),
    ("price", [True] * 3, "column price: of type Boolean is not a price"),
    ("bid", [5.9, 5.9, 1e9], "column bid, row 3: 1000000000.0: is not a price of at most 10,000,000 USD"),
    ("bid", ["5.9"] * 3, "column bid: text is not a price"),
    ("bid", [5, 5, 5], "column bid: integers beside a price in USD; give it the type of price"),
    ("strike", [500, 500, 500], "column strike: integers beside a price in USD; give it the type of price"),
    ("size", [3, 2.5, 3], "column size, row 2: 2.5: is not a whole number"),
    ("size", [3, -7, 3], "column size, row 2: -7: is not a size from 1 to 2,147,483,647"),
    ("size", [3, 0, 3], "column size, row 2: 0: is not a size"),
    ("size", [3, 3, None], "column size, row 3: None: a print needs it"),
    ("size", ["3"] * 3, "column size: text is not a number"),
    ("size", pl.Series([1, 2**64 - 1, 3], dtype=pl.UInt64), "column size, row 2: 18446744073709551615: is beyond 64"),
    ("strike", [500.0, 0.0, 500.0], "column strike, row 2: 0.0: is not a strike above 0 and below 100,000 USD"),
    ("strike", [500.0, 500.0004, 500.0], "column strike, row 2: 500.0004: is not a multiple of 0.001 USD"),
    ("strike", [500.0, None, 500.0], "column strike, row 2: None: an option needs it"),
    ("right", ["C", "X", "C"], "column right, row 2: 'X': is neither call nor put"),
    ("right", ["C", None, "C"], "column right, row 2: None: an option needs it"),
    ("asset", ["option", "future", "option"], "column asset, row 2: 'future': is neither option nor stock"),
    ("condition", ["AUTO", "AUTO", "zz"], "column condition, row 3: 'zz': is not a sale condition"),
    ("symbol", ["SPY", "S" * 33, "SPY"], f"column symbol, row 2: '{'S' * 33}': does not match"),
    ("symbol", ["SPY", "S\nP", "SPY"], r"column symbol, row 2: 'S\nP': does not match"),
    ("symbol", ["SPY", " ", "SPY"], "column symbol, row 2: ' ': does not match"),
    ("symbol", ["SPY", None, "SPY"], "column symbol, row 2: None: a print needs it"),
    ("symbol", [1, 2, 3], "column symbol: of type Int64 is not a name: give it as text"),
    ("venue", ["C", "\t=1+1", "C" * 33], "column venue, row 3: 'CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC': does not match"),
    ("expiry", ["2026-03-20"] * 3, "column expiry: text is not a date; give it that type, as with .str.to_date()"),
    ("ts", [OPEN.replace(tzinfo=None)] * 3, f"column ts: {NAIVE}"),
    ("ts", ["2026-03-02T14:30:00Z"] * 3, "column ts: text is not a time: give it as date-time with a time zone"),
    ("ts", [1_772_461_800_000_000_000] * 3, "column ts: of type Int64 is not a time"),
    ("ts", [OPEN, None, OPEN], "column ts, row 2: None: a print needs it"),
    ("ts", [OPEN, OPEN.replace(year=2610), OPEN], f"column ts, row 2: '2610-03-02T14:30:00+00:00': {OUT_OF_RANGE}"),
    ("ts", [OPEN, OPEN.replace(year=1985), OPEN], f"column ts, row 2: '1985-03-02T14:30:00+00:00': {OUT_OF_RANGE}"),
    ("quote_ts", [OPEN, OPEN, OPEN.replace(year=2200)], "column quote_ts, row 3: '2200-03-02T14:30:00+00:00'"),
    ("bid_size", [1, -1, 1], "column bid_size, row 2: -1: is not a whole number from 0 up"),
    ("seq", [1, 2, 2.5], "column seq, row 3: 2.5: is not a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("column", "values", "message"), REFUSED)
@pytest.mark.parametrize("call", [conform, flowtape.sign])
def test_unclear_values_are_refused_by_column_and_row(column, values, message, call) -> None:
    with pytest.raises(UsageError, match=re.escape(f"prints: {message}")):
        call(frame(**{column: values}))


def test_an_ingest_takes_only_values_within_bounds(tmp_path) -> None:
    store = open_store(str(tmp_path / "flow.duckdb"))
    ingestor = Ingestor(store)
    prints = conform(frame())
    with pytest.raises(UsageError, match="prints: column size, row 2: -7: is not a size"):
        ingestor.take(prints.with_columns(size=pl.Series([3, -7, 3])), "mine")
    with pytest.raises(UsageError, match="prints: column price, row 3: None: a print needs it"):
        ingestor.take(prints.with_columns(price=pl.Series([1, 1, None])), "mine")
    assert ingestor.take(frame().to_pandas(), "mine").added == 3
    assert ingestor.take(frame(symbol="qqq", root="qqq").lazy(), "mine").added == 3
    assert store.catalog.find("option", "QQQ").len() == 1
    store.close()


def test_a_stock_needs_no_contract_and_loses_one() -> None:
    prints = conform(frame(asset="stock"))
    assert prints.select("expiry", "right", "strike").null_count().row(0) == (3, 3, 3)
    check(prints)
    with pytest.raises(UsageError, match="column strike, row 1: 10000: a stock has none"):
        check(prints.with_columns(strike=pl.lit(10_000, pl.Int64)))


def test_finer_prices_are_rounded_with_a_warning() -> None:
    given_ = frame(price=[5.99, 0.25015, 0.25016], bid=[5.9, 0.2501, 0.2501], ask=[6.02, 0.2502, 0.2502])
    with pytest.warns(UserWarning, match="1/10,000 USD") as told:
        signed = flowtape.sign(given_)
    assert signed["side"].to_list() == ["buy", "mid", "buy"]
    assert sorted(str(one.message) for one in told) == [
        "prices rounded to 1/10,000 USD: 2",
        "quotes left out: rounded to 1/10,000 USD, they would give a wrong side: 1",
    ]


def test_prints_survive_pandas_with_unknown_quotes() -> None:
    prints = conform(frame(bid=[5.9, None, 5.9], ask=[6.02, 6.02, None]))
    pandas = prints.to_pandas()
    assert pandas["bid"].dtype == float
    assert conform(pandas).equals(prints)
    with pytest.raises(UsageError, match=r"column bid, row 1: 5\.9: is not a whole number of 1/10,000 USD"):
        conform(pandas.assign(bid=5.9))


def test_invalid_pandas_columns_are_named() -> None:
    given_ = frame().to_pandas()
    with pytest.raises(
        UsageError, match=r"prints lack the column ts; its index has it: call reset_index\(\)"
    ):
        conform(given_.set_index("ts"))
    mixed = given_.assign(size=pd.Series([1, "two", 3], dtype=object))
    with pytest.raises(UsageError, match="prints: column size: values of mixed types"):
        conform(mixed)
    with pytest.raises(UsageError, match="two columns are called 'size'"):
        conform(pd.concat([given_, given_[["size"]]], axis=1))
    for other in (None, [1, 2], {"ts": []}, "tape.csv"):
        with pytest.raises(
            UsageError, match=f"expected a Polars or pandas frame, not {type(other).__name__}"
        ):
            flowtape.sign(other)


def test_sides_and_bars_are_checked() -> None:
    signed = flowtape.sign(frame())
    bars = flowtape.minutes(signed.with_columns(side=pl.lit("BUY")).to_pandas())
    with pytest.raises(UsageError, match="column side, row 1: 'bought': is no side"):
        flowtape.minutes(signed.with_columns(side=pl.lit("bought")))
    with pytest.raises(UsageError, match="column side, row 1: None: a signed print needs it"):
        flowtape.minutes(signed.with_columns(side=pl.lit(None)))
    for wrong, message in (
        (
            bars.drop("mid_volume", "low"),
            r"bars lack the column mid_volume, low; minutes\(signed\) makes them",
        ),
        (bars.with_columns(pl.col("minute").dt.replace_time_zone(None)), "column minute: has no time zone"),
        (bars.with_columns(buy_volume=pl.lit("x")), "column buy_volume: text is not a number"),
        (bars.with_columns(buy_volume=pl.lit(2.5)), "column buy_volume, row 1: 2.5: is not a whole number"),
    ):
        with pytest.raises(UsageError, match=message):
            flowtape.cumulative(wrong, "SPY")
    for changed, message in (
        ({"minutes": 0}, "minutes: 0 is not a whole number"),
        ({"minutes": 2.5}, "minutes: 2.5 is not a whole number"),
        ({"asset": "Option"}, "asset: 'Option' is neither option nor stock"),
    ):
        with pytest.raises(UsageError, match=message):
            flowtape.cumulative(bars, "SPY", **changed)
    assert flowtape.cumulative(bars.to_pandas(), "spy")["cumulative"].to_list() == [9]


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**64), 2**64), st.floats(), st.text(max_size=40),
    st.decimals(allow_nan=False, allow_infinity=False, places=3), st.dates(), st.datetimes(),
    st.datetimes(timezones=st.timezones()), st.sampled_from(["C", "put", "SPY", "option", "AUTO", 5.99, 1, OPEN]),
    st.lists(st.integers(), max_size=2), st.binary(max_size=4),
)  # fmt: skip


def made_or_refused(given_: object) -> pl.DataFrame | str:
    try:
        return conform(given_)
    except UsageError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore:.*1.10,000 USD")
@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*SCHEMA]), st.lists(VALUES, min_size=3, max_size=3), st.booleans())
def test_every_column_is_converted_or_refused(column: str, values: list[object], pandas: bool) -> None:
    try:
        given_ = frame(**{column: pl.Series(values, strict=False)})
        given_ = given_.to_pandas() if pandas else given_
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return  # Polars itself cannot hold the column.
    made = made_or_refused(given_)
    if isinstance(made, str):
        # An integer price requires integers in the other prices too.
        assert f"column {column}" in made or (column == "price" and "as price is" in made)
        return
    assert dict(made.schema) == SCHEMA
    check(made)
    assert made.select("ts", "price", "size", "symbol", "seq").null_count().sum_horizontal().item() == 0


def test_long_decimals_round_like_floats() -> None:
    made = frame(
        price=pl.Series([Decimal("1.25005"), Decimal("1.25015"), Decimal(1)], dtype=pl.Decimal(20, 6))
    )
    with pytest.warns(UserWarning, match="prices rounded to 1/10,000 USD: 2"):
        assert conform(made)["price"].to_list() == [12_500, 12_502, 10_000]
