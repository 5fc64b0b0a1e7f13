"""What a print is: its columns, types and units; checks and facts of a frame of them.

A print is one trade of one contract (or one stock) with the quote that stood before it. Frames of prints
carry the columns of `SCHEMA`, in that order. Prices, quotes, strikes and underlying mids are integers of
1/10,000 USD, so that "at the ask" and "exactly mid" are exact and sums do not depend on order or batch.
"""

from __future__ import annotations

import re
import time as clock
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape import prices
from flowtape.errors import UsageError

PRICE_SCALE = prices.PRICE_SCALE
MAX_PRICE = prices.MAX_PRICE
MAX_SIZE = 2**31 - 1
MAX_STRIKE = 999_999_990
"""The largest strike an OSI symbol can hold: 99,999.999 USD."""
NEW_YORK = ZoneInfo("America/New_York")
FIRST_DAY, LAST_DAY = date(1990, 1, 1), date(2099, 12, 31)
"""The dates of the exchanges' calendar. A print or quote of another date is not taken."""
DAY_NS = 86_400 * 10**9
EARLIEST = (FIRST_DAY - date(1970, 1, 1)).days * DAY_NS
LATEST = ((LAST_DAY - date(1970, 1, 1)).days + 1) * DAY_NS - 1
"""The first and last instant of the calendar, ns since 1970, UTC."""
OUT_OF_RANGE = f"is before {FIRST_DAY} or more than a day ahead of the clock"

Asset = pl.Enum(["option", "stock"])
Right = pl.Enum(["C", "P"])
Side = pl.Enum(["buy", "sell", "mid"])
Timestamp = pl.Datetime("ns", "UTC")

CONDITION_NAMES = (
    "unknown", "REGULAR", "CANC", "OSEQ", "CNCL", "LATE", "CNCO", "OPEN", "CNOL", "OPNL", "AUTO", "REOP",
    "AJST", "SPRD", "STDL", "STPD", "CSTP", "BWRT", "CMBO", "SPIM", "ISOI", "BNMT", "XMPT", "SLAN", "SLAI",
    "SLCN", "SLCI", "SLFT", "MLET", "MLAT", "MLCT", "MLFT", "MESL", "TLAT", "MASL", "MFSL", "TLET", "TLCT",
    "TLFT", "TESL", "TASL", "TFSL", "CBMO", "MCTP", "EXHT",
    "STK_SWEEP", "STK_EXTENDED", "STK_ODD_LOT", "STK_BLOCK", "STK_YELLOW", "STK_SPLIT", "STK_AUTO",
    "STK_EXEMPT", "STK_REGULAR", "STK_OPENING", "STK_REOPENING", "STK_CLOSING", "STK_AVERAGE",
    "STK_BUNCHED", "STK_ACQUISITION", "STK_DISTRIBUTION", "STK_VARIATION", "STK_PRIOR", "STK_DERIVED",
    "STK_QCT", "STK_CONTINGENT", "STK_CASH", "STK_NEXT_DAY", "STK_SELLER", "STK_STOPPED", "STK_CROSS",
    "STK_SOLD_LAST", "STK_SOLD", "STK_BUNCHED_SOLD", "STK_EXTENDED_SOLD", "STK_STOPPED_LAST",
    "STK_STOPPED_SOLD", "STK_OFFICIAL_CLOSE", "STK_OFFICIAL_OPEN", "STK_CORRECTED_CLOSE", "STK_DETAIL",
)  # fmt: skip
"""The one vocabulary for sale conditions: OPRA's mnemonics, and names for those of stocks (`STK_…`), see `conditions`.
The place of a name is its number in a store: names are only ever added at the end."""
Condition = pl.Enum(CONDITION_NAMES)

QUOTE_CLASSES = ("none", "sampled", "joined", "own")
"""How a print got its quote, weakest first: it has none; joined from samples of the quotes (`cbbo-1s`); joined from
every quote; in the print's own row. The place of a name is its number in a store."""
QuoteClass = pl.Enum(QUOTE_CLASSES)
SETS_RANGE, SETS_ENDS = 1, 2
"""Bits of `price_flags`: the print may set the high and low of its minute; it may set open and close."""

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "ts": Timestamp,
    "asset": Asset,
    "symbol": pl.Categorical,
    "root": pl.Categorical,
    "expiry": pl.Date,
    "right": Right,
    "strike": pl.Int64,
    "price": pl.Int64,
    "size": pl.Int64,
    "bid": pl.Int64,
    "ask": pl.Int64,
    "bid_size": pl.Int64,
    "ask_size": pl.Int64,
    "quote_ts": Timestamp,
    "quote_seq": pl.Int64,
    "quote_class": QuoteClass,
    "condition": Condition,
    "venue": pl.Categorical,
    "seq": pl.Int64,
    "copy": pl.Int64,
    "underlying": pl.Int64,
    "price_flags": pl.UInt8,
}
"""`copy` numbers equal rows without a sequence (`seq` 0) from 1; `quote_seq` is the quote's own sequence number, null
when unknown; `price_flags` (`SETS_RANGE`, `SETS_ENDS`) counts for stocks only."""
_FILLED = {"copy": 1, "price_flags": SETS_RANGE | SETS_ENDS, "quote_class": None}
REQUIRED = ("ts", "asset", "symbol", "root", "price", "size", "condition", "venue", "seq")
CONTRACT = ("asset", "symbol", "root", "expiry", "right", "strike")
IDENTITY = ("venue", *CONTRACT, "ts", "seq")
"""With the source, what makes a row itself: the same row seen twice counts once."""

_INDEX_ROOTS = {"SPXW": "SPX", "VIXW": "VIX", "NDXP": "NDX", "RUTW": "RUT", "SPXPM": "SPX", "MRUTW": "MRUT",
                "BRKB": "BRK.B", "BFB": "BF.B"}  # fmt: skip
_ADJUSTED = re.compile(r"^\d?([A-Z][A-Z./]*?)\d?$")


OSI = r"^(?:O:)?([A-Z0-9][A-Z0-9./]{0,5}?) *([0-9]{6})([CP])([0-9]{8})$"
"""An option's contract as one text: its root (padded or not), expiry (YYMMDD), right and strike in 1/1,000 USD."""
_OSI = re.compile(OSI)
SYMBOL_LENGTH = 32
_PUNCTUATION = "./=+*#$!@&~_:"
"""What exchanges and vendors put into a symbol besides letters and digits: classes (`BRK.B`, `BRK/B`), preferred
shares, units, warrants and rights (`-`, `=`, `+`, `^`), futures (`ES=F`, `/ES`), pairs (`BTC-USD`, `X:BTCUSD`)."""
SYMBOL_PATTERN = f"^[A-Z0-9{_PUNCTUATION}-][A-Z0-9{_PUNCTUATION}^-]{{0,{SYMBOL_LENGTH - 1}}}$"
"""What a symbol is, for readers, the API and the OpenAPI document: 1 to 32 characters, no letter in lower case. The
syntax is common to Python, Polars and ECMAScript."""
_SYMBOL = re.compile(SYMBOL_PATTERN[1:-1])


def is_symbol(text: str) -> bool:
    """Whether a text is a symbol by `SYMBOL_PATTERN`."""
    return _SYMBOL.fullmatch(text) is not None


@lru_cache(65_536)
def underlying_of(root: str) -> str:
    """Map an OPRA root to its underlying: `SPXW` → `SPX`, `AAPL1` → `AAPL`, `2SPX` → `SPX`, `BRKB` → `BRK.B`."""
    name = root.strip().upper().lstrip("^")
    found = _ADJUSTED.match(name)
    name = found.group(1) if found else name
    return _INDEX_ROOTS.get(name, name)


def underlyings(roots: pl.Series) -> pl.Series:
    """`underlying_of` for a column of roots; as many calls as there are distinct roots."""
    names = roots.cast(pl.String)
    table = {root: underlying_of(root) for root in names.unique().drop_nulls()}
    return (
        names.replace_strict(table, default=None, return_dtype=pl.String).cast(pl.Categorical).alias("symbol")
    )


def conform(frame: pl.DataFrame) -> pl.DataFrame:
    """Give a frame the columns, order and types of `SCHEMA`.

    An option's `symbol` becomes the underlying of the root it may name (`SPXW` → `SPX`); a stock's is not changed.
    Absent optional columns become null, except these, whose nulls are filled too: `copy` becomes 1, `price_flags`
    both bits, `quote_class` "own" where the row has a quote and "none" where it has none.

    Raises `UsageError` where a required column is missing, a type cannot be cast, or a symbol is an OSI symbol.
    """
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        raise UsageError(f"prints lack the column {', '.join(missing)}")
    columns = [_conformed(frame, name).cast(dtype) for name, dtype in SCHEMA.items()]
    try:
        return _of_underlyings(frame.select(columns))
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"prints have a column of the wrong type: {str(error).splitlines()[0]}") from None


def _of_underlyings(prints: pl.DataFrame) -> pl.DataFrame:
    """Prints whose options are filed under their underlying."""
    names = prints["symbol"].unique().drop_nulls().cast(pl.String).to_list()
    if contracts := [name for name in names if _OSI.match(name)]:
        raise UsageError(
            f"prints have the symbol {contracts[0]!r}, which names an option's contract: give its root, expiry, right "
            f"and strike in columns of their own"
        )
    table = {name: underlying_of(name) for name in names if underlying_of(name) != name}
    if not table:
        return prints
    mapped = pl.col("symbol").cast(pl.String).replace(table).cast(pl.Categorical)
    return prints.with_columns(pl.when(asset="option").then(mapped).otherwise("symbol").alias("symbol"))


def _conformed(frame: pl.DataFrame, name: str) -> pl.Expr:
    if name in frame.columns and (name not in _FILLED or not frame[name].null_count()):
        return pl.col(name)
    default = _own_class(frame) if name == "quote_class" else pl.lit(_FILLED.get(name))
    return (pl.coalesce(name, default) if name in frame.columns else default).alias(name)


def _own_class(frame: pl.DataFrame) -> pl.Expr:
    """The class of quotes that stand in the rows themselves."""
    quoted = [pl.col(name).is_not_null() for name in ("bid", "ask") if name in frame.columns]
    own = pl.when(pl.any_horizontal(quoted)).then(pl.lit("own")) if quoted else pl.lit(None, pl.String)
    return own.fill_null("none").cast(QuoteClass)


def latest_instant(ahead: int = DAY_NS) -> int:
    """The last instant (ns since 1970) that a print or quote may carry: `ahead` ns after the clock, in the calendar."""
    return min(clock.time_ns() + ahead, LATEST)


def out_of_range(instants: pl.Series, latest: int | None = None) -> pl.Series | None:
    """Which instants lie before `EARLIEST` or after `latest` (default: a day ahead of the clock); None where none does.

    `instants` are ns since 1970, as `Timestamp` or Int64. A null is not out of range.
    """
    numbers = instants.to_physical()
    low, high = numbers.min(), numbers.max()
    if latest is None:
        latest = latest_instant()
    if not isinstance(low, int) or not isinstance(high, int) or (low >= EARLIEST and high <= latest):
        return None
    return ~numbers.is_between(EARLIEST, latest).fill_null(value=True)


def day_bounds(day: date) -> tuple[datetime, datetime]:
    """The two UTC instants between which a New York date lies (23 or 25 hours apart on two days a year)."""
    start = datetime.combine(day, time(), NEW_YORK)
    end = datetime.combine(day + timedelta(days=1), time(), NEW_YORK)
    return start.astimezone(UTC), end.astimezone(UTC)


def minute_days(minute: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The trading day of each minute since 1970, as days since 1970. Shape as given."""
    if not len(minute):
        return minute
    first, last = (
        datetime.fromtimestamp(int(end) * 60, NEW_YORK).date() for end in (minute.min(), minute.max())
    )
    days = [first + timedelta(days=ahead) for ahead in range((last - first).days + 1)]
    starts = np.array([int(day_bounds(day)[0].timestamp()) // 60 for day in days])
    numbers: npt.NDArray[np.int64] = (
        (first - date(1970, 1, 1)).days - 1 + np.searchsorted(starts, minute, "right")
    )
    return numbers


def trading_days(ts: pl.Series) -> pl.Series:
    """The trading day of each instant: its date in New York. Shape as given, type Date."""
    low, high = ts.min(), ts.max()
    if not isinstance(low, datetime) or not isinstance(high, datetime):
        return pl.Series("day", [None] * len(ts), dtype=pl.Date)
    # One conversion a row is what a time zone costs; nearly every batch lies within one day.
    first, last = low.astimezone(NEW_YORK).date(), high.astimezone(NEW_YORK).date()
    if first == last and ts.null_count() == 0:
        return pl.Series("day", [first], dtype=pl.Date).new_from_index(0, len(ts))
    return ts.dt.convert_time_zone("America/New_York").dt.date().alias("day")
