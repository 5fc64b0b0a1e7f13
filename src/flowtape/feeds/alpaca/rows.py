"""Convert Alpaca's trades, quotes, cancels and corrections, from the stream and from REST, to frames of one form."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, cast

import msgspec
import polars as pl

from flowtape.feeds.base import Outlet
from flowtape.feeds.rows import EqualTrades, parsed, rows_of, tell
from flowtape.model.conditions import from_text, is_official, stock_conditions, without_official
from flowtape.model.prints import Condition
from flowtape.readers import common
from flowtape.readers import massive as files
from flowtape.readers.common import Field
from flowtape.readers.tickers import symbols_of

CONTRACT = r"^([A-Z0-9./]+?)(\d{6})([CP])(\d{8})$"
"""An option's symbol: an OSI symbol without padding."""
REMEMBERED = 180 * 10**9
"""The event time (ns) over which a stock's trades are remembered, to find the trade of a cancel. It exceeds the horizon
of `LiveJoin`, which a feed that resumes receives again."""
STRUCK, CORRECTED = ("canceled", "incorrect"), "corrected"
"""The update flags of trades in REST: no longer valid, or the replacement of such a trade."""
UNPLACED = "cancels of trades not remembered, placed at their own time"
_NAMED = ["instrument", "venue", "id", "price", "size"]
"""The columns by which a cancel names its trade. Price and size distinguish a trade from a correction with its id."""
CANCELS_OF_REPEATS = "cancels of rows that repeat a print, left out"

_Id = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Event(msgspec.Struct):
    """A message of the stream: a trade (`t`), quote (`q`), cancel (`x`), correction (`c`), or a message about the
    stream.
    """

    kind: str = msgspec.field(name="T")
    symbol: str | None = msgspec.field(default=None, name="S")
    t: msgspec.msgpack.Ext | None = None
    i: _Id | None = None
    x: str | None = None
    p: float | None = None
    s: float | None = None
    c: list[str] | str | None = None
    z: str | None = None
    bp: float | None = None
    bs: float | None = None
    ap: float | None = None
    as_: float | None = msgspec.field(default=None, name="as")
    oi: _Id | None = None
    op: float | None = None
    os: float | None = None
    oc: list[str] | str | None = None
    ci: _Id | None = None
    cp: float | None = None
    cs: float | None = None
    cc: list[str] | str | None = None
    code: int = 0
    msg: str = ""
    trades: list[str] = msgspec.field(default_factory=list)
    quotes: list[str] = msgspec.field(default_factory=list)


class Trade(msgspec.Struct):
    """A trade in REST."""

    t: str
    x: str | None = None
    p: float | None = None
    s: float | None = None
    i: _Id | None = None
    c: list[str] | str | None = None
    z: str | None = None
    u: str | None = None


class Quote(msgspec.Struct):
    """A quote in REST."""

    t: str
    bp: float | None = None
    bs: float | None = None
    ap: float | None = None
    as_: float | None = msgspec.field(default=None, name="as")


_TRADES = {
    "ticker": pl.String, "ts": pl.Int64, "id": pl.Int64, "exchange": pl.String, "price": pl.Float64,
    "size": pl.Float64, "conditions": pl.String, "tape": pl.String, "update": pl.String,
}  # fmt: skip
_QUOTES = {
    "ticker": pl.String, "ts": pl.Int64, "bid_price": pl.Float64, "ask_price": pl.Float64,
    "bid_size": pl.Float64, "ask_size": pl.Float64,
}  # fmt: skip


def _nanoseconds(time: msgspec.msgpack.Ext | None) -> int | None:
    """Return ns from a msgpack timestamp (extension −1: seconds in 4 bytes, or nanoseconds and seconds in 8 or 12)."""
    if time is None or time.code != -1:
        return None
    data = bytes(time.data)
    number = int.from_bytes(data)
    if len(data) == 4:
        return number * 10**9
    if len(data) == 8:
        return (number & (2**34 - 1)) * 10**9 + (number >> 34)
    ns = (number & (2**64 - 1)) * 10**9 + (number >> 64)
    return ns if ns < 2**63 else None


def _letters(conditions: list[str] | str | None) -> str | None:
    return ",".join(conditions) if isinstance(conditions, list) else conditions


def live_trades(events: Sequence[Event]) -> pl.DataFrame:
    """Return the trades among messages, with corrected ones, as source rows."""
    rows = [
        (e.symbol, _nanoseconds(e.t), e.i, e.x, e.p, e.s, _letters(e.c), e.z, None)
        if e.kind == "t"
        else (e.symbol, _nanoseconds(e.t), e.ci, e.x, e.cp, e.cs, _letters(e.cc), e.z, CORRECTED)
        for e in events
        if e.kind in ("t", "c")
    ]
    return pl.DataFrame(rows, _TRADES, orient="row")


def live_struck(events: Sequence[Event]) -> pl.DataFrame:
    """Return the trades that cancels and corrections remove, as source rows with the time of that message."""
    rows = [
        (e.symbol, _nanoseconds(e.t), e.i, e.x, e.p, e.s, None, e.z, STRUCK[0])
        if e.kind == "x"
        else (e.symbol, _nanoseconds(e.t), e.oi, e.x, e.op, e.os, _letters(e.oc), e.z, STRUCK[1])
        for e in events
        if e.kind in ("x", "c")
    ]
    return pl.DataFrame(rows, _TRADES, orient="row")


def live_quotes(events: Sequence[Event]) -> pl.DataFrame:
    """Return the quotes among messages, as source rows."""
    rows = [(e.symbol, _nanoseconds(e.t), e.bp, e.ap, e.bs, e.as_) for e in events if e.kind == "q"]
    return pl.DataFrame(rows, _QUOTES, orient="row")


def fetched_trades(pages: dict[str, list[Any]], outlet: Outlet) -> pl.DataFrame:
    """Return the trades of REST, by symbol, as source rows. Malformed ones are counted."""
    rows = [
        (symbol, t.t, t.i, t.x, t.p, t.s, _letters(t.c), t.z, t.u)
        for symbol, page in pages.items()
        for t in rows_of(Trade, page or [], msgspec.convert, outlet)
    ]
    return _timed(pl.DataFrame(rows, _TRADES | {"ts": pl.String}, orient="row"))


def fetched_quotes(pages: dict[str, list[Any]], outlet: Outlet) -> pl.DataFrame:
    """Return the quotes of REST, by symbol, as source rows. Malformed ones are counted."""
    rows = [
        (symbol, q.t, q.bp, q.ap, q.bs, q.as_)
        for symbol, page in pages.items()
        for q in rows_of(Quote, page or [], msgspec.convert, outlet)
    ]
    return _timed(pl.DataFrame(rows, _QUOTES | {"ts": pl.String}, orient="row"))


def _timed(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(common.instants(rows["ts"], Counter()).cast(pl.Int64).alias("ts"))


_CLOCK = Field("ts", "ts", common.nanoseconds(pl.col("ts")), "t is not a time")
_TICKER = Field("instrument", "ticker", pl.col("ticker"), "symbol is blank")
_TRADED = [
    _CLOCK,
    common.price("price"),
    common.text("venue", "exchange"),
    _TICKER,
    Field("conditions", "conditions", pl.col("conditions"), "", required=False),
    Field("tape", "tape", pl.col("tape"), "", required=False),
    Field("update", "update", pl.col("update"), "", required=False),
]
_STOCK_FIELDS = [*files.STOCK_FIELDS, *_TRADED, *common.size("stock"), common.number("id", "id")]
_OPTION_FIELDS = [
    *(replace(field, what="symbol is not OSI's") for field in files.OPTION_FIELDS),
    *_TRADED,
    *common.size("option"),
]
_QUOTE_FIELDS = [
    _TICKER,
    Field("ts", "ts", pl.col("ts"), "t is not a time"),
    common.quote("bid", "bid_price"),
    common.quote("ask", "ask_price"),
]


def quotes_of(raw: pl.DataFrame, outlet: Outlet, *, stocks: bool) -> pl.DataFrame:
    """Return quotes with the columns of `quotes.STANDING` from source rows. Alpaca does not number quotes. Rows left
    out are counted."""
    fields = [*_QUOTE_FIELDS, *files.quote_sizes("stock" if stocks else "option")]
    return parsed(raw, fields, outlet).with_columns(pl.lit(0, pl.Int64).alias("seq"))


class Trades:
    """Converts source rows to trades with `instrument`, their contract's parts and `copy`, and to cancels.

    A stock's trade has its id as `copy`. Its cancel has the same id, is 1 ns later, and has a `seq` before all others.
    It therefore removes exactly this trade, and is the same row from the stream and from REST.
    """

    def __init__(self, outlet: Outlet, *, stocks: bool) -> None:
        self._outlet, self._stocks = outlet, stocks
        self._equal_trades = EqualTrades()
        self._remembered: deque[tuple[int, pl.DataFrame]] = deque()
        self._newest = 0

    def of(self, raw: pl.DataFrame, struck: pl.DataFrame | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return trades and cancels. `struck` are the trades that the stream removes, as source rows. Rows left out are
        counted."""
        if not self._stocks:
            return self._options(raw)
        notes = Counter[str]()
        trades = self._stock_rows(raw, notes)
        self._remember(trades)
        dead = [trades.filter(pl.col("update").is_in(STRUCK))]
        if struck is not None and struck.height:
            dead.append(self._placed(self._stock_rows(struck, Counter())))
        cancels = pl.concat(dead, how="diagonal")
        repeats = cancels["repeats"].fill_null(False)
        notes[CANCELS_OF_REPEATS] += int(repeats.sum())
        cancels = cancels.filter(~repeats).with_columns(
            pl.col("ts").dt.offset_by("1ns"),
            seq=pl.lit(-1, pl.Int64),
            copy=pl.col("id"),
            condition=pl.lit("CANC", Condition),
        )
        trades = without_official(trades, notes)
        tell(notes, self._outlet)
        # The quote at the time of a correction is not the trade's quote, so the trade gets a condition without a side.
        corrected = pl.col("update").eq_missing(CORRECTED)
        trades = trades.with_columns(
            copy=pl.col("id"),
            condition=pl.when(corrected).then(pl.lit("STK_SOLD", Condition)).otherwise("condition"),
        )
        return trades, cancels

    def _options(self, raw: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        parts = pl.col("ticker").str.extract_groups(CONTRACT).alias("#parts")
        trades = parsed(raw.with_columns(parts).unnest("#parts"), _OPTION_FIELDS, self._outlet)
        condition = trades.select(from_text(pl.col("conditions")).fill_null("unknown")).to_series()
        notes = Counter[str]()
        common.note_unknown(condition, trades["conditions"], notes)
        tell(notes, self._outlet)
        # Trades differ only in their content. `q` is the sequence number, which they lack.
        trades = trades.with_columns(condition, q=pl.lit(None, pl.Int64))
        trades = self._equal_trades.number(trades)
        return trades, trades.clear()

    def _stock_rows(self, raw: pl.DataFrame, notes: Counter[str]) -> pl.DataFrame:
        """Return the good rows with their conditions; `repeats` marks rows that only repeat a print."""
        raw = raw.with_columns(symbols_of(raw["ticker"]).alias("#symbol"))
        rows = parsed(raw, _STOCK_FIELDS, self._outlet)
        told = stock_conditions(rows["conditions"], rows["ts"], notes, tape=rows["tape"])
        return rows.with_columns(told.get_columns()).with_columns(is_official().alias("repeats"))

    def _remember(self, trades: pl.DataFrame) -> None:
        if trades.is_empty():
            return
        latest = cast(int, trades["ts"].to_physical().max())
        self._newest = max(self._newest, latest)
        self._remembered.append(
            (latest, trades.select(*_NAMED, was=pl.col("ts"), repeated=pl.col("repeats")))
        )
        while self._remembered[0][0] <= self._newest - REMEMBERED:
            self._remembered.popleft()

    def _placed(self, struck: pl.DataFrame) -> pl.DataFrame:
        """Return rows with the time of the trade they remove, if it is remembered."""
        nothing = struck.clear().select(*_NAMED, was=pl.col("ts"), repeated=pl.col("repeats"))
        known = pl.concat([nothing, *(frame for _, frame in self._remembered)]).unique(_NAMED, keep="last")
        struck = struck.join(known, on=_NAMED, how="left", maintain_order="left")
        if missing := struck["was"].null_count():
            self._outlet.count(UNPLACED, missing)
        repeats = pl.col("repeats") | pl.col("repeated").fill_null(False)
        return struck.with_columns(pl.coalesce("was", "ts").alias("ts"), repeats=repeats).drop(
            "was", "repeated"
        )
