import hashlib
import subprocess
import sys
from dataclasses import replace
from datetime import date, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtape.model.conditions import family
from flowtape.model.prints import IDENTITY, NEW_YORK, SCHEMA, SIZE_SCALE, SIZES, conform
from flowtape.orderflow.cancels import removals
from flowtape.simulation.market import Market
from flowtape.simulation.rows import STOCK_VENUES, TAPE_SCHEMA

DAY = date(2026, 6, 3)
SMALL = Market(seed=3, prints_per_day=12_000, stock_prints_per_day=8_000)
FACILITIES = ["FINN", "FINY", "FINC"]
QUOTE = ["bid", "ask", "bid_size", "ask_size", "quote_ts"]
CONTRACT = ["expiry", "right", "strike", "underlying"]


def session(market: Market, day: date = DAY) -> pl.DataFrame:
    bounds = market.session(day)
    assert bounds is not None
    return pl.concat(market.prints(*bounds))


def stocks_of(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("asset") == "stock")


def options_of(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("asset") == "option")


def share(frame: pl.DataFrame, what: pl.Expr) -> float:
    return float(frame.select(what.mean()).item())


@pytest.fixture(scope="module")
def both() -> pl.DataFrame:
    """Return a default session of options and stocks."""
    return session(Market())


@pytest.fixture(scope="module")
def stocks(both: pl.DataFrame) -> pl.DataFrame:
    """Return the stocks' prints, sizes in shares."""
    return stocks_of(both).with_columns(pl.col(SIZES) // SIZE_SCALE["stock"])


@pytest.fixture(scope="module")
def quoted(stocks: pl.DataFrame) -> pl.DataFrame:
    return stocks.filter(pl.col("bid") < pl.col("ask"))


@pytest.fixture(scope="module")
def small() -> pl.DataFrame:
    return session(SMALL)


# --- properties of every tape


def test_each_asset_has_its_own_number_of_rows(both: pl.DataFrame) -> None:
    assert dict(both.schema) == TAPE_SCHEMA
    for asset in (options_of(both), stocks_of(both)):
        assert asset["seq"].equals(pl.int_range(1, 400_001, eager=True).alias("seq"))


def test_identities_are_unique_and_prints_conform(both: pl.DataFrame) -> None:
    assert both.select(pl.struct(IDENTITY).is_duplicated().sum()).item() == 0
    assert conform(both).equals(both.select(list(SCHEMA)))


def test_a_stock_has_no_contract_and_is_no_index(stocks: pl.DataFrame) -> None:
    assert stocks.select(pl.col(CONTRACT).is_null().all()).row(0) == (True,) * 4
    assert stocks.drop(*CONTRACT, *QUOTE, "quote_seq").null_count().sum_horizontal().item() == 0
    names = stocks.select(pl.col("symbol", "root").cast(pl.String))
    assert names["symbol"].equals(names["root"].alias("symbol"))
    assert names["symbol"].n_unique() == 37
    assert not {"SPX", "VIX", "RUT"} & set(names["symbol"])


def test_every_row_is_a_valid_print(stocks: pl.DataFrame) -> None:
    opens, closes = Market().session(DAY) or (None, None)
    possible = {
        "price": pl.col("price") >= 10_000,
        "size": pl.col("size").is_between(1, 200_000),
        "cents": pl.col("bid").is_null() | ((pl.col("bid") % 100 == 0) & (pl.col("ask") % 100 == 0)),
        "depth": pl.col("bid").is_null() | (pl.min_horizontal("bid_size", "ask_size") >= 100),
        "quote first": pl.col("quote_ts").is_null() | (pl.col("quote_ts") < pl.col("ts")),
        "session": pl.col("ts").is_between(opens, closes, closed="left"),
        "true side": pl.col("true_side") != "mid",
        "venue": pl.col("venue").cast(pl.String).is_in(list(STOCK_VENUES)),
    }
    wrong = stocks.select((~expr).sum().alias(name) for name, expr in possible.items())
    assert wrong.sum_horizontal().item() == 0, wrong
    assert stocks.select(pl.col(QUOTE).is_null()).n_unique() == 2  # all five are known, or none is
    assert stocks["venue"].n_unique() == len(STOCK_VENUES)


# --- realism


def test_prices_relative_to_the_quote_are_realistic(quoted: pl.DataFrame) -> None:
    price, bid, ask = pl.col("price"), pl.col("bid"), pl.col("ask")
    assert share(quoted, price == bid) == pytest.approx(0.45, abs=0.015)
    assert share(quoted, price == ask) == pytest.approx(0.43, abs=0.015)
    assert share(quoted, 2 * price == bid + ask) == pytest.approx(0.07, abs=0.01)
    assert 0.001 < share(quoted, (price < bid) | (price > ask)) < 0.005


def test_only_a_reporting_facility_prints_between_half_cents(quoted: pl.DataFrame) -> None:
    improved = quoted.filter(pl.col("price") % 50 != 0)
    assert improved.height / quoted.height == pytest.approx(0.05, abs=0.01)
    assert improved["venue"].cast(pl.String).is_in(FACILITIES).all()
    within = improved.filter(pl.col("price").is_between("bid", "ask"))
    better = within.select(
        pl.min_horizontal(pl.col("price") - pl.col("bid"), pl.col("ask") - pl.col("price"))
    )
    assert better.to_series().is_between(1, 49).all()
    facilities = quoted["venue"].cast(pl.String).is_in(FACILITIES).mean()
    assert facilities == pytest.approx(0.47, abs=0.03)


def test_a_few_quotes_are_missing_crossed_or_locked(stocks: pl.DataFrame) -> None:
    assert share(stocks, pl.col("bid").is_null()) == pytest.approx(0.002, abs=0.0007)
    assert share(stocks, pl.col("bid") > pl.col("ask")) == pytest.approx(0.002, abs=0.0007)
    assert share(stocks, pl.col("bid") == pl.col("ask")) == pytest.approx(0.001, abs=0.0005)


def test_spreads_are_a_cent_or_a_few(quoted: pl.DataFrame) -> None:
    spread = pl.col("ask") - pl.col("bid")
    by_name = dict(quoted.group_by(pl.col("symbol").cast(pl.String)).agg(spread.median()).iter_rows())
    assert (by_name["SPY"], by_name["F"], by_name["AAPL"]) == (100, 100, 100)
    assert 100 < by_name["TSLA"] <= 500
    assert max(by_name.values()) <= 1_000


def test_sizes_are_odd_and_round_lots_with_a_heavy_tail(stocks: pl.DataFrame) -> None:
    size = pl.col("size")
    assert share(stocks, size < 100) == pytest.approx(0.55, abs=0.01)
    assert share(stocks, size % 100 == 0) == pytest.approx(0.40, abs=0.03)
    assert share(stocks, size == 100) > 0.2
    assert 0.0005 < share(stocks, size >= 10_000) < 0.002
    assert stocks["size"].max() > 50_000
    blocks = stocks.filter(size >= 10_000)
    assert blocks["venue"].unique().to_list() == ["FINN"]


def test_quotes_are_young_with_a_long_tail(stocks: pl.DataFrame) -> None:
    age = stocks.select((pl.col("ts") - pl.col("quote_ts")).dt.total_microseconds()).to_series()
    assert 5_000 < age.median() < 20_000
    assert age.quantile(0.99) > 1_000_000


def test_a_day_is_busy_at_its_open_and_close(stocks: pl.DataFrame) -> None:
    halves = stocks.group_by(pl.col("ts").dt.truncate("30m")).len().sort("ts")["len"].to_list()
    assert len(halves) == 13
    assert halves.index(min(halves)) in (6, 7, 8)
    assert halves[0] > 2.5 * min(halves)
    assert halves[-1] > 1.7 * min(halves)


def test_conditions_are_regular_late_or_cancels(stocks: pl.DataFrame) -> None:
    shares = dict(stocks["condition"].cast(pl.String).value_counts(normalize=True).iter_rows())
    assert set(shares) == {"STK_REGULAR", "STK_SOLD", "CANC"}
    assert shares["STK_SOLD"] == pytest.approx(0.0014, abs=0.0006)
    assert shares["CANC"] == pytest.approx(0.0007, abs=0.0003)


@pytest.mark.parametrize("tape", ["both", "stocks"])
def test_rows_are_in_order_of_report(tape: str, request: pytest.FixtureRequest) -> None:
    frame: pl.DataFrame = request.getfixturevalue(tape)
    behind = frame.with_columns(behind=pl.col("ts").cum_max() - pl.col("ts"))
    late = behind.filter(family() == "late")
    assert late["behind"].dt.total_seconds().median() > 10
    assert share(behind.filter(family() != "late"), pl.col("behind") > timedelta(seconds=1)) == 0
    assert share(behind, pl.col("behind") > timedelta(0)) > 0.003


def test_each_cancel_has_its_own_earlier_print(both: pl.DataFrame, stocks: pl.DataFrame) -> None:
    cancels = stocks.filter(family() == "cancel")
    alike = ["symbol", "size", "price", "venue", *QUOTE]
    found = stocks.filter(family() != "cancel").join(cancels, on=alike, nulls_equal=True)
    assert found.filter(pl.col("ts") < pl.col("ts_right"))["seq_right"].n_unique() == cancels.height > 100
    assert removals(stocks).height == cancels.height
    assert removals(both).height == both.select((family() == "cancel").sum()).item()


def test_true_and_quoted_sides_nearly_always_agree(quoted: pl.DataFrame) -> None:
    at_ask, at_bid = pl.col("price") == pl.col("ask"), pl.col("price") == pl.col("bid")
    agreed = share(quoted.filter(at_ask | at_bid), at_ask == (pl.col("true_side") == "buy"))
    assert 0.96 < agreed < 0.999


def test_fills_of_a_sweep_print_together(stocks: pl.DataFrame) -> None:
    fills = stocks.group_by("ts", "symbol").agg(pl.len(), pl.col("bid", "true_side").n_unique())
    twice = fills.filter(pl.col("len") == 2)
    assert 0.15 < 2 * twice.height / stocks.height < 0.35
    assert share(twice, pl.col("true_side") == 1) == 1
    assert share(twice, pl.col("bid") == 1) > 0.98


# --- the same market as the options'


def test_stock_quotes_surround_the_options_underlying_price(both: pl.DataFrame) -> None:
    # A cancel repeats the quote of the print it cancels.
    by_time = both.filter(family() != "cancel").sort("ts").with_columns(pl.col("symbol").cast(pl.String))
    quotes = stocks_of(by_time).filter(pl.col("bid") < pl.col("ask")).select("ts", "symbol", "bid", "ask")
    options = options_of(by_time).select("ts", "symbol", "underlying")
    met = options.join_asof(
        quotes, on="ts", by="symbol", strategy="nearest", tolerance="10ms", check_sortedness=False
    ).drop_nulls()
    off = (pl.col("bid") + pl.col("ask") - 2 * pl.col("underlying")).abs() / 2
    assert met.height > 3_000
    assert met["symbol"].n_unique() > 20
    assert met.select((off <= pl.col("ask") - pl.col("bid")).all()).item()


def test_stocks_are_bought_when_their_options_are(both: pl.DataFrame) -> None:
    odds = (
        both.filter(pl.col("symbol") == "SPY")
        .group_by("asset", pl.col("ts").dt.truncate("10m"))
        .agg((pl.col("true_side") == "buy").mean())
        .sort("ts")
    )
    options, stocks = (part(odds)["true_side"].to_numpy() for part in (options_of, stocks_of))
    assert np.corrcoef(options, stocks)[0, 1] > 0.7
    assert 0.0 < (stocks - options).mean() < 0.06


@pytest.mark.parametrize("count", [0, 1, 5_000])
def test_one_asset_does_not_change_the_other_s_rows(small: pl.DataFrame, count: int) -> None:
    options = session(replace(SMALL, stock_prints_per_day=count))
    assert options_of(options).equals(options_of(small))
    assert stocks_of(options).height == count
    stocks = session(replace(SMALL, prints_per_day=count))
    assert stocks_of(stocks).equals(stocks_of(small))
    assert options_of(stocks).height == count


def test_thin_names_trade_too() -> None:
    wide = session(Market(underlyings=5_000, prints_per_day=0, stock_prints_per_day=200_000))
    names = wide["symbol"].cast(pl.String).value_counts(sort=True)
    assert names.height > 4_500
    assert names["symbol"][:2].to_list() == ["SPY", "QQQ"]
    spread = wide.filter(pl.col("bid") < pl.col("ask")).select(
        2 * (pl.col("ask") - pl.col("bid")) / (pl.col("ask") + pl.col("bid"))
    )
    assert 0 < spread.to_series().median() < spread.to_series().max() < 0.02


# --- a pure function of seed and time


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, 23_400 * 10**6), max_size=6), rows=st.sampled_from([700, 7_777, 250_000]))
def test_pieces_of_a_day_add_up_to_it(small: pl.DataFrame, cuts: list[int], rows: int) -> None:
    opens = datetime(2026, 6, 3, 9, 30, tzinfo=NEW_YORK)
    closes = opens.replace(hour=16, minute=0)
    bounds = [opens, *(opens + timedelta(microseconds=cut) for cut in sorted(cuts)), closes]
    pieces = [
        frame for start, end in pairwise(bounds)
        for frame in SMALL.prints(start, end, batch_rows=rows)
    ]  # fmt: skip
    assert all(0 < piece.height <= rows for piece in pieces)
    assert pl.concat(pieces).equals(small)


def test_a_seed_gives_the_same_tape_in_another_process(small: pl.DataFrame) -> None:
    code = (
        "import hashlib, polars as pl; from datetime import date; from flowtape.simulation.tape import Market;"
        "market = Market(seed=3, prints_per_day=12_000, stock_prints_per_day=8_000);"
        "day = market.session(date(2026, 6, 3));"
        "print(hashlib.sha256(pl.concat(market.prints(*day)).write_csv().encode()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(small.write_csv().encode()).hexdigest()


def test_another_seed_or_day_is_another_tape(small: pl.DataFrame) -> None:
    for other in (session(replace(SMALL, seed=4)), session(SMALL, DAY + timedelta(days=1))):
        assert stocks_of(other).height == 8_000
        assert not stocks_of(other)["price"].equals(stocks_of(small)["price"])
