import hashlib
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtape.errors import UsageError
from flowtape.model.conditions import family
from flowtape.model.prints import NEW_YORK, day_bounds, underlying_of
from flowtape.simulation.chains import expiries
from flowtape.simulation.market import Market
from flowtape.simulation.rows import TAPE_SCHEMA, cancelled

DAY = date(2026, 6, 3)
SMALL = Market(seed=3, prints_per_day=20_000, stock_prints_per_day=0)
ALWAYS = replace(SMALL, hours="always")


def session(market: Market, day: date = DAY) -> pl.DataFrame:
    bounds = market.session(day)
    assert bounds is not None
    return pl.concat(market.prints(*bounds))


@pytest.fixture(scope="module")
def tape() -> pl.DataFrame:
    """Return the options of a session."""
    return session(Market(stock_prints_per_day=0))


@pytest.fixture(scope="module")
def wide() -> pl.DataFrame:
    """Return a session of five thousand underlyings."""
    return session(Market(underlyings=5_000, prints_per_day=1_000_000, stock_prints_per_day=0))


@pytest.fixture(scope="module", params=["tape", "wide"])
def any_tape(request: pytest.FixtureRequest) -> pl.DataFrame:
    found: pl.DataFrame = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def small() -> pl.DataFrame:
    return session(SMALL)


def share(frame: pl.DataFrame, what: pl.Expr) -> float:
    return float(frame.select(what.mean()).item())


# --- properties of every tape


def test_a_tape_has_the_columns_and_rows_requested(any_tape: pl.DataFrame) -> None:
    assert dict(any_tape.schema) == TAPE_SCHEMA
    assert any_tape.height in (400_000, 1_000_000)
    assert any_tape["seq"].equals(pl.int_range(1, any_tape.height + 1, eager=True).alias("seq"))
    known = any_tape.drop("bid", "ask", "bid_size", "ask_size", "quote_ts", "quote_seq")
    assert known.null_count().sum_horizontal().item() == 0
    assert any_tape["source"].unique().to_list() == ["simulated"]
    assert any_tape["asset"].unique().to_list() == ["option"]
    opens, closes = Market().session(DAY) or (None, None)
    assert any_tape.select(pl.col("ts").is_between(opens, closes, closed="left").all()).item()


def test_every_row_is_a_valid_print(any_tape: pl.DataFrame) -> None:
    possible = {
        "price": pl.col("price") >= 100,
        "cents": pl.col("price") % 100 == 0,
        "size": pl.col("size").is_between(1, 20_000),
        "strike": (pl.col("strike") > 0) & (pl.col("strike") % 5_000 == 0),
        "underlying": pl.col("underlying") > 0,
        "bid": pl.col("bid").is_null() | (pl.col("bid") >= 0),
        "ask": pl.col("ask").is_null() | (pl.col("ask") >= 0),
        "quote first": pl.col("quote_ts").is_null() | (pl.col("quote_ts") < pl.col("ts")),
        "expiry": pl.col("expiry").is_between(DAY, DAY + timedelta(days=4 * 366)),
        "true side": pl.col("true_side") != "mid",
    }
    wrong = any_tape.select((~expr).sum().alias(name) for name, expr in possible.items())
    assert wrong.sum_horizontal().item() == 0, wrong
    quotes = any_tape.select(pl.col("bid", "ask", "bid_size", "ask_size", "quote_ts").is_null())
    assert quotes.n_unique() == 2  # all five are known, or none is


def test_symbols_roots_and_venues_are_real_names(any_tape: pl.DataFrame) -> None:
    pairs = any_tape.select(pl.col("symbol", "root").cast(pl.String)).unique()
    assert all(underlying_of(root) == symbol for symbol, root in pairs.iter_rows())
    assert all(name.isalpha() and name.isupper() and len(name) <= 5 for name in pairs["symbol"])
    assert {("SPX", "SPX"), ("SPX", "SPXW"), ("VIX", "VIX"), ("VIX", "VIXW"), ("SPY", "SPY")} <= {
        *pairs.iter_rows()
    }
    assert any_tape["venue"].n_unique() == 18
    index = any_tape.filter(pl.col("symbol").cast(pl.String).is_in(["SPX", "VIX", "RUT"]))
    assert index["venue"].unique().to_list() == ["XCBO"]


# --- realism


def test_conditions_have_realistic_shares(any_tape: pl.DataFrame) -> None:
    shares = dict(any_tape["condition"].cast(pl.String).value_counts(normalize=True).iter_rows())
    assert shares["AUTO"] + shares["ISOI"] == pytest.approx(0.50, abs=0.02)
    assert shares["SLAN"] + shares["SLAI"] == pytest.approx(0.23, abs=0.02)
    families = dict(
        any_tape.select(family().cast(pl.String)).to_series().value_counts(normalize=True).iter_rows()
    )
    assert families["multileg"] == pytest.approx(0.23, abs=0.02)
    assert families["cancel"] == pytest.approx(0.001, abs=0.0003)
    assert families["late"] == pytest.approx(0.0025, abs=0.001)
    for name in ("cross", "floor", "extended", "compression"):
        assert 0 < families[name] < 0.02
    assert 0 < shares["REGULAR"] < 0.02


def test_prices_relative_to_the_quote_are_realistic(any_tape: pl.DataFrame) -> None:
    price, bid, ask = pl.col("price"), pl.col("bid"), pl.col("ask")
    quoted = any_tape.filter(bid < ask)
    assert share(quoted, price == bid) == pytest.approx(0.46, abs=0.025)
    assert share(quoted, price == ask) == pytest.approx(0.42, abs=0.025)
    assert share(quoted, 2 * price == bid + ask) == pytest.approx(0.04, abs=0.015)
    assert 0.0005 < share(quoted, (price < bid) | (price > ask)) < 0.005


def test_a_few_quotes_are_missing_crossed_or_locked(any_tape: pl.DataFrame) -> None:
    assert share(any_tape, pl.col("bid").is_null()) == pytest.approx(0.002, abs=0.0007)
    assert share(any_tape, pl.col("bid") > pl.col("ask")) == pytest.approx(0.002, abs=0.0007)
    assert share(any_tape, pl.col("bid") == pl.col("ask")) == pytest.approx(0.001, abs=0.0005)


def test_spreads_grow_with_price_and_respect_ticks(any_tape: pl.DataFrame) -> None:
    bid, ask = pl.col("bid"), pl.col("ask")
    quoted = any_tape.filter(bid < ask).with_columns(spread=ask - bid)
    by_price = [quoted.filter(bid.is_between(low, high))["spread"].median()
                for low, high in ((0, 10_000), (30_000, 50_000), (200_000, 400_000))]  # fmt: skip
    assert by_price == sorted(by_price)
    assert by_price[0] < by_price[2]
    spy = quoted.filter(pl.col("symbol") == "SPY")
    assert spy["spread"].median() == 100
    spx = quoted.filter(pl.col("symbol") == "SPX")
    assert spx.select(((bid % 500 == 0) & (ask % 500 == 0)).all()).item()
    relative = quoted.filter(bid > 5_000).select(2 * pl.col("spread") / (bid + ask)).to_series()
    assert 0.01 < relative.median() < 0.06


def test_sizes_are_small_with_a_heavy_tail(any_tape: pl.DataFrame) -> None:
    size = any_tape["size"]
    assert 0.4 < share(any_tape, pl.col("size") == 1) < 0.6
    assert 0.85 < share(any_tape, pl.col("size") <= 10) < 0.93
    assert 0.005 < share(any_tape, pl.col("size") >= 100) < 0.03
    assert size.quantile(0.999) >= 500
    assert size.max() >= 5_000


def test_a_day_is_busy_at_its_open_and_close(tape: pl.DataFrame) -> None:
    halves = tape.group_by(pl.col("ts").dt.truncate("30m")).len().sort("ts")["len"].to_list()
    assert len(halves) == 13
    middle = min(halves)
    assert halves.index(middle) in (6, 7, 8)
    assert halves[0] > 2.5 * middle
    assert halves[-1] > 1.7 * middle
    assert halves[:7] == sorted(halves[:7], reverse=True)


def test_few_names_have_most_prints_of_a_small_market(tape: pl.DataFrame) -> None:
    counts = tape["symbol"].cast(pl.String).value_counts(sort=True, normalize=True)
    assert counts.height == 40
    top = dict(counts.head(3).iter_rows())
    assert set(top) == {"SPY", "SPX", "QQQ"}
    assert 0.35 < sum(top.values()) < 0.48


def test_many_names_trade_thinly_in_a_large_market(wide: pl.DataFrame) -> None:
    counts = wide["symbol"].cast(pl.String).value_counts(sort=True)
    assert counts.height == 5_000
    assert 0.15 < counts["count"].head(3).sum() / wide.height < 0.3
    assert counts["count"].median() < 60
    assert "ZAAB" in counts["symbol"]


def test_traded_strikes_and_expiries_are_near(any_tape: pl.DataFrame) -> None:
    away = any_tape.select((pl.col("strike") / pl.col("underlying")).log().abs()).to_series()
    assert away.median() < 0.03
    assert away.quantile(0.99) < 0.7
    call = pl.col("right") == "C"
    assert 0.2 < share(any_tape, (pl.col("strike") < pl.col("underlying")) == call) < 0.4
    assert 0.45 < share(any_tape, call) < 0.6
    days = (pl.col("expiry") - DAY).dt.total_days()
    assert share(any_tape, days <= 7) > 0.4
    assert share(any_tape.filter(pl.col("symbol") == "SPY"), days == 0) > 0.4
    assert share(any_tape, days > 365) < 0.05


def test_an_option_s_price_is_near_or_above_intrinsic_value(tape: pl.DataFrame) -> None:
    gain = pl.col("underlying") - pl.col("strike")
    intrinsic = pl.max_horizontal(0, pl.when(pl.col("right") == "C").then(gain).otherwise(-gain))
    quoted = tape.filter(pl.col("bid") < pl.col("ask"))
    assert share(quoted, pl.col("ask") >= intrinsic) > 0.999


def test_a_chain_has_fixed_strikes_and_the_known_expiries() -> None:
    daily = expiries("daily", date(2026, 6, 3))
    assert [day for day, _ in daily[:3]] == [date(2026, 6, 3), date(2026, 6, 4), date(2026, 6, 5)]
    assert (date(2026, 6, 19), True) in expiries("weekly", date(2026, 6, 3))
    assert (date(2026, 6, 17), True) in expiries("vix", date(2026, 6, 3))
    for kind in ("daily", "index", "vix", "weekly", "monthly"):
        for day in (date(2026, 6, 6), date(2026, 12, 31), date(2028, 2, 29)):
            listed = [found for found, _ in expiries(kind, day)]
            assert len(set(listed)) == 16
            assert all(found >= day and found.weekday() < 5 for found in listed)


def test_prices_are_continuous_across_slices_and_days() -> None:
    spy = session(ALWAYS, DAY).vstack(session(ALWAYS, DAY + timedelta(days=1)))
    spy = spy.filter(pl.col("symbol") == "SPY").sort("ts")
    moves = spy.select(pl.col("underlying").log().diff().abs()).to_series()
    assert moves.max() < 0.004
    assert 0.008 < np.log(spy["underlying"].max() / spy["underlying"].min()) < 0.1


def test_cumulative_flow_has_trends(tape: pl.DataFrame) -> None:
    buys = (
        tape.filter(pl.col("symbol") == "SPY")
        .group_by(pl.col("ts").dt.truncate("10m"))
        .agg((pl.col("true_side") == "buy").mean())
        .sort("ts")["true_side"]
        .to_numpy()
    )
    assert np.corrcoef(buys[1:], buys[:-1])[0, 1] > 0.4
    assert 0.05 < buys.max() - buys.min() < 0.3


def test_true_and_quoted_sides_nearly_always_agree(any_tape: pl.DataFrame) -> None:
    quoted = any_tape.filter(pl.col("bid") < pl.col("ask"))
    at_ask, at_bid = pl.col("price") == pl.col("ask"), pl.col("price") == pl.col("bid")
    agreed = share(quoted.filter(at_ask | at_bid), at_ask == (pl.col("true_side") == "buy"))
    assert 0.96 < agreed < 0.999


def test_each_cancel_has_its_own_earlier_print(any_tape: pl.DataFrame) -> None:
    assert set(any_tape.filter(family() == "cancel")["condition"]) == {"CANC", "CNCL"}
    contract = ["symbol", "root", "expiry", "right", "strike", "size", "price"]
    cancels = any_tape.filter(family() == "cancel").select(*contract, cancelled="ts")
    alike = any_tape.join(cancels, on=contract, how="semi", maintain_order="left")
    step = pl.when(family() == "cancel").then(-1).otherwise(1)
    assert alike.select(step.cum_sum().over(contract).min()).item() >= 0
    pairs = alike.filter(family() != "cancel").join(cancels, on=contract)
    waits = (pairs["cancelled"] - pairs["ts"]).dt.total_seconds()
    assert pairs.filter(pl.col("ts") < pl.col("cancelled")).height >= cancels.height
    assert waits.median() > 60


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=60), st.integers(0, 9))
def test_prints_are_cancelled_once_and_after_their_report(rows: list[tuple[bool, int]], seed: int) -> None:
    places = np.flatnonzero([cancel for cancel, _ in rows])
    reported = np.array([10 * place + delay for place, (_, delay) in enumerate(rows)], dtype=np.int64)
    cancels, targets = cancelled(np.random.default_rng(seed), places, reported)
    assert len(set(targets)) == len(targets) == len(set(cancels))
    assert set(cancels) <= set(places)
    assert not set(targets) & set(places)
    assert (reported[targets] < reported[cancels]).all()


def test_late_prints_are_reported_after_later_prints(any_tape: pl.DataFrame) -> None:
    behind = any_tape.with_columns(behind=pl.col("ts").cum_max() - pl.col("ts"))
    late = behind.filter(family() == "late")
    assert set(late["condition"]) == {"LATE", "OSEQ"}
    assert late["behind"].dt.total_seconds().median() > 10
    assert share(behind.filter(family() != "late"), pl.col("behind") > timedelta(seconds=1)) == 0
    assert share(behind, pl.col("behind") > timedelta(0)) > 0.003


def test_legs_of_a_spread_print_together(tape: pl.DataFrame) -> None:
    legs = tape.filter(pl.col("condition") == "MLET").group_by("ts", "symbol", "size").len()
    assert share(legs, pl.col("len") == 2) > 0.95


# --- a pure function of seed and time


def digest(frame: pl.DataFrame) -> str:
    return hashlib.sha256(frame.write_csv().encode()).hexdigest()


def test_a_seed_gives_the_same_tape_in_another_process(small: pl.DataFrame) -> None:
    code = (
        "import hashlib, polars as pl; from datetime import date; from flowtape.simulation.tape import Market;"
        "market = Market(seed=3, prints_per_day=20_000, stock_prints_per_day=0);"
        "day = market.session(date(2026, 6, 3));"
        "print(hashlib.sha256(pl.concat(market.prints(*day)).write_csv().encode()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(small)


@pytest.mark.parametrize("change", [{"seed": 4}, {"underlyings": 41}, {"prints_per_day": 20_001}])
def test_another_setting_gives_another_tape(small: pl.DataFrame, change: dict[str, int]) -> None:
    other = session(replace(SMALL, **change)).head(20_000)
    assert not other["price"].equals(small["price"])


def test_another_day_is_another_tape(small: pl.DataFrame) -> None:
    other = session(SMALL, DAY + timedelta(days=1))
    assert not other["price"].equals(small["price"])


@settings(max_examples=8, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 23_400 * 10**6), max_size=6), rows=st.sampled_from([1_000, 7_777, 250_000])
)
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


def test_days_can_be_generated_in_any_order(small: pl.DataFrame) -> None:
    for day in (date(2031, 1, 2), date(2026, 6, 2), date(1999, 12, 31)):
        assert session(SMALL, day).height == 20_000
    assert session(SMALL).equals(small)


# --- calendars


def test_a_session_is_a_weekdays_regular_hours() -> None:
    week = pl.concat(SMALL.prints(datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 6, 8, tzinfo=UTC)))
    local = week["ts"].dt.convert_time_zone("America/New_York")
    assert week.height == 5 * 20_000
    assert local.dt.weekday().unique().to_list() == [1, 2, 3, 4, 5]
    minutes = local.dt.hour().cast(pl.Int32) * 60 + local.dt.minute()
    assert (minutes.min(), minutes.max()) == (9 * 60 + 30, 15 * 60 + 59)
    assert SMALL.session(date(2026, 6, 6)) is None


@pytest.mark.parametrize(
    ("day", "hours"), [(date(2026, 3, 8), 23), (date(2026, 11, 1), 25), (date(2026, 6, 6), 24)]
)
def test_an_always_open_market_trades_at_every_hour(day: date, hours: int) -> None:
    frame = session(ALWAYS, day)
    assert frame.height == 20_000
    assert frame.select(pl.col("ts").dt.truncate("1h").n_unique()).item() == hours
    assert (
        frame.select(pl.col("ts").dt.convert_time_zone("America/New_York").dt.date().unique()).item() == day
    )


def test_batches_do_not_cross_midnight_in_new_york() -> None:
    start = datetime(2026, 6, 5, 12, tzinfo=UTC)
    for frame in ALWAYS.prints(start, start + timedelta(days=2)):
        first, last = (frame["ts"][place].astimezone(NEW_YORK).date() for place in (0, -1))
        assert first == last


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("seed", -1),
        ("underlyings", 0),
        ("underlyings", 100_001),
        ("prints_per_day", -1),
        ("stock_prints_per_day", -1),
        ("hours", "never"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(setting: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{setting}: .*{value}"):
        Market(**{setting: value})  # type: ignore[arg-type]


def test_an_instant_without_a_time_zone_is_refused() -> None:
    with pytest.raises(UsageError, match="end: 2026-06-03"):
        list(SMALL.prints(datetime(2026, 6, 3, tzinfo=UTC), datetime(2026, 6, 3)))  # noqa: DTZ001


def test_a_market_of_one_underlying_trades_spy() -> None:
    frame = session(Market(underlyings=1, prints_per_day=501, stock_prints_per_day=0))
    assert frame.height == 501
    assert frame["symbol"].unique().to_list() == ["SPY"]
    assert list(Market(prints_per_day=0, stock_prints_per_day=0).prints(*day_bounds(DAY))) == []
