"""Exact integers to the numbers of an answer: quotients, dollars, instants. Prices are in 1/10,000 USD."""

from __future__ import annotations

from typing import Literal

import numpy as np

from flowtape.model.exact import Ints, Numbers
from flowtape.model.prints import PRICE_SCALE, SIZE_SCALE
from flowtape.orderflow.minute_bars import NS_PER_MINUTE

__all__ = [
    "CONTRACT_SIZE", "NOTIONAL_SCALE", "Ints", "Numbers", "decimals", "half_even", "instant", "instants",
    "past_minutes", "stamp", "stamps", "vwap", "whole", "window_minutes",
]  # fmt: skip

CONTRACT_SIZE = {"option": 100, "stock": 1}
"""Shares of the underlying per contract; 1 for a share."""
NOTIONAL_SCALE = {asset: PRICE_SCALE * SIZE_SCALE[asset] // shares for asset, shares in CONTRACT_SIZE.items()}
"""The divisor from a bar's notional, which has no contract multiplier, to premium in USD."""
_CLOCK = [f"T{minute // 60:02}:{minute % 60:02}:00Z" for minute in range(1440)]
_STEPS: dict[Literal["s", "ms", "us", "ns"], int] = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}
_EXACT = 2**53
"""A double represents every integer up to this one."""


def half_even(numerator: Numbers, denominator: Ints | int) -> Numbers:
    """Return exact quotients, rounded half to even. Denominators are positive and below 2^62."""
    quotient = numerator // denominator
    twice = 2 * (numerator - quotient * denominator)
    rounded: Numbers = quotient + ((twice > denominator) | ((twice == denominator) & (quotient % 2 == 1)))
    return rounded


def vwap(notional: Numbers, volume: Ints) -> Ints:
    """Return Σ price·size / Σ size in 1/10,000 USD, exact and rounded half to even. Volumes are positive."""
    return half_even(notional, volume).astype(np.int64)


def whole(volume: Numbers, asset: str) -> Numbers:
    """Return volumes of bars, or sizes of prints, in whole contracts or shares, rounded half to even."""
    scale = SIZE_SCALE[asset]
    return volume if scale == 1 else half_even(volume, scale)


def decimals(values: Numbers, scale: int) -> list[float]:
    """Return integers divided by a power of ten, as the doubles whose shortest text is that decimal."""
    if len(values) and max(int(values.max()), -int(values.min())) > _EXACT:
        return [value / scale for value in values.tolist()]
    quotients: list[float] = (values / scale).tolist()
    return quotients


def instants(minute: Ints) -> list[str]:
    """Return minutes since 1970 as `YYYY-MM-DDTHH:MM:SSZ`."""
    day, within = np.divmod(minute, 1440)
    days = {number: str(np.datetime64(number, "D")) for number in np.unique(day).tolist()}
    return [days[number] + _CLOCK[place] for number, place in zip(day.tolist(), within.tolist(), strict=True)]


def stamps(ns: Ints, unit: Literal["s", "ms"] = "ms") -> list[str]:
    """Return instants (ns UTC) as `YYYY-MM-DDTHH:MM:SS.mmmZ`, or without a fraction; finer digits are cut off."""
    texts = np.datetime_as_string((ns // _STEPS[unit]).astype(f"datetime64[{unit}]"))
    return [f"{text}Z" for text in texts.tolist()]


def stamp(ns: int, unit: Literal["s", "ms"] = "ms") -> str:
    """Return one instant as `stamps` does."""
    return f"{np.datetime64(ns // _STEPS[unit], unit)}Z"


def instant(ns: int) -> str:
    """Return an instant (ns UTC) as ISO 8601 with as many decimals as it needs: none, 3, 6 or 9."""
    unit = next(unit for unit, step in _STEPS.items() if ns % step == 0)
    return f"{np.datetime64(ns // _STEPS[unit], unit)}Z"


def window_minutes(now_ns: int, minutes: int) -> tuple[int, int]:
    """Return the window [start, end) of the last N minutes at an instant; the last minute is still open."""
    last = now_ns // NS_PER_MINUTE
    return last - minutes + 1, last + 1


def past_minutes(at_ns: int, minutes: int) -> tuple[int, int]:
    """Return the window [start, end) of the last N complete minutes at an instant."""
    end = at_ns // NS_PER_MINUTE
    return end - minutes, end
