"""The contract's bodies, made of minutes. Pure functions: no HTTP, no clock, no store."""

from __future__ import annotations

import hashlib
from datetime import date

import msgspec
import numpy as np
import numpy.typing as npt

from flowtape.minutes import NS_PER_MINUTE
from flowtape.prints import PRICE_SCALE
from flowtape.window import Totals

Ints = npt.NDArray[np.int64]

CUMULATIVE = (
    "buy_volume",
    "sell_volume",
    "mid_volume",
    "buy_notional",
    "sell_notional",
    "mid_notional",
    "trades",
)
"""The sums a cumulative answer is made of."""

_CLOCK = [f"T{minute // 60:02}:{minute % 60:02}:00Z" for minute in range(1440)]
_encoder = msgspec.json.Encoder()


class Answer(msgspec.Struct, frozen=True):
    """A body as bytes and what it rests on: a strong ETag, the newest print it could see (ns UTC), and
    whether any of it was simulated."""

    body: bytes
    etag: str
    as_of: int | None
    simulated: bool


class CumulativePoint(msgspec.Struct, rename="camel", gc=False):
    """One minute: `ts` its start, `net_volume` buy − sell volume, `cumulative` its running sum from the
    window's first point, `vwap` USD a share over all counted prints, `trade_count` counted prints."""

    ts: str
    net_volume: int
    cumulative: int
    vwap: float
    trade_count: int


class Cumulative(msgspec.Struct, rename="camel", kw_only=True):
    """Net volume a minute and its running sum. Minutes without a print are left out: `count` ≤ `minutes`."""

    symbol: str
    expiry: str | msgspec.UnsetType = msgspec.UNSET
    minutes: int
    count: int
    points: list[CumulativePoint]


def vwap(notional: Ints, volume: Ints) -> Ints:
    """Σ price·size / Σ size in 1/10,000 USD, rounded half to even; exact, in integers. Volumes are positive."""
    quotient, rest = np.divmod(notional, volume)
    twice = 2 * rest
    rounded: Ints = quotient + ((twice > volume) | ((twice == volume) & (quotient % 2 == 1)))
    return rounded


def instants(minute: Ints) -> list[str]:
    """Minutes since 1970 as `YYYY-MM-DDTHH:MM:SSZ`."""
    day, within = np.divmod(minute, 1440)
    days = {number: str(np.datetime64(number, "D")) for number in np.unique(day).tolist()}
    return [days[number] + _CLOCK[place] for number, place in zip(day.tolist(), within.tolist(), strict=True)]


def cumulative_columns(totals: Totals) -> dict[str, Ints]:
    """The numbers of a cumulative answer: net_volume, cumulative, vwap (1/10,000 USD), trade_count."""
    value = totals.values
    net = value["buy_volume"] - value["sell_volume"]
    volume = value["buy_volume"] + value["sell_volume"] + value["mid_volume"]
    notional = value["buy_notional"] + value["sell_notional"] + value["mid_notional"]
    return {
        "net_volume": net,
        "cumulative": np.cumsum(net),
        "vwap": vwap(notional, volume),
        "trade_count": value["trades"],
    }


def cumulative(totals: Totals, symbol: str, minutes: int, expiry: date | None = None) -> Cumulative:
    """The body of `…/cumulative`, of totals with the sums `CUMULATIVE`."""
    numbers = cumulative_columns(totals)
    points = list(
        map(
            CumulativePoint,
            instants(totals.minute),
            numbers["net_volume"].tolist(),
            numbers["cumulative"].tolist(),
            # Dividing the integer gives the double nearest to the decimal, which prints as that decimal.
            (numbers["vwap"] / PRICE_SCALE).tolist(),
            numbers["trade_count"].tolist(),
        )
    )
    return Cumulative(
        symbol=symbol,
        expiry=msgspec.UNSET if expiry is None else expiry.isoformat(),
        minutes=minutes,
        count=len(points),
        points=points,
    )


def answer(body: msgspec.Struct, as_of: int | None, simulated: bool) -> Answer:
    """A body on its way out."""
    data = _encoder.encode(body)
    return Answer(data, f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"', as_of, simulated)


def window_minutes(now_ns: int, minutes: int) -> tuple[int, int]:
    """[start, end) of a window of N minutes asked at an instant: the last is still filling."""
    last = now_ns // NS_PER_MINUTE
    return last - minutes + 1, last + 1


def past_minutes(at_ns: int, minutes: int) -> tuple[int, int]:
    """[start, end) of the N whole minutes that end by an instant: nothing from it on is within."""
    end = at_ns // NS_PER_MINUTE
    return end - minutes, end
