"""Convert Massive's trades and quotes, from the websocket and from REST, to frames of one form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import polars as pl

from flowtape.feeds.base import Outlet
from flowtape.feeds.rows import EqualTrades, parsed, tell
from flowtape.model.conditions import without_official
from flowtape.readers import common
from flowtape.readers import massive as files
from flowtape.readers.common import Field
from flowtape.readers.tickers import symbols_of

_MS = 1_000_000

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Millis = Annotated[int, msgspec.Meta(ge=10**12, le=4 * 10**12)]
_Nanos = Annotated[int, msgspec.Meta(ge=10**18, le=4 * 10**18)]


@dataclass(frozen=True, slots=True)
class Server:
    """The servers of a market: `url` is the websocket's host and port, `rest` the base address of the pages."""

    market: str
    url: str
    rest: str
    secure: bool


class Event(msgspec.Struct):
    """A websocket event: a status, a trade or a quote."""

    ev: str
    sym: str | None = None
    t: _Millis | None = None
    q: _Count | None = None
    x: int | None = None
    p: float | None = None
    s: float | None = None
    c: list[int] | int | None = None
    i: str | list[int] | None = None
    bp: float | None = None
    bs: float | None = None
    ap: float | None = None
    as_: float | None = msgspec.field(default=None, name="as")
    status: str = ""
    message: str = ""


class Trade(msgspec.Struct):
    """A trade in REST."""

    sip_timestamp: _Nanos | None = None
    participant_timestamp: _Nanos | None = None
    sequence_number: _Count | None = None
    exchange: int | None = None
    price: float | None = None
    size: float | None = None
    conditions: list[int] | None = None
    correction: int | None = None
    id: str | None = None


class Quote(msgspec.Struct):
    """A quote in REST."""

    sip_timestamp: _Nanos | None = None
    sequence_number: _Count | None = None
    bid_price: float | None = None
    bid_size: float | None = None
    ask_price: float | None = None
    ask_size: float | None = None


class Contract(msgspec.Struct):
    """A contract in REST's listing."""

    ticker: str


_TRADES = {
    "ticker": pl.String, "sip_timestamp": pl.Int64, "sequence_number": pl.Int64, "exchange": pl.String,
    "price": pl.Float64, "size": pl.Float64, "conditions": pl.String, "correction": pl.String, "id": pl.String,
}  # fmt: skip
_QUOTES = {
    "ticker": pl.String, "sip_timestamp": pl.Int64, "sequence_number": pl.Int64, "bid_price": pl.Float64,
    "ask_price": pl.Float64, "bid_size": pl.Float64, "ask_size": pl.Float64,
}  # fmt: skip


def _text(number: object) -> str | None:
    return None if number is None or number == [] else str(number)


def live_trades(events: Sequence[Event]) -> pl.DataFrame:
    """Return the trades among websocket events, as source rows."""
    rows = [
        (e.sym, e.t and e.t * _MS, e.q, _text(e.x), e.p, e.s, _text(e.c), None, _text(e.i))
        for e in events
        if e.ev == "T"
    ]
    return pl.DataFrame(rows, _TRADES, orient="row")


def live_quotes(events: Sequence[Event]) -> pl.DataFrame:
    """Return the quotes among websocket events, as source rows."""
    rows = [(e.sym, e.t and e.t * _MS, e.q, e.bp, e.ap, e.bs, e.as_) for e in events if e.ev == "Q"]
    return pl.DataFrame(rows, _QUOTES, orient="row")


def _millisecond(ns: int | None) -> int | None:
    return ns and ns // _MS * _MS


def fetched_trades(ticker: str, rows: Sequence[Trade]) -> pl.DataFrame:
    """Return a ticker's trades of REST as source rows, with times cut to the millisecond."""
    table = [
        (
            ticker, _millisecond(t.sip_timestamp or t.participant_timestamp), t.sequence_number, _text(t.exchange),
            t.price, t.size, _text(t.conditions), _text(t.correction), t.id,
        )
        for t in rows
    ]  # fmt: skip
    return pl.DataFrame(table, _TRADES, orient="row")


def fetched_quotes(ticker: str, rows: Sequence[Quote]) -> pl.DataFrame:
    """Return a ticker's quotes of REST as source rows, with times cut to the millisecond."""
    table = [
        (
            ticker,
            _millisecond(q.sip_timestamp),
            q.sequence_number,
            q.bid_price,
            q.ask_price,
            q.bid_size,
            q.ask_size,
        )
        for q in rows
    ]
    return pl.DataFrame(table, _QUOTES, orient="row")


_CLOCK = Field("ts", "sip_timestamp", common.nanoseconds(pl.col("sip_timestamp")), "t is not a time")
_SEQ = common.number("seq", "sequence_number")
_NUMBER = Field("q", "sequence_number", pl.col("sequence_number"), "", required=False)
_ID = Field("id", "id", pl.col("id"), "", required=False)
_QUOTE_FIELDS = [
    Field("instrument", "ticker", pl.col("ticker"), "ticker is blank"),
    Field("ts", "sip_timestamp", pl.col("sip_timestamp"), "t is not a time"),
    Field("seq", "sequence_number", pl.col("sequence_number").fill_null(0), ""),
    common.quote("bid", "bid_price"),
    common.quote("ask", "ask_price"),
]


def quotes_of(raw: pl.DataFrame, outlet: Outlet, *, stocks: bool) -> pl.DataFrame:
    """Return quotes with the columns of `quotes.STANDING` from source rows. Rows left out are counted."""
    fields = [*_QUOTE_FIELDS, *files.quote_sizes("stock" if stocks else "option")]
    return parsed(raw, fields, outlet)


class Trades:
    """Converts source rows to trades with `instrument`, their contract's parts, and `seq` (stocks) or `copy` (options).
    Each connection has one object."""

    def __init__(self, outlet: Outlet, *, stocks: bool) -> None:
        self._outlet, self._stocks = outlet, stocks
        self._equal_trades = EqualTrades()

    def of(self, raw: pl.DataFrame) -> pl.DataFrame:
        """Return the valid trades, each once. Rows left out are counted."""
        if self._stocks:
            raw = raw.with_columns(symbols_of(raw["ticker"]).alias("#symbol"))
            fields = [_CLOCK, *files.STOCK_FIELDS, *files.TRADED["stock"], _SEQ, _ID]
        else:
            parts = pl.col("ticker").str.extract_groups(files.TICKER).alias("#parts")
            raw = raw.with_columns(parts).unnest("#parts")
            fields = [_CLOCK, *files.OPTION_FIELDS, *files.TRADED["option"], _NUMBER]
        trades = parsed(raw, fields, self._outlet).rename({"ticker": "instrument"})
        for value, many in trades["correction"].value_counts().iter_rows():
            if value in files.RESTATED:
                self._outlet.count(f"correction {value} ({files.RESTATED[value]}), left out", many)
        trades = trades.filter(~pl.col("correction").is_in(list(files.RESTATED)))
        notes = Counter[str]()
        trades = trades.with_columns(
            *files.conditions_of(trades, notes, stocks=self._stocks),
            corrects=(trades["correction"] == files.CORRECTED).cast(pl.UInt8),
        )
        trades = without_official(trades, notes)
        tell(notes, self._outlet)
        if not self._stocks:
            return self._equal_trades.number(trades)
        key = pl.struct("instrument", "venue", "ts", "seq", "price", "size", "condition")
        if same := trades.select(pl.struct(key, "id").n_unique() - key.n_unique()).item():
            self._outlet.count(
                "trades alike in sequence number, price, size and condition, counted once", same
            )
        return trades
