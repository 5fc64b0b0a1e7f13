import json
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtape.errors import UsageError
from flowtape.model.conditions import CANCEL, FAMILY_OF, UNSIDED
from flowtape.model.prints import CONDITION_NAMES, SCHEMA, Side, Timestamp, conform
from flowtape.orderflow.classify import FUTURE_RULES, LIVE_RULES, RULES, DecidedBy, sign

OPEN = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
SIGNS = {"buy": 1, "sell": -1, "mid": 0}
ALL_RULES = tuple(RULES)


def tape(rows: list[dict]) -> pl.DataFrame:
    """Return a frame of prints from rows with only the fields that a test needs."""
    base = {
        "ts": OPEN, "asset": "option", "symbol": "VIX", "root": "VIX", "expiry": date(2026, 3, 18),
        "right": "C", "strike": 200_000, "price": 100, "size": 1, "condition": "AUTO", "venue": "C",
        "bid": None, "ask": None, "bid_size": None, "ask_size": None, "quote_ts": None,
    }  # fmt: skip
    full = [{**base, "seq": seq, **row} for seq, row in enumerate(rows)]
    schema = {name: pl.String if dtype == pl.Categorical else dtype for name, dtype in SCHEMA.items()}
    return conform(pl.DataFrame(full, schema=schema | {"underlying": pl.Int64}))


def signs(frame: pl.DataFrame, rule, **options) -> list[int]:
    return [SIGNS[side] for side in sign(frame, rule, **options)["side"]]


def one(rule="quote", max_quote_age=None, **row) -> tuple[str, str | None]:
    """Return the side and the deciding layer of a single print."""
    signed = sign(tape([row]), rule, max_quote_age)
    return signed["side"][0], signed["decided_by"][0]


# RULES in plain Python and exact fractions, one print at a time.


def compare(left, right) -> int:
    return (left > right) - (left < right)


def valid(row) -> bool:
    bid, ask = row["bid"], row["ask"]
    return bid is not None and ask is not None and ask > 0 and 0 <= bid <= ask


def different(rows: list[dict], place: int, step: int) -> int:
    """Return the sign of a print against the last (step −1) or next (+1) different price of its contract."""
    order = sorted(
        range(len(rows)), key=lambda i: (rows[i]["ts"], rows[i]["seq"], rows[i]["venue"], rows[i]["price"])
    )
    at = order.index(place) + step
    while 0 <= at < len(order):
        other = rows[order[at]]
        same = other["strike"] == rows[place]["strike"] and FAMILY_OF[other["condition"]] != CANCEL
        if same and other["price"] != rows[place]["price"]:
            return compare(rows[place]["price"], other["price"])
        at += step
    return 0


def by_quote(row: dict) -> int:
    return compare(row["price"], Fraction(row["bid"] + row["ask"], 2)) if valid(row) else 0


def by_emo(row: dict) -> int:
    return by_quote(row) if valid(row) and (row["price"] == row["ask"]) != (row["price"] == row["bid"]) else 0


def by_clnv(row: dict) -> int:
    if not valid(row):
        return 0
    price, bid, ask = row["price"], row["bid"], row["ask"]
    high = Fraction(7 * ask + 3 * bid, 10) <= price <= ask
    low = bid <= price <= Fraction(3 * ask + 7 * bid, 10)
    return high - low


def by_size(row: dict, rule: str) -> int:
    size, bid_size, ask_size = row["size"], row["bid_size"], row["ask_size"]
    if not valid(row) or bid_size is None or ask_size is None or bid_size == ask_size:
        return 0
    if rule == "tsize":
        return (size == bid_size) - (size == ask_size)
    return compare(ask_size, bid_size) if 2 * row["price"] == row["bid"] + row["ask"] else 0


def oracle(rows: list[dict], place: int, rule: str) -> int:
    row = rows[place]
    if row["condition"] in UNSIDED:
        return 0
    if rule in ("depth", "tsize"):
        return by_size(row, rule)
    if rule == "rtick":
        return different(rows, place, +1)
    quoted = {"quote": by_quote, "lr": by_quote, "emo": by_emo, "clnv": by_clnv}
    side = quoted[rule](row) if rule in quoted else 0
    return side if rule == "quote" else side or different(rows, place, -1)


small = st.integers(1, 12)
a_row = st.fixed_dictionaries(
    {
        "ts": st.integers(0, 3).map(lambda second: OPEN + timedelta(seconds=second)),
        "seq": st.integers(0, 3),
        "venue": st.sampled_from("AB"),
        "strike": st.sampled_from([100_000, 200_000]),
        "price": small,
        "size": st.integers(1, 3),
        "bid": st.none() | st.integers(-1, 12),
        "ask": st.none() | st.integers(-1, 12),
        "bid_size": st.none() | st.integers(0, 3),
        "ask_size": st.none() | st.integers(0, 3),
        "condition": st.sampled_from(["AUTO", "unknown", "SLAN", "MLET", "EXHT", "SLCN", "LATE", "CANC"]),
    }
)
some_rows = st.lists(a_row, min_size=1, max_size=12)
prints_apart = st.lists(
    a_row, min_size=1, max_size=12, unique_by=lambda row: (row["ts"], row["seq"], row["venue"], row["strike"])
)
fewer = settings(max_examples=20, deadline=None)


@fewer
@given(some_rows)
def test_every_rule_equals_plain_python(rows):
    frame = tape(rows)
    for rule in ALL_RULES:
        assert signs(frame, rule) == [oracle(rows, place, rule) for place in range(len(rows))], rule


@fewer
@given(some_rows, st.randoms(use_true_random=False))
def test_row_order_does_not_change_sides(rows, random):
    frame = tape(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    for rule in ALL_RULES:
        assert sign(frame, rule)[order].equals(sign(frame[order], rule)), rule


@fewer
@given(some_rows, st.integers(1, 10**9))
def test_the_unit_of_prices_does_not_change_sides(rows, factor):
    frame = tape(rows)
    scaled = frame.with_columns(pl.col("price", "bid", "ask") * factor)
    for rule in ALL_RULES:
        assert signs(frame, rule) == signs(scaled, rule), rule


@fewer
@given(prints_apart)
def test_a_mirrored_market_has_mirrored_sides(rows):
    # Far from zero, because a bid of 0 is valid and an ask of 0 is not.
    frame = tape(rows).with_columns(pl.col("price", "bid", "ask") + 100)
    mirrored = frame.with_columns(
        price=1000 - pl.col("price"),
        bid=1000 - pl.col("ask"),
        ask=1000 - pl.col("bid"),
        bid_size="ask_size",
        ask_size="bid_size",
    )
    for rule in ALL_RULES:
        assert signs(frame, rule) == [-side for side in signs(mirrored, rule)], rule


@fewer
@given(some_rows, st.integers(1, 5))
def test_live_rules_do_not_depend_on_the_batch(rows, width):
    frame = tape(rows)
    for rule in [*LIVE_RULES, LIVE_RULES]:
        parts = [sign(frame[start : start + width], rule) for start in range(0, len(frame), width)]
        assert pl.concat(parts).equals(sign(frame, rule)), rule


@fewer
@given(some_rows, st.lists(st.sampled_from(ALL_RULES), min_size=1, max_size=4))
def test_the_first_rule_that_finds_a_side_wins(rows, stack):
    frame = tape(rows)
    each = [sign(frame, rule) for rule in stack]
    sides = pl.coalesce(*(s["side"].replace("mid", None) for s in each)).fill_null("mid")
    who = pl.coalesce(*(s["decided_by"] for s in each))
    signed = sign(frame, stack)
    assert signed["side"].to_list() == frame.select(x=sides)["x"].to_list()
    assert signed["decided_by"].to_list() == frame.select(x=who)["x"].to_list()


@fewer
@given(some_rows)
def test_prints_without_a_side_are_mid(rows):
    for rule in ALL_RULES:
        signed = sign(tape(rows), rule)
        assert ((signed["side"] == "mid") == signed["decided_by"].is_null()).all()


@pytest.mark.parametrize("rule", [*ALL_RULES, ALL_RULES])
def test_families_without_a_side_are_mid_under_every_rule(rule):
    tail = {"bid": 80, "ask": 100, "bid_size": 1, "ask_size": 2}
    for name in CONDITION_NAMES:
        # The quote, tick and reverse tick of the third print all give buy.
        rows = [{"price": 90}, {"price": 95}, {"price": 100, "condition": name, **tail}, {"price": 97}]
        signed = sign(tape(rows), rule)[2]
        if name in UNSIDED:
            assert signed["side"][0] == "mid"
            assert signed["decided_by"][0] is None
        elif rule != "depth":
            assert signed["side"][0] == "buy", (rule, name)


@pytest.mark.parametrize(
    ("quote", "side"),
    [
        ({"bid": 90, "ask": 100}, "buy"),
        ({"bid": 100, "ask": 110}, "sell"),
        ({"bid": 90, "ask": 110}, "mid"),
        ({"bid": 99, "ask": 100}, "buy"),
        ({"bid": 100, "ask": 101}, "sell"),
        ({"bid": 99, "ask": 99}, "buy"),
        ({"bid": 100, "ask": 100}, "mid"),
        ({"bid": 0, "ask": 150}, "buy"),
        ({"bid": 120, "ask": 110}, "mid"),
        ({"bid": -1, "ask": 110}, "mid"),
        ({"bid": 0, "ask": 0}, "mid"),
        ({"bid": None, "ask": 90}, "mid"),
        ({"bid": 110, "ask": None}, "mid"),
        ({}, "mid"),
    ],
)
def test_quote_rule_by_hand(quote, side):
    assert one(**quote) == (side, None if side == "mid" else "quote")


def test_largest_prices_do_not_overflow():
    top = 10**11
    for rule in ("quote", "emo", "clnv"):
        assert one(rule, price=top, bid=top - 1, ask=top) == ("buy", "quote")
        assert one(rule, price=top - 1, bid=top - 1, ask=top) == ("sell", "quote")


@pytest.mark.parametrize(
    ("price", "side"),
    [(100, "sell"), (130, "sell"), (131, "mid"), (169, "mid"), (170, "buy"), (200, "buy"), (201, "mid")],
)
def test_clnv_bands_have_exact_bounds(price, side):
    assert one("clnv", price=price, bid=100, ask=200)[0] == side


def test_decided_by_names_the_layer():
    rows = [
        {"price": 100},
        {"price": 110, "bid": 100, "ask": 110},
        {"price": 105, "bid": 100, "ask": 110},
        {"price": 105, "bid": 100, "ask": 110},
    ]
    for rule in ("lr", "emo", "clnv"):
        signed = sign(tape(rows), rule)
        assert signed["side"].to_list() == ["mid", "buy", "sell", "sell"]
        assert signed["decided_by"].to_list() == [None, "quote", "tick", "tick"]
    assert signed.schema["side"] == Side
    assert signed.schema["decided_by"] == DecidedBy


def test_tick_compares_within_a_contract_across_nights():
    tomorrow = OPEN + timedelta(days=1)
    stock = {"asset": "stock", "expiry": None, "right": None, "strike": None}
    rows = [
        {"price": 100},
        {"price": 120, "strike": 250_000},
        {"price": 120, "right": "P"},
        {"price": 120, "root": "VIXW"},
        {"price": 120, "expiry": date(2026, 4, 15)},
        {"price": 300_000, **stock},
        {"price": 110, "condition": "CANC"},
        {"price": 105, "ts": tomorrow},
        {"price": 299_999, "ts": tomorrow, **stock},
    ]
    assert signs(tape(rows), "tick") == [0, 0, 0, 0, 0, 0, 0, 1, -1]
    assert signs(tape(rows), "rtick") == [-1, 0, 0, 0, 0, 1, 0, 0, 0]


NIGHT = datetime(2026, 3, 3, 4, 59, 59, tzinfo=UTC)  # 23:59:59 in New York, of the day before
TODAY = datetime(2026, 3, 3, 5, 0, tzinfo=UTC)


@pytest.mark.parametrize("other_days", [[], [{"ts": OPEN - timedelta(days=3), "quote_ts": OPEN}]])
@pytest.mark.parametrize(
    ("quote_ts", "side"),
    [
        (None, "buy"),
        (NIGHT, "mid"),
        (TODAY, "buy"),
        (datetime(2026, 3, 3, 15, 0, tzinfo=UTC), "buy"),
        (datetime(2026, 3, 3, 15, 0, 0, 1, tzinfo=UTC), "mid"),
    ],
)
def test_quotes_of_other_days_or_the_future_are_ignored(quote_ts, side, other_days):
    row = {"ts": datetime(2026, 3, 3, 15, 0, tzinfo=UTC), "bid": 90, "ask": 100, "quote_ts": quote_ts}
    assert sign(tape([row, *other_days]))["side"][0] == side


def test_trading_days_follow_daylight_saving_time():
    # 2026-03-08: clocks go forward, so that midnight is 05:00 UTC before and 04:00 UTC after.
    for day, hour in ((7, 5), (9, 4)):
        midnight = datetime(2026, 3, day, hour, tzinfo=UTC)
        row = {"ts": midnight + timedelta(hours=11), "bid": 90, "ask": 100}
        assert one(**row, quote_ts=midnight)[0] == "buy"
        assert one(**row, quote_ts=midnight - timedelta(microseconds=1))[0] == "mid"


def test_an_invalid_quote_disables_only_quoted_layers():
    rows = [
        {"price": 90},
        {"price": 100, "bid": 110, "ask": 90, "bid_size": 1, "ask_size": 2},
        {
            "price": 95,
            "bid": 90,
            "ask": 100,
            "bid_size": 1,
            "ask_size": 2,
            "quote_ts": OPEN - timedelta(days=1),
        },
    ]
    frame = tape(rows)
    for rule in LIVE_RULES:
        assert signs(frame, rule) == [0, 0, 0]
    for rule in ("lr", "emo", "clnv"):
        assert signs(frame, rule) == [0, 1, -1]


def test_the_quote_age_has_no_default_limit():
    row = {"bid": 90, "ask": 100, "quote_ts": OPEN - timedelta(seconds=5)}
    assert one(**row)[0] == "buy"
    assert one(**row, max_quote_age=timedelta(seconds=5))[0] == "buy"
    assert one(**row, max_quote_age=timedelta(seconds=4))[0] == "mid"
    hours_old = row | {"quote_ts": OPEN - timedelta(hours=6)}
    for limit in (timedelta(hours=6), timedelta(days=3), timedelta.max):
        assert one(**hours_old, max_quote_age=limit)[0] == "buy"
    assert one(**row | {"quote_ts": None}, max_quote_age=timedelta(0))[0] == "buy"
    older = tape([row]).with_columns(pl.col("quote_ts").dt.offset_by("-1ns"))
    assert signs(older, "quote", max_quote_age=timedelta(seconds=5)) == [0]


def test_other_columns_and_no_rows_are_kept():
    frame = tape([{"bid": 90, "ask": 100}]).with_columns(
        source=pl.lit("cboe"), tick=pl.lit(7), side=pl.lit("x")
    )
    signed = sign(frame, ALL_RULES)
    assert signed.columns == [*SCHEMA, "source", "tick", "side", "decided_by"]
    assert signed.drop("side", "decided_by").equals(frame.drop("side"))
    empty = sign(frame.clear(), ALL_RULES)
    assert len(empty) == 0
    assert empty.schema == signed.schema


@pytest.mark.parametrize(
    ("rule", "named"), [("leeready", "'leeready'"), (("lr", "nope"), "'nope'"), ((), "empty"), ("", "''")]
)
def test_the_error_for_an_unknown_rule_lists_all_rules(rule, named):
    with pytest.raises(UsageError) as caught:
        sign(tape([{}]), rule)
    assert named in str(caught.value)
    assert all(known in str(caught.value) for known in RULES)


def test_frames_that_cannot_be_classified_are_refused():
    with pytest.raises(UsageError, match="max_quote_age: -1 day"):
        sign(tape([{}]), "quote", timedelta(seconds=-1))
    with pytest.raises(UsageError, match="lack the column bid"):
        sign(tape([{}]).drop("bid", "ask"))
    with pytest.raises(UsageError, match="price as Float64, not Int64"):
        sign(tape([{}]).with_columns(pl.col("price") / 10_000))


def test_live_and_future_rules_are_listed():
    assert set(FUTURE_RULES) <= set(RULES)
    assert set(LIVE_RULES) == {
        rule for rule, layers in RULES.items() if not any("tick" in name for name in layers)
    }


# Against the public package `tclf` (see tests/golden/make_side_tclf.py).

GOLDEN = json.loads((Path(__file__).parent / "golden" / "side_tclf.json").read_text())
PRICE, BID, ASK = pl.col("price"), pl.col("bid"), pl.col("ask")
SIZE, BID_SIZE, ASK_SIZE = pl.col("size"), pl.col("bid_size"), pl.col("ask_size")


def near(value: pl.Expr, other: pl.Expr) -> pl.Expr:
    """Return true for unequal values that `numpy.isclose(…, atol=1e-4)`, which tclf uses, takes for equal."""
    return ((value - other).abs() <= 1e-4 + 1e-5 * other.abs()) & (value != other)


NOTHING = (ASK >= BID) & ((ASK <= 0) | (BID < 0))
NO_NBBO = BID.is_null() | ASK.is_null() | (ASK < BID)
ZERO_QUOTE = "a quote with ask <= 0 or bid < 0 is one for tclf, none for us"
DIFFERENCES: dict[str, dict[str, tuple[pl.Expr, int]]] = {
    "quote": {ZERO_QUOTE: (NOTHING, 54)},
    "tick": {},
    "rtick": {},
    "lr": {ZERO_QUOTE: (NOTHING, 21)},
    "emo": {
        ZERO_QUOTE: (NOTHING, 1),
        "at one side of a crossed or one-sided quote tclf decides nothing, ours goes on to tick": (
            NO_NBBO & ((PRICE == ASK) | (PRICE == BID)),
            93,
        ),
        "a price within 1e-5 of a quote is at it for tclf": (near(PRICE, ASK) | near(PRICE, BID), 84),
    },
    "clnv": {
        ZERO_QUOTE: (NOTHING, 6),
        "tclf's floats put a price on the edge of a band beside it": (
            (10 * PRICE == 7 * ASK + 3 * BID) | (10 * PRICE == 3 * ASK + 7 * BID),
            8,
        ),
    },
    "depth": {
        ZERO_QUOTE: (NOTHING, 3),
        "a price within 1e-5 of mid is at mid for tclf": (near(PRICE, (BID + ASK) / 2), 81),
    },
    "tsize": {
        "tclf takes the sizes of a quote that is none, ours needs a valid NBBO": (NO_NBBO | NOTHING, 152),
        "a quote size that is unknown is not equal to the other for tclf": (
            BID_SIZE.is_null() | ASK_SIZE.is_null(),
            52,
        ),
        "sizes within 1e-5 of each other are equal for tclf": (
            near(SIZE, BID_SIZE) | near(SIZE, ASK_SIZE) | near(BID_SIZE, ASK_SIZE),
            128,
        ),
    },
}
"""Rule → every way in which tclf differs from our definitions: the rows it may touch, the number it does."""


@pytest.fixture(scope="module")
def trades() -> pl.DataFrame:
    given_ = pl.DataFrame(GOLDEN["trades"])
    return conform(
        given_.with_columns(
            ts=(pl.lit(OPEN) + pl.duration(milliseconds="ms")).cast(Timestamp),
            asset=pl.lit("option"), symbol=pl.lit("VIX"), root=pl.lit("VIX"), right=pl.lit("C"),
            strike=(pl.col("contract") + 1) * 10_000, condition=pl.lit("AUTO"), venue=pl.lit("C"),
            expiry=date(2026, 3, 18),
        )
    )  # fmt: skip


def touched(trades: pl.DataFrame, rules: Iterable[str]) -> pl.DataFrame:
    """Return a column for each known difference of these rules, with the rows that it may affect."""
    known = {reason: where for rule in rules for reason, (where, _) in DIFFERENCES[rule].items()}
    return trades.select(
        pl.lit(False).alias("-"), *(where.fill_null(False).alias(r) for r, where in known.items())
    )


@pytest.mark.parametrize("rule", DIFFERENCES)
def test_sides_equal_tclf_except_known_differences(trades, rule):
    ours = pl.Series(signs(trades, rule))
    differs = ours != pl.Series(GOLDEN["sides"][rule])
    may = touched(trades, [rule])
    assert not (differs & ~may.select(x=pl.any_horizontal("*"))["x"]).any()
    # Counted, so that the test fails if a difference grows or disappears.
    assert {reason: (differs & may[reason]).sum() for reason in may.columns[1:]} == {
        reason: count for reason, (_, count) in DIFFERENCES[rule].items()
    }
    chains = {strike: chain.to_dicts() for (strike,), chain in trades.group_by("strike", maintain_order=True)}
    for row, side in zip(trades.filter(differs).iter_rows(named=True), ours.filter(differs), strict=True):
        chain = chains[row["strike"]]
        assert side == oracle(chain, chain.index(row), rule), row


def test_stacked_rules_equal_tclf(trades):
    (name,) = GOLDEN["sides"].keys() - DIFFERENCES.keys()
    stack = name.split("+")
    differs = pl.Series(signs(trades, stack)) != pl.Series(GOLDEN["sides"][name])
    assert not (differs & ~touched(trades, stack).select(x=pl.any_horizontal("*"))["x"]).any()
    assert differs.sum() == 175
