"""The columns, types and units of prints, and checks of a frame of prints.

A print is one trade of one contract (or one stock) with its prevailing quote. Frames of prints have the columns of
`SCHEMA`, in that order. Prices, quotes, strikes and underlying mids are integers of 1/10,000 USD. Comparisons such as
"at the ask" and "exactly mid" are therefore exact, and sums do not depend on order or batch. Sizes are whole contracts
of options and integers of 1/10,000 share of stocks (`SIZE_SCALE`).
"""

from __future__ import annotations

import re
import time as clock
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, cast
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape.errors import TapeError, UsageError
from flowtape.model import columns, prices
from flowtape.model.categories import TextRanks

PRICE_SCALE = prices.PRICE_SCALE
"""Price units per USD: a price of 11,000 is 1.10 USD."""
MAX_PRICE = prices.MAX_PRICE
"""The largest price of a print, in units of 1/10,000 USD."""
SIZE_SCALE = {"option": 1, "stock": 10_000}
"""Integer size units per contract, or per share, by asset."""
SIZES = ("size", "bid_size", "ask_size")
"""The columns of prints that are in size units."""
MAX_SIZE = 2**31 - 1
"""The largest size of a print, in contracts or shares."""
MAX_NOTIONAL = 10**12
"""The largest price x size of a print, in USD (10^12), without the contract multiplier."""
TOO_LARGE = "price x size is beyond a million million USD"
"""The reason given for a print whose value exceeds `MAX_NOTIONAL`."""
SIZES_ROUNDED = "sizes rounded to 1/10,000 share"
"""The note that counts sizes finer than 1/10,000 share."""
MAX_STRIKE = 999_999_990
"""The largest strike an OSI symbol can hold: 99,999.999 USD."""
LIMITS = {
    "strike": (10, MAX_STRIKE),
    "price": (0, MAX_PRICE),
    **dict.fromkeys(("bid", "ask", "underlying"), (-MAX_PRICE, MAX_PRICE)),
    "size": (1, MAX_SIZE * SIZE_SCALE["stock"]),
    **dict.fromkeys(("bid_size", "ask_size"), (0, 2**53)),
}
"""The least and the greatest valid value of columns of prints, in their own units. An option's size is limited by
`MAX_SIZE`."""
_BOUNDS = {
    "strike": "is not a strike above 0 and below 100,000 USD",
    "price": "is not a price from 0 to 10,000,000 USD",
    **dict.fromkeys(("bid", "ask", "underlying"), "is not a price of at most 10,000,000 USD"),
    "size": "is not a size from 1 to 2,147,483,647",
    **dict.fromkeys(("bid_size", "ask_size"), "is not a whole number from 0 up"),
}
NEW_YORK = ZoneInfo("America/New_York")
"""The time zone of trading days."""
FIRST_DAY, LAST_DAY = date(1990, 1, 1), date(2099, 12, 31)
"""The first and the last date of the exchanges' calendar. Other dates are invalid."""
DAY_NS = 86_400 * 10**9
"""Nanoseconds in 24 hours."""
EARLIEST = (FIRST_DAY - date(1970, 1, 1)).days * DAY_NS
"""The first instant of the calendar, ns since 1970, UTC."""
LATEST = ((LAST_DAY - date(1970, 1, 1)).days + 1) * DAY_NS - 1
"""The last instant of the calendar, ns since 1970, UTC."""
OUT_OF_RANGE = f"is before {FIRST_DAY} or more than a day ahead of the clock"
"""The reason given for a time outside the calendar."""

Asset = pl.Enum(["option", "stock"])
"""The type of the column `asset`."""
Right = pl.Enum(["C", "P"])
"""The type of the column `right`: call or put."""
Side = pl.Enum(["buy", "sell", "mid"])
"""The type of the column `side`: the aggressor side, or `mid` where it is unknown."""
Timestamp = pl.Datetime("ns", "UTC")
"""The type of all instants."""

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
"""The vocabulary of sale conditions: OPRA's mnemonics for options, names `STK_…` for stocks (see `conditions`). The
position of a name is its number in a store. Add new names only at the end."""
Condition = pl.Enum(CONDITION_NAMES)
"""The type of the column `condition`."""

QUOTE_CLASSES = ("none", "sampled", "joined", "own")
"""The origin of a print's quote, weakest first: no quote; a join with samples of the quotes (`cbbo-1s`); a join with
every quote; the print's own row. The position of a name is its number in a store."""
QuoteClass = pl.Enum(QUOTE_CLASSES)
"""The type of the column `quote_class`."""
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
    "corrects": pl.UInt8,
    "underlying": pl.Int64,
    "price_flags": pl.UInt8,
}
"""`copy` numbers equal rows without a sequence (`seq` 0) from 1. `corrects` is 1 where the source marks the row as a
correction of another row with its sequence number. `quote_seq` is the quote's own sequence number, null when unknown.
`price_flags` (`SETS_RANGE`, `SETS_ENDS`) applies to stocks only."""
_TYPES = pl.DataFrame(schema=SCHEMA).schema
_FILLED = {
    "seq": 0,
    "condition": "unknown",
    "copy": 1,
    "corrects": 0,
    "price_flags": SETS_RANGE | SETS_ENDS,
    "quote_class": None,
}
REQUIRED = ("ts", "asset", "symbol", "root", "price", "size", "condition", "venue")
"""The columns without nulls."""
PARTS = ("expiry", "right", "strike")
"""The columns that, with the root, name an option's contract. They are null for a stock."""
CONTRACT = ("asset", "symbol", "root", "expiry", "right", "strike")
"""The columns that name a contract or a stock."""
IDENTITY = ("venue", *CONTRACT, "ts", "seq", "price", "size", "condition", "copy")
"""The columns that, with the source, identify a row. Rows that agree in them are duplicates and count once."""

_INDEX_ROOTS = {"SPXW": "SPX", "VIXW": "VIX", "NDXP": "NDX", "RUTW": "RUT", "SPXPM": "SPX", "MRUTW": "MRUT",
                "BRKB": "BRK.B", "BFB": "BF.B"}  # fmt: skip
_ADJUSTED = re.compile(r"^\d?([A-Z][A-Z./]*?)\d?$")

OSI = r"^(?:O:)?([A-Z0-9][A-Z0-9./]{0,5}?) *([0-9]{6})([CP])([0-9]{8})$"
"""An option's contract as one text: its root (padded or not), expiry (YYMMDD), right and strike in 1/1,000 USD."""
LIKE_OPTION = r"^\.?(?:O:)?[A-Z0-9][A-Z0-9./]{0,6}? *_?[0-9]{6}[CP][0-9.]+$"
"""Texts that are never a stock's symbol: an OSI symbol, or the same contract in another spelling (`.SPY260515C500`)."""
_LIKE_OPTION = re.compile(LIKE_OPTION)
SYMBOL_LENGTH = 32
"""The greatest length of a symbol or a root, in characters."""
_PUNCTUATION = "./=+*#$!@&~_:"
"""The characters besides letters and digits in symbols of exchanges and vendors: classes (`BRK.B`, `BRK/B`), preferred
shares, units, warrants and rights (`-`, `=`, `+`, `^`), futures (`ES=F`, `/ES`), pairs (`BTC-USD`, `X:BTCUSD`)."""
SYMBOL_PATTERN = f"^[A-Z0-9{_PUNCTUATION}-][A-Z0-9{_PUNCTUATION}^-]{{0,{SYMBOL_LENGTH - 1}}}$"
"""The syntax of a symbol in readers, the API and the OpenAPI document: 1 to 32 characters, no lower case. The regular
expression is valid in Python, Polars and ECMAScript."""
_SYMBOL = re.compile(SYMBOL_PATTERN[1:-1])


MAX_NAMES = {"symbol": 100_000, "root": 100_000, "venue": 5_000}
"""The largest number of distinct names of a column in a batch. OPRA has about 6,000 roots, the stock tapes 12,000
symbols. A process keeps every name for good, so the limit bounds its memory."""


def check_distinct(names: pl.Series, column: str, file: str = "") -> None:
    """Raise `TapeError` if a column of prints has more distinct names than `MAX_NAMES` allows."""
    if len(names) > MAX_NAMES[column]:
        some = ", ".join(map(repr, names.head(3)))
        what = f"more than {MAX_NAMES[column]:,} distinct names as {column} ({some}, …): is it really one?"
        raise TapeError(f"{file}: {what}" if file else what)


NAME_LENGTH = 32
"""The greatest length of a venue's name, in characters."""
NAME_PATTERN = f"^[ -~]{{0,{NAME_LENGTH}}}$"
"""The syntax of a venue's name: up to 32 printable ASCII characters."""
_NAME = re.compile(NAME_PATTERN[1:-1])


def is_name(text: str) -> bool:
    """Return whether a text matches `NAME_PATTERN`."""
    return _NAME.fullmatch(text) is not None


@lru_cache(131_072)
def is_symbol(text: str) -> bool:
    """Return whether a text matches `SYMBOL_PATTERN`."""
    return _SYMBOL.fullmatch(text) is not None


@lru_cache(65_536)
def underlying_of(root: str) -> str:
    """Return the underlying of an OPRA root: `SPXW` → `SPX`, `AAPL1` → `AAPL`, `2SPX` → `SPX`, `BRKB` → `BRK.B`."""
    name = root.strip().upper().lstrip("^")
    found = _ADJUSTED.match(name)
    name = found.group(1) if found else name
    return _INDEX_ROOTS.get(name, name)


def underlyings(roots: pl.Series) -> pl.Series:
    """Return the underlying of each root of a column. `underlying_of` is called once for each distinct root."""
    names = roots.cast(pl.String)
    distinct = names.unique().drop_nulls()
    check_distinct(distinct, "root")
    found = pl.Series(map(underlying_of, distinct), dtype=pl.String)
    return names.replace_strict(distinct, found, default=None).cast(pl.Categorical).alias("symbol")


def conform(frame: Any) -> pl.DataFrame:
    """Return a caller's frame as prints, after a check of every row.

    The required columns are `ts`, `symbol`, `price` and `size`, and for options `expiry`, `right` and `strike`. Without
    the column `asset`, rows with a strike are options. A frame may have `root` in place of `symbol`, and the reverse.
    An absent `condition` becomes "unknown", an absent `venue` empty.

    Columns that are not in `SCHEMA` are dropped. Absent optional columns are filled as in `arranged`. Types with a
    clear meaning are converted. The type of `price` gives the unit of all prices of the frame: an integer is 1/10,000
    USD, a float or decimal is USD. The type of `size` gives the unit of all its sizes: an integer is contracts of
    options and 1/10,000 share of stocks, a float or decimal is contracts or shares. A time may have any time zone.
    Names may be in lower case. Prices finer than 1/10,000 USD are rounded as in `prices.rounded`, sizes finer than
    1/10,000 share half to even; a warning gives their number.

    Args:
        frame: a Polars frame or LazyFrame, a pandas frame, or an object with the Arrow C stream interface.

    Returns:
        A frame with the columns, order and types of `SCHEMA`, one row for each given row.

    Raises:
        UsageError: a column is missing, the meaning of a type is unclear, or a value is not valid in a print. The
            message names the column, the row (the first is 1) and the value.
    """
    given = _completed(columns.polars_of(frame))
    missing = [name for name in REQUIRED if name not in given.columns]
    if missing:
        index = getattr(getattr(frame, "index", None), "names", ())
        hint = "; its index has it: call reset_index()" if set(missing) & set(index) else ""
        raise UsageError(f"prints lack the column {', '.join(missing)}{hint}")
    known = given.select(name for name in SCHEMA if name in given.columns)
    # The conversion of sizes that are not in units depends on the asset.
    sizes = [name for name in SIZES if name in known.columns and not known["size"].dtype.is_integer()]
    units = known["price"].dtype.is_integer()
    made = pl.DataFrame([_converted(column, units=units) for column in known if column.name not in sizes])
    if not units:
        made = prices.rounded(made, _warned)
        if "strike" in made.columns:
            strike = made.select(strike_units(pl.col("strike"))).to_series()
            made = made.with_columns(columns.kept(strike, known["strike"], "is not a multiple of 0.001 USD"))
    stock = made["asset"] == "stock"
    made = made.with_columns(_in_units(known[name], stock) for name in sizes)
    if stock.any() or stock.null_count():
        parts = [pl.when(asset="option").then(pl.col(name)).alias(name) for name in PARTS if name in made]
        made = made.with_columns(parts)
    prints = arranged(made)
    check(prints, given)
    return prints


def _completed(given: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with the columns that follow from others: `asset`, `symbol`, `root`, `condition` and `venue`."""
    has = set(given.columns)
    made: dict[str, pl.Expr] = {}
    if "asset" not in has:
        option = (
            pl.col("strike").is_not_null() if "strike" in has else pl.lit("expiry" in has or "right" in has)
        )
        made["asset"] = pl.when(option).then(pl.lit("option")).otherwise(pl.lit("stock"))
    for name, other in (("symbol", "root"), ("root", "symbol")):
        if name not in has and other in has:
            made[name] = pl.col(other)
    for name, value in (("condition", "unknown"), ("venue", "")):
        if name not in has:
            made[name] = pl.lit(value)
    return given.with_columns(**made)


def _in_units(column: pl.Series, stock: pl.Series) -> pl.Series:
    """Return sizes of contracts or shares in size units; `stock` marks the rows of shares."""
    amount = columns.nanos_of(column, 2 * MAX_SIZE)
    contracts = amount // _ONE
    contracts = contracts.set((amount % _ONE != 0).fill_null(value=False), None)
    shares = amount.to_frame("#").select(prices.units(pl.col("#"))).to_series()
    finer = stock & (amount % prices.NANOS != 0).fill_null(value=False)
    if column.name == "size" and finer.any():
        _warned(SIZES_ROUNDED, int(finer.sum()))
    known = column.fill_nan(None) if column.dtype.is_float() else column
    return columns.kept(shares.zip_with(stock, contracts), known, "is not a whole number")


def _warned(what: str, many: int) -> None:
    warnings.warn(f"{what}: {many}", stacklevel=5)


_MONEY = ("price", "bid", "ask", "underlying", "strike")
_ONE = prices.NANOS * SIZE_SCALE["stock"]
"""Nanos in one contract or share."""
_NO_UNITS = "is not a whole number of 1/10,000 USD, as price is; where price is in USD, make it a float"
Convert = Callable[[pl.Series], pl.Series]
"""A function that converts one column of a caller's frame."""


def _named(good: Callable[[str], bool], pattern: str, strip: str = "") -> Convert:
    what = f"does not match {pattern}"
    return lambda column: columns.names(column, good, what, MAX_NAMES[column.name], strip)


def _chosen(kind: pl.Enum, what: str, choices: Mapping[str, str] | None = None) -> Convert:
    known = {name.upper(): name for name in kind.categories} | dict(choices or {})
    return lambda column: columns.chosen(column, kind, known, what)


def _within(low: int, high: int) -> Convert:
    def convert(column: pl.Series) -> pl.Series:
        made = columns.whole(column)
        columns.refuse(
            column, ~made.is_between(low, high).fill_null(value=True), f"is not from {low} to {high}"
        )
        return made

    return convert


_CONVERT: dict[str, Convert] = {
    **dict.fromkeys(
        ("ts", "quote_ts"), lambda column: columns.instants(column, EARLIEST, latest_instant(), OUT_OF_RANGE)
    ),
    "asset": _chosen(Asset, "is neither option nor stock"),
    "symbol": _named(is_symbol, SYMBOL_PATTERN, "^"),
    "root": _named(is_symbol, SYMBOL_PATTERN),
    "venue": _named(is_name, NAME_PATTERN),
    "expiry": columns.dates,
    "right": _chosen(Right, "is neither call nor put", {"CALL": "C", "PUT": "P"}),
    "condition": _chosen(Condition, "is not a sale condition", {"": "unknown"}),
    "quote_class": _chosen(QuoteClass, "is not a class of a quote"),
    "corrects": _within(0, 1),
    "price_flags": _within(0, SETS_RANGE | SETS_ENDS),
}
"""The conversion of each column of a caller's frame to its type in `SCHEMA`. Other columns are whole numbers."""


def _converted(column: pl.Series, *, units: bool) -> pl.Series:
    """Return a column in its type of `SCHEMA`. Prices become nanos unless they are in `units`."""
    if column.name in _MONEY:
        return columns.whole(column, _NO_UNITS) if units else columns.usd(column)
    return _CONVERT.get(column.name, columns.whole)(column)


def strike_units(amount: pl.Expr, unit: int = prices.NANOS) -> pl.Expr:
    """Return strikes in price units from amounts, `unit` of which are one price unit; null if finer than 0.001 USD."""
    return pl.when(amount % (10 * unit) == 0).then(amount // unit)


def arranged(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame of valid prints with the columns, order and types of `SCHEMA`. Values are not checked.

    An option's `symbol` becomes the underlying of the root it may name (`SPXW` → `SPX`); a stock's is not changed.
    Absent optional columns become null. In these columns, absent or null values are filled: `condition` with "unknown",
    `seq` and `corrects` with 0, `copy` with 1, `price_flags` with both bits, `quote_class` with "own" where the row has
    a quote and "none" where it has none.

    Raises:
        UsageError: a required column is missing, a type cannot be cast, or a symbol is an OSI symbol.
    """
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        raise UsageError(f"prints lack the column {', '.join(missing)}")
    made = {name: _filled(frame, name) for name in SCHEMA}
    lacking = [value.cast(SCHEMA[name]) for name, value in made.items() if value is not None]
    try:
        return _of_underlyings(frame.with_columns(lacking)[list(SCHEMA)])
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"prints have a column of the wrong type: {str(error).splitlines()[0]}") from None


_RENAMED_NAMES = TextRanks()


def _is_renamed(names: pl.Series) -> pl.Series:
    """Return 1 for names that are their own underlying and not an option's symbol, else 2."""
    renamed = [underlying_of(name) != name or _LIKE_OPTION.match(name) is not None for name in names]
    return pl.Series(renamed, dtype=pl.Boolean).cast(pl.UInt8) + 1


def _of_underlyings(prints: pl.DataFrame) -> pl.DataFrame:
    """Return prints with the symbol of each option replaced by its underlying."""
    if _RENAMED_NAMES.greatest(prints["symbol"], _is_renamed) < 2:
        return prints
    names = prints["symbol"].unique().drop_nulls().cast(pl.String)
    if contracts := [name for name in names if _LIKE_OPTION.match(name)]:
        raise UsageError(
            f"prints have the symbol {contracts[0]!r}, which names an option's contract: give its root, expiry, right "
            f"and strike in columns of their own"
        )
    symbol = pl.when(asset="option").then(underlyings(prints["symbol"])).otherwise("symbol")
    return prints.with_columns(symbol.alias("symbol"))


def check(prints: pl.DataFrame, given: pl.DataFrame | None = None) -> None:
    """Check that prints in `SCHEMA` are within bounds, by the minimum and maximum of each column.

    Args:
        prints: the rows.
        given: the same rows before conversion, whose values are shown in an error.

    Raises:
        UsageError: a row is out of bounds. The message names the column, the row and the value of the first one.
    """
    shown = prints if given is None else given
    for name in ("ts", "asset", "symbol", "root", "price", "size", "seq"):
        if prints[name].null_count():
            columns.refuse(shown[name], prints[name].is_null(), "a print needs it")
    for name, (low, high) in LIMITS.items():
        values = prints[name]
        least, most = values.min(), values.max()
        if least is not None and (cast(int, least) < low or cast(int, most) > high):
            columns.refuse(shown[name], ~values.is_between(low, high).fill_null(value=True), _BOUNDS[name])
    for name in ("ts", "quote_ts"):
        beyond = out_of_range(prints[name])
        if beyond is not None:
            columns.refuse(shown[name], beyond, OUT_OF_RANGE)
    largest = prints["size"].max()
    if isinstance(largest, int) and largest > MAX_SIZE:
        columns.refuse(
            shown["size"], (prints["asset"] == "option") & (prints["size"] > MAX_SIZE), _BOUNDS["size"]
        )
    beyond = too_large(prints)
    if beyond is not None:
        columns.refuse(shown["size"], beyond, f"of a print whose {TOO_LARGE}")
    _check_contracts(prints)


def _check_contracts(prints: pl.DataFrame) -> None:
    """Check that options have an expiry, a right and a strike, and that stocks have none of them."""
    option = prints["asset"] == "option"
    if option.all() and not any(prints[name].null_count() for name in PARTS):
        return
    for name in PARTS:
        columns.refuse(prints[name], option & prints[name].is_null(), "an option needs it")
        columns.refuse(prints[name], ~option & prints[name].is_not_null(), "a stock has none")


def _filled(frame: pl.DataFrame, name: str) -> pl.Expr | None:
    """Return the expression that fills a column of prints, or None where the frame already has it as needed."""
    if name in frame.columns and (name not in _FILLED or not frame[name].has_nulls()):
        return None if frame[name].dtype == _TYPES[name] else pl.col(name)
    default = _own_class(frame) if name == "quote_class" else pl.lit(_FILLED.get(name))
    return (pl.coalesce(name, default) if name in frame.columns else default).alias(name)


def _own_class(frame: pl.DataFrame) -> pl.Expr:
    """Return the quote class of prints whose quotes are in their own rows."""
    names = [name for name in ("bid", "ask") if name in frame.columns]
    if any(not frame[name].null_count() for name in names):
        return pl.lit("own", QuoteClass)
    quoted = [pl.col(name).is_not_null() for name in names]
    own = pl.when(pl.any_horizontal(quoted)).then(pl.lit("own")) if quoted else pl.lit(None, pl.String)
    return own.fill_null("none").cast(QuoteClass)


def latest_instant(ahead: int = DAY_NS) -> int:
    """Return the last valid instant of prints and quotes, in ns since 1970: `ahead` ns after now, at most `LATEST`."""
    return min(clock.time_ns() + ahead, LATEST)


def out_of_range(instants: pl.Series, latest: int | None = None) -> pl.Series | None:
    """Return a mask of the instants before `EARLIEST` or after `latest`, or None where there are none.

    Args:
        instants: ns since 1970, as `Timestamp` or Int64. Nulls are in range.
        latest: ns since 1970; by default a day ahead of the clock.
    """
    numbers = instants.to_physical()
    low, high = numbers.min(), numbers.max()
    if latest is None:
        latest = latest_instant()
    if not isinstance(low, int) or not isinstance(high, int) or (low >= EARLIEST and high <= latest):
        return None
    return ~numbers.is_between(EARLIEST, latest).fill_null(value=True)


def too_large(prints: pl.DataFrame) -> pl.Series | None:
    """Return a mask of the prints whose price x size is greater than `MAX_NOTIONAL`, or None where there are none."""
    price, size = prints["price"], prints["size"]
    of_option, of_stock = (
        prices.beyond(price, size, MAX_NOTIONAL * PRICE_SCALE * SIZE_SCALE[asset])
        for asset in Asset.categories
    )
    if of_option is None:
        return None
    found = of_option & (prints["asset"] == "option")
    # The limit of stocks is the larger number, so it is checked only where that of options is exceeded.
    found = found if of_stock is None else found | of_stock
    return found if found.any() else None


def day_bounds(day: date) -> tuple[datetime, datetime]:
    """Return the UTC instants at which a New York date begins and ends. Two days a year have 23 or 25 hours."""
    start = datetime.combine(day, time(), NEW_YORK)
    end = datetime.combine(day + timedelta(days=1), time(), NEW_YORK)
    return start.astimezone(UTC), end.astimezone(UTC)


def minute_days(minute: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the trading day of each minute since 1970, as days since 1970, in the same shape."""
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
    """Return the trading day (New York date) of each instant, as Date, in the same shape."""
    low, high = ts.min(), ts.max()
    if not isinstance(low, datetime) or not isinstance(high, datetime):
        return pl.Series("day", [None] * len(ts), dtype=pl.Date)
    # A time zone conversion is slow for each row. Nearly every batch lies within one day and needs only one.
    first, last = low.astimezone(NEW_YORK).date(), high.astimezone(NEW_YORK).date()
    if first == last and ts.null_count() == 0:
        return pl.Series("day", [first], dtype=pl.Date).new_from_index(0, len(ts))
    return ts.dt.convert_time_zone("America/New_York").dt.date().alias("day")
