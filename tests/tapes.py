"""Small tapes for tests: as rows for the oracle, as frames for the program."""

from datetime import UTC, date, datetime

import polars as pl
from hypothesis import strategies as st

from flowtape.prints import SCHEMA, conform

T0 = int(datetime(2026, 3, 6, 20, 58, tzinfo=UTC).timestamp()) * 10**9
"""Late on a Friday in New York, two days before clocks change."""
SECOND = 10**9
ROW = {
    "ts": T0, "asset": "option", "symbol": "SPY", "root": "SPY", "expiry": date(2026, 3, 20), "right": "C",
    "strike": 6_000_000, "price": 12_000, "size": 1, "bid": 11_000, "ask": 13_000, "bid_size": 10, "ask_size": 10,
    "quote_ts": None, "condition": "AUTO", "venue": "XCBO", "seq": 0, "underlying": 6_001_000,
}  # fmt: skip


def row(**changes):
    return ROW | changes


def frame(rows):
    """Rows as a frame of prints."""
    schema = {name: pl.Int64 if "ts" in name else dtype for name, dtype in SCHEMA.items()}
    plain = pl.DataFrame(rows, {name: schema[name] for name in SCHEMA}, orient="row")
    return conform(
        plain.with_columns(pl.col("ts", "quote_ts").cast(pl.Datetime("ns")).dt.replace_time_zone("UTC"))
    )


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
def rows(draw, most=40):
    """A tape with few contracts, prices and sizes, so that repeats and cancels meet."""
    count = draw(st.integers(0, most))
    made = []
    for seq in range(count):
        symbol, root = draw(st.sampled_from([("SPY", "SPY"), ("SPX", "SPX"), ("SPX", "SPXW")]))
        ts = T0 + draw(st.integers(0, 7 * 60)) * SECOND + draw(st.sampled_from([0, 1, 999_999_999]))
        # Now and then the next trading day, past midnight in New York.
        ts += draw(st.sampled_from([0, 0, 0, 0, 8 * 3600])) * SECOND
        bid = draw(st.sampled_from([None, -1, 0, 10_000, 11_000, 12_000]))
        made.append(
            row(
                ts=ts,
                symbol=symbol,
                root=root,
                expiry=draw(st.sampled_from([date(2026, 3, 6), date(2026, 3, 20)])),
                right=draw(st.sampled_from("CP")),
                price=draw(st.sampled_from([11_000, 11_500, 12_000])),
                size=draw(st.sampled_from([1, 2, 1_000])),
                bid=bid,
                ask=draw(st.sampled_from([None, 0, 11_000, 12_000, 12_001])),
                quote_ts=draw(st.sampled_from([None, ts, ts - SECOND, ts - 30 * 3600 * SECOND, ts + 1])),
                condition=draw(st.sampled_from(CONDITIONS)),
                venue=draw(st.sampled_from(["XCBO", "ARCO"])),
                seq=draw(st.integers(0, 3)) if draw(st.booleans()) else seq,
            )
        )
    # Two rows with one identity are one row sent twice: let them be alike.
    seen = {}
    for one in made:
        key = (one["venue"], one["root"], one["expiry"], one["right"], one["ts"], one["seq"])
        seen.setdefault(key, one)
    return [
        seen[one["venue"], one["root"], one["expiry"], one["right"], one["ts"], one["seq"]] for one in made
    ]
