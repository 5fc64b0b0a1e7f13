"""Small tapes for tests: rows for the oracle, frames and files for the program."""

import csv
import random
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction

import polars as pl
from hypothesis import strategies as st

from flowtape.model.prints import SCHEMA, SIZE_SCALE, conform

T0 = int(datetime(2026, 3, 6, 20, 58, tzinfo=UTC).timestamp()) * 10**9
"""Late on a Friday in New York, two days before clocks change."""
SECOND = 10**9
ROW = {
    "ts": T0, "asset": "option", "symbol": "SPY", "root": "SPY", "expiry": date(2026, 3, 20), "right": "C",
    "strike": 6_000_000, "price": 12_000, "size": 1, "bid": 11_000, "ask": 13_000, "bid_size": 10, "ask_size": 10,
    "quote_ts": None, "condition": "AUTO", "venue": "XCBO", "seq": 0, "underlying": 6_001_000,
}  # fmt: skip
SIZES = ("size", "bid_size", "ask_size")
"""Contracts or shares; a stock's size may be a Fraction of whole 1/10,000."""


STOCK = ROW | {
    "asset": "stock",
    "expiry": None,
    "right": None,
    "strike": None,
    "condition": "STK_REGULAR",
    "venue": "XNAS",
    "underlying": None,
}


def row(**changes):
    return ROW | changes


def frame(rows):
    """Return rows as a frame of prints."""
    schema = {name: pl.Int64 if "ts" in name else dtype for name, dtype in SCHEMA.items()}
    plain = pl.DataFrame(
        [one | _in_units(one) for one in rows], {name: schema[name] for name in SCHEMA}, orient="row"
    )
    return conform(
        plain.with_columns(pl.col("ts", "quote_ts").cast(pl.Datetime("ns")).dt.replace_time_zone("UTC"))
    )


FRACTIONS = [Fraction(1, 10_000), Fraction(123_456, 10_000), Fraction(1, 2), Fraction(99_999_999, 10_000)]
"""Sizes of stocks, in shares."""


def _in_units(one):
    """Return a row with sizes in the unit of a frame of prints."""
    scale = SIZE_SCALE[one["asset"]]
    return {name: int(one[name] * scale) for name in SIZES if one[name] is not None}


CONDITIONS = [
    "AUTO",
    "AUTO",
    "ISOI",
    "SLAN",
    "MLET",
    "SLCN",
    "MLFT",
    "OSEQ",
    "EXHT",
    "unknown",
    "CANC",
    "CANC",
    "CNCL",
]


@st.composite
def rows(draw, most=40, asset="option"):
    """Return a tape with few contracts, prices and sizes, so that repeats and cancels match."""
    count = draw(st.integers(0, most))
    base = ROW if asset == "option" else STOCK
    sizes = [1, 2, 1_000] if asset == "option" else [*FRACTIONS[:3], 1_000]
    made = []
    for seq in range(count):
        symbol, root = draw(st.sampled_from([("SPY", "SPY"), ("SPX", "SPX"), ("SPX", "SPXW")]))
        ts = T0 + draw(st.integers(0, 7 * 60)) * SECOND + draw(st.sampled_from([0, 1, 999_999_999]))
        # Sometimes the next trading day, after midnight in New York.
        ts += draw(st.sampled_from([0, 0, 0, 0, 8 * 3600])) * SECOND
        bid = draw(st.sampled_from([None, -1, 0, 10_000, 11_000, 12_000]))
        contract = {}
        if asset == "option":
            contract = {
                "expiry": draw(st.sampled_from([date(2026, 3, 6), date(2026, 3, 20)])),
                "right": draw(st.sampled_from("CP")),
                "strike": draw(st.sampled_from([5_900_000, 6_000_000, 6_005_000])),
            }
        made.append(
            base
            | contract
            | {
                "ts": ts,
                "symbol": symbol,
                "root": root,
                "price": draw(st.sampled_from([11_000, 11_500, 12_000])),
                "size": draw(st.sampled_from(sizes)),
                "bid": bid,
                "ask": draw(st.sampled_from([None, 0, 11_000, 12_000, 12_001])),
                "quote_ts": draw(st.sampled_from([None, ts, ts - SECOND, ts - 30 * 3600 * SECOND, ts + 1])),
                "condition": draw(st.sampled_from(CONDITIONS)),
                "venue": draw(st.sampled_from(["XCBO", "ARCO"])),
                "seq": draw(st.integers(0, 3)) if draw(st.booleans()) else seq,
            }
        )
    # Rows with one identity are duplicates, so they must be equal.
    seen = {}
    return [seen.setdefault(_identity(one), one) for one in made]


def _identity(one):
    return tuple(one[name] for name in ("venue", "root", "expiry", "right", "strike", "ts", "seq"))


def stock_tape(seed=11, count=2000):
    """Return two days of three stocks, out of order, with equal times and `seq`, cancels, late prints, blocks, and
    quotes that are missing, old, locked or crossed."""
    chance = random.Random(seed)
    made = []
    for seq in range(count):
        one = chance.choice(made) if made and chance.random() < 0.1 else None
        cancel = one is not None and one["condition"] != "CANC" and chance.random() < 0.4
        if cancel:
            later = one["ts"] + chance.randrange(1, 900) * SECOND
            made.append(one | {"ts": later, "seq": seq, "condition": chance.choice(["CANC", "CNCL"])})
            continue
        # A print of another venue with the time and number of an earlier one.
        ts, number = (one["ts"], one["seq"]) if one is not None else (_session_ts(chance), seq)
        symbol, middle = chance.choice([("SPY", 6_000_050), ("QQQ", 5_000_000), ("F", 100_001)])
        bid = middle + chance.randrange(-30, 30) * 100
        ask = bid + chance.choice([0, 100, 100, 200, 101, -100])
        quote_ts = chance.choice(
            [None, ts - 3, ts - 2 * SECOND, ts - chance.randrange(10**10), ts - 30 * 3600 * SECOND]
        )
        if chance.random() < 0.08:
            bid = ask = quote_ts = None
        made.append(
            STOCK
            | {
                "ts": ts,
                "symbol": symbol,
                "root": symbol,
                "price": (middle if bid is None else bid) + chance.choice([-50, 0, 50, 100, 150, 37]),
                "size": chance.choice([*FRACTIONS, 1, 7, 100, 100, 300, 10_000, 25_000]),
                "bid": bid,
                "ask": ask,
                "quote_ts": quote_ts,
                "condition": chance.choice(
                    [
                        "STK_REGULAR",
                        "STK_SWEEP",
                        "unknown",
                        "STK_SOLD_LAST",
                        "STK_SPLIT",
                        "STK_ACQUISITION",
                        "STK_OPENING",
                    ]
                ),
                "venue": chance.choice(["XNAS", "ARCX", "EDGX"]),
                "seq": number,
            }
        )
    chance.shuffle(made)
    seen = {}
    return [seen.setdefault(_identity(one), one) for one in made]


def _session_ts(chance):
    """Return an instant of one of two sessions, before and after a clock change; some are after midnight UTC."""
    opens = datetime(2026, 3, 6, 14, 30, tzinfo=UTC), datetime(2026, 3, 9, 13, 30, tzinfo=UTC)
    seconds = chance.choice([chance.randrange(90 * 60), chance.randrange(12 * 3600)])
    return (int(chance.choice(opens).timestamp()) + seconds) * SECOND + chance.randrange(10) * 10**8 + 123_456


def long_tape(count, asset="option"):
    """Return a print a minute, for more minutes than one answer holds; every hundredth is `mid`."""
    base = ROW if asset == "option" else STOCK
    return [
        base
        | {"ts": T0 + n * 60 * SECOND, "seq": n, "price": 12_000 + (n % 100) * (-1) ** n, "size": 1 + n % 7}
        for n in range(count)
    ]


def write_csv(path, rows):
    """Write rows as a CSV table of prints, with exact prices in USD."""
    money = ("strike", "price", "bid", "ask", "underlying")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROW))
        writer.writeheader()
        for one in rows:
            units = {name: f"{one[name] / 10_000:.4f}" for name in money if one[name] is not None}
            units["size"] = str(Decimal(int(one["size"] * 10_000)) / 10_000)
            writer.writerow(one | units)
