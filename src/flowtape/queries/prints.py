"""`…/recent`, `…/summary` and `…/blocks`: the prints of a symbol's newest trading day."""

from __future__ import annotations

import hashlib
from datetime import date
from functools import lru_cache
from typing import Any

import msgspec
import polars as pl
from msgspec import UNSET, UnsetType

from flowtape.model.exact import numbers
from flowtape.model.prints import PRICE_SCALE, SCHEMA, SIZE_SCALE, Side
from flowtape.model.query import Query
from flowtape.queries.flow_data import FlowData, Summed
from flowtape.queries.render.bodies import Head, Made, Rows, Text, echo
from flowtape.queries.render.numbers import decimals, stamp, stamps, whole

BLOCK_SIZE = {"option": 100, "stock": 10_000}
"""Contracts or shares from which a print is a block."""
MOST_BLOCKS = 500


class Trade(msgspec.Struct, rename="camel", kw_only=True):
    """One print. `ts` is to the millisecond, prices are in USD, size is in contracts or shares. An unknown quote is 0,
    0. Only options have the contract's fields. `instrument_id` is below 2^53 and the same for one contract on every
    machine."""

    ts: str
    instrument_id: int | UnsetType = UNSET
    expiry: Text = UNSET
    strike: float | UnsetType = UNSET
    right: Text = UNSET
    price: float
    size: int
    side: str
    is_block: bool
    bid: float
    ask: float


class Recent(Head, rename="camel", kw_only=True):
    """The newest prints of the day; `total_available` counts all prints of the day."""

    count: int
    total_available: int
    trades: list[Trade]


class Block(msgspec.Struct, rename="camel", kw_only=True):
    """One large print, with the fields of `Trade`; only stocks have the quote."""

    ts: str
    expiry: Text = UNSET
    strike: float | UnsetType = UNSET
    right: Text = UNSET
    price: float
    size: int
    side: str
    bid: float | UnsetType = UNSET
    ask: float | UnsetType = UNSET


class Blocks(Head, rename="camel", kw_only=True):
    """The newest prints of the day with a size of `min_size` or more."""

    min_size: int
    count: int
    blocks: list[Block]


class Summary(Head, rename="camel", kw_only=True):
    """The day in one row; `contracts_with_trades` (options only) counts contracts with a print."""

    contracts_with_trades: int | UnsetType = UNSET
    total_trades: int
    buy_volume: int
    sell_volume: int
    mid_volume: int
    net_volume: int
    biggest_single_trade: int
    last_trade_utc: str | None


def recent(data: FlowData, query: Query) -> Made:
    """Return the body of `…/recent`."""
    day = data.day(query)
    prints = _NONE if day is None else data.newest(query, day, query.limit)
    body = Recent(
        **echo(query),
        count=prints.height,
        total_available=0 if day is None else data.trades(query, day),
        trades=Rows(Trade, _columns(query, prints)),
    )
    return Made(body, _newest(prints))


def blocks(data: FlowData, query: Query) -> Made:
    """Return the body of `…/blocks`."""
    day = data.day(query)
    prints, last = _NONE, _NONE
    if day is not None:
        prints = data.newest(query, day, MOST_BLOCKS, query.min_size * SIZE_SCALE[query.asset])
        last = data.newest(query, day, 1)
    columns = _columns(query, prints)
    if query.asset == "option":
        del columns["bid"], columns["ask"]
    found = Rows(Block, columns)
    body = Blocks(**echo(query), min_size=query.min_size, count=len(found), blocks=found)
    return Made(body, _newest(last))


def summary(data: FlowData, query: Query) -> Made:
    """Return the body of `…/summary`."""
    day = data.day(query)
    found = Summed(0, 0, 0, 0, 0, None, 0) if day is None else data.summary(query, day)
    sums = numbers([found.buy, found.sell, found.mid, found.buy - found.sell, found.biggest])
    buy, sell, mid, net, biggest = whole(sums, query.asset).tolist()
    options = query.asset == "option"
    body = Summary(
        **echo(query),
        contracts_with_trades=found.contracts if options else UNSET,
        total_trades=found.trades,
        buy_volume=buy,
        sell_volume=sell,
        mid_volume=mid,
        net_volume=net,
        biggest_single_trade=biggest,
        last_trade_utc=None if found.newest is None else stamp(found.newest),
    )
    return Made(body, found.newest)


_NONE = pl.DataFrame(schema={**SCHEMA, "series": pl.Int32, "side": Side})
"""An empty frame of prints, for a symbol without any."""


def _newest(prints: pl.DataFrame) -> int | None:
    """Return the time (ns) of the first of prints in the order newest first, None without any."""
    return None if prints.is_empty() else int(prints["ts"].to_physical()[0])


def _columns(query: Query, prints: pl.DataFrame) -> dict[str, list[Any]]:
    """Return prints as columns of `Trade`."""
    unknown = pl.col("bid").is_null() | pl.col("ask").is_null()
    quotes = prints.select(pl.when(~unknown).then(pl.col(name)).fill_null(0) for name in ("bid", "ask"))
    columns: dict[str, list[Any]] = {
        "ts": stamps(prints["ts"].to_physical().to_numpy()),
        "price": _usd(prints["price"]),
        "size": whole(prints["size"].to_numpy(), query.asset).tolist(),
        "side": prints["side"].cast(pl.String).to_list(),
        "is_block": (prints["size"] >= BLOCK_SIZE[query.asset] * SIZE_SCALE[query.asset]).to_list(),
        "bid": _usd(quotes["bid"]),
        "ask": _usd(quotes["ask"]),
    }
    if query.asset == "stock":
        return columns
    contracts = prints.select("root", "expiry", "right", "strike").rows()
    return columns | {
        "instrument_id": [instrument_id(*contract) for contract in contracts],
        "expiry": prints["expiry"].cast(pl.String).to_list(),
        "strike": _usd(prints["strike"]),
        "right": prints["right"].cast(pl.String).to_list(),
    }


def _usd(prices: pl.Series) -> list[float]:
    return decimals(prices.to_numpy(), PRICE_SCALE)


@lru_cache(maxsize=2**16)
def instrument_id(root: str, expiry: date, right: str, strike: int) -> int:
    """Return a contract's number, below 2^53 and computed from the contract alone; `strike` is in 1/10,000 USD."""
    name = f"{root} {expiry:%y%m%d}{right}{strike:09d}"
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest()) >> 3
