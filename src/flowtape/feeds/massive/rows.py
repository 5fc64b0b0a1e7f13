"""Massive's trades and quotes, from the websocket's events and from REST's pages, as frames of one form."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec
import polars as pl

from flowtape.feeds.base import Outlet
from flowtape.feeds.quote_join import timely
from flowtape.model.conditions import without_official
from flowtape.readers import Rejects, common
from flowtape.readers import massive as files
from flowtape.readers.common import ROW, Field
from flowtape.readers.tickers import symbols_of

ALIKE = 2 * 10**9
"""Event time (ns) over which option trades are remembered, to be numbered among those alike; a trade later than that
and alike another is taken for the same."""
NOT_UNDERSTOOD = "messages not understood"
_MS = 1_000_000

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Millis = Annotated[int, msgspec.Meta(ge=10**12, le=4 * 10**12)]
_Nanos = Annotated[int, msgspec.Meta(ge=10**18, le=4 * 10**18)]


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
    """A trade as REST has it."""

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
    """A quote as REST has it."""

    sip_timestamp: _Nanos | None = None
    sequence_number: _Count | None = None
    bid_price: float | None = None
    bid_size: float | None = None
    ask_price: float | None = None
    ask_size: float | None = None


class Contract(msgspec.Struct):
    """A contract as REST lists it."""

    ticker: str


class Page(msgspec.Struct):
    """A page of REST, and where the next is."""

    results: msgspec.Raw = msgspec.Raw(b"[]")
    next_url: str | None = None
    status: str = ""


Row = TypeVar("Row", Event, Trade, Quote, Contract)
_TRADES = {
    "ticker": pl.String, "sip_timestamp": pl.Int64, "sequence_number": pl.Int64, "exchange": pl.String,
    "price": pl.Float64, "size": pl.Float64, "conditions": pl.String, "correction": pl.String, "id": pl.String,
}  # fmt: skip
_QUOTES = {
    "ticker": pl.String, "sip_timestamp": pl.Int64, "sequence_number": pl.Int64, "bid_price": pl.Float64,
    "ask_price": pl.Float64, "bid_size": pl.Float64, "ask_size": pl.Float64,
}  # fmt: skip


def rows_of(kind: type[Row], data: bytes | str | msgspec.Raw, outlet: Outlet) -> list[Row]:
    """The objects of a JSON array; what is none of the kind is counted."""
    try:
        return msgspec.json.decode(data, type=list[kind])  # type: ignore[valid-type]
    except msgspec.DecodeError:
        pass
    good: list[Row] = []
    try:
        parts = msgspec.json.decode(data, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        outlet.count(NOT_UNDERSTOOD)
        return good
    for part in parts:
        try:
            good.append(msgspec.json.decode(part, type=kind))
        except msgspec.DecodeError:
            outlet.count(NOT_UNDERSTOOD)
    return good


def _text(number: object) -> str | None:
    return None if number is None or number == [] else str(number)


def live_trades(events: Sequence[Event]) -> pl.DataFrame:
    """The trades among websocket events, as source rows."""
    rows = [
        (e.sym, e.t and e.t * _MS, e.q, _text(e.x), e.p, e.s, _text(e.c), None, _text(e.i))
        for e in events
        if e.ev == "T"
    ]
    return pl.DataFrame(rows, _TRADES, orient="row")


def live_quotes(events: Sequence[Event]) -> pl.DataFrame:
    """The quotes among websocket events, as source rows."""
    rows = [(e.sym, e.t and e.t * _MS, e.q, e.bp, e.ap, e.bs, e.as_) for e in events if e.ev == "Q"]
    return pl.DataFrame(rows, _QUOTES, orient="row")


def _millisecond(ns: int | None) -> int | None:
    return ns and ns // _MS * _MS


def fetched_trades(ticker: str, rows: Sequence[Trade]) -> pl.DataFrame:
    """A ticker's trades of REST as source rows, their times cut to the millisecond."""
    table = [
        (
            ticker, _millisecond(t.sip_timestamp or t.participant_timestamp), t.sequence_number, _text(t.exchange),
            t.price, t.size, _text(t.conditions), _text(t.correction), t.id,
        )
        for t in rows
    ]  # fmt: skip
    return pl.DataFrame(table, _TRADES, orient="row")


def fetched_quotes(ticker: str, rows: Sequence[Quote]) -> pl.DataFrame:
    """A ticker's quotes of REST as source rows, their times cut to the millisecond."""
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


_CLOCK = Field("ts", "sip_timestamp", common.nanoseconds(pl.col("sip_timestamp")), "t is no time")
_SEQ = common.number("seq", "sequence_number")
_NUMBER = Field("q", "sequence_number", pl.col("sequence_number"), "", required=False)
_ID = Field("id", "id", pl.col("id"), "", required=False)
_QUOTE_FIELDS = [
    Field("instrument", "ticker", pl.col("ticker"), "ticker is blank"),
    Field("ts", "sip_timestamp", pl.col("sip_timestamp"), "t is no time"),
    Field("seq", "sequence_number", pl.col("sequence_number").fill_null(0), ""),
    common.quote("bid", "bid_price"),
    common.quote("ask", "ask_price"),
]


def quotes_of(raw: pl.DataFrame, outlet: Outlet, *, stocks: bool) -> pl.DataFrame:
    """Source rows → quotes with the columns of `live.STANDING`. What is left out is counted."""
    fields = [*_QUOTE_FIELDS, *files.quote_sizes("stock" if stocks else "option")]
    return timely(_parsed(raw, fields, outlet).drop(ROW), outlet)


def _parsed(raw: pl.DataFrame, fields: Sequence[Field], outlet: Outlet) -> pl.DataFrame:
    rejects = Rejects(keep=0)
    good = common.parse(raw.with_row_index(ROW, 1), fields, rejects, "")
    for reason, many in rejects.reasons.items():
        outlet.count(f"rows left out: {reason}", many)
    return good


class Trades:
    """Source rows → trades with `instrument`, their contract's parts, and `seq` (stocks) or `copy` (options); one
    object for a connection."""

    def __init__(self, outlet: Outlet, *, stocks: bool) -> None:
        self._outlet, self._stocks = outlet, stocks
        self._alike = Alike()

    def of(self, raw: pl.DataFrame) -> pl.DataFrame:
        """The trades that stand, each once. What is left out is counted."""
        if self._stocks:
            raw = raw.with_columns(symbols_of(raw["ticker"]).alias("#symbol"))
            fields = [_CLOCK, *files.STOCK_FIELDS, *files.TRADED["stock"], _SEQ, _ID]
        else:
            parts = pl.col("ticker").str.extract_groups(files.TICKER).alias("#parts")
            raw = raw.with_columns(parts).unnest("#parts")
            fields = [_CLOCK, *files.OPTION_FIELDS, *files.TRADED["option"], _NUMBER]
        trades = timely(_parsed(raw, fields, self._outlet), self._outlet).rename({"ticker": "instrument"})
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
        for what, many in notes.items():
            self._outlet.count(what, many)
        if not self._stocks:
            return self._alike.number(trades)
        key = pl.struct("instrument", "venue", "ts", "seq", "price", "size", "condition")
        if same := trades.select(pl.struct(key, "id").n_unique() - key.n_unique()).item():
            self._outlet.count(
                "trades alike in sequence number, price, size and condition, counted once", same
            )
        return trades


class Alike:
    """Numbers option trades that are alike: `copy` is the same whether a trade comes by websocket or from REST, and
    however often."""

    _KEY = ("instrument", "venue", "ts", "price", "size", "condition")

    def __init__(self) -> None:
        self._seen: pl.DataFrame | None = None

    def number(self, trades: pl.DataFrame) -> pl.DataFrame:
        """Trades with `copy`, without those whose `q` has been seen (a null `q` is none)."""
        row = [*self._KEY, "q"]
        trades = trades.filter(pl.struct(row).is_first_distinct() | pl.col("q").is_null())
        before = pl.lit(0)
        if self._seen is not None:
            trades = trades.join(self._seen, on=row, how="anti", maintain_order="left")
            counts = self._seen.group_by(self._KEY).agg(pl.len().alias("#before"))
            trades = trades.join(counts, on=list(self._KEY), how="left", maintain_order="left")
            before = pl.col("#before").fill_null(0)
        place = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over(self._KEY) + before
        trades = trades.with_columns(place.alias("copy"))
        seen = trades.select(row) if self._seen is None else pl.concat([self._seen, trades.select(row)])
        # A time ahead of the clock must not make what is real be forgotten.
        newest = pl.min_horizontal(pl.col("ts").to_physical().max(), pl.lit(time.time_ns()))
        self._seen = seen.filter(pl.col("ts").to_physical() > newest - ALIKE)
        return trades.select(pl.exclude("#before"))
