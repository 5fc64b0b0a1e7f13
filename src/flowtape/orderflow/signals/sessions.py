"""Parts of trading days: the flow of the open, midday, close, morning and afternoon."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flowtape.model.exact import Ints, Numbers, total

FIRST = 60
"""Minutes of the part `open`."""
MIDDAY = 300
"""Minutes from the open to the start of the part `close`: 14:30 on a day that opens at 09:30."""


class Hours(NamedTuple):
    """A New York date and its regular session in minutes since 1970; both None on a day without one."""

    day: date
    open: int | None
    close: int | None


class Part(NamedTuple):
    """Minutes [start, end) of a day.

    `net` and `premium` are sums over them, `absolute` is Σ |net of a minute|. `mean` is (sum, count) of the line at the
    end of every clock minute so far, None for the part outside the session.
    """

    name: str
    start: int
    end: int
    net: int
    premium: int
    absolute: int
    mean: tuple[int, int] | None


class Day(NamedTuple):
    """A trading day: the sums of all its minutes, and the line's high and low since the open.

    `high` and `low` are (value, minute), the first of equal values; None where nothing has printed since the open.
    """

    hours: Hours
    net: int
    premium: int
    absolute: int
    high: tuple[int, int] | None
    low: tuple[int, int] | None
    parts: tuple[Part, ...]


def days(minute: Ints, day: Ints, net: Numbers, premium: Numbers, hours: list[Hours], end: int) -> list[Day]:
    """Return the trading days in `hours`, in that order.

    Parts are `open` (the first hour), `midday` (until 14:30), `close`, and the halves `morning` and `afternoon` of the
    regular session. They end with the session, also on days of early close, and include only minutes before `end`. A
    part that has not begun is absent. Prints outside the session form the part `outside`.

    The line is the sum of net volume since the regular open, or since midnight on a day without a session. Its mean
    gives each clock minute the same weight, so a burst of prints weighs by how long the line stays at its level.

    Args:
        minute: minutes since 1970, rising.
        day: the New York date of each minute, in days since 1970.
        net: the net volume of each minute.
        premium: the net premium of each minute.
        hours: the dates and sessions to return.
        end: the minute at which the data ends.
    """
    found = []
    for one in hours:
        number = (one.day - date(1970, 1, 1)).days
        low, high = np.searchsorted(day, [number, number + 1])
        columns = (minute[low:high], net[low:high], premium[low:high])
        found.append(_day(one, *columns, end))
    return found


def _day(hours: Hours, minute: Ints, net: Numbers, premium: Numbers, end: int) -> Day:
    whole = np.ones(len(minute), np.bool_)
    inside = whole if hours.open is None else (minute >= hours.open) & (minute < (hours.close or 0))
    line = np.cumsum(net[inside])
    parts = []
    for name, start, stop in _bounds(hours, end):
        mine = (minute >= start) & (minute < stop)
        mean = _mean(minute[inside], line, start, stop)
        parts.append(_part(name, start, stop, mine, net, premium, mean))
    rest = whole if hours.open is None else ~inside
    if rest.any():
        parts.append(
            _part("outside", int(minute[rest][0]), int(minute[rest][-1]) + 1, rest, net, premium, None)
        )
    return Day(
        hours,
        int(net.sum()),
        total(premium),
        int(np.abs(net).sum()),
        _extreme(minute[inside], line),
        _extreme(minute[inside], -line, -1),
        tuple(parts),
    )


def _bounds(hours: Hours, end: int) -> list[tuple[str, int, int]]:
    if hours.open is None or hours.close is None:
        return []
    first, close = hours.open, hours.close
    half = first + (close - first) // 2
    named = (
        ("open", first, first + FIRST),
        ("midday", first + FIRST, first + MIDDAY),
        ("close", first + MIDDAY, close),
        ("morning", first, half),
        ("afternoon", half, close),
    )
    last = min(close, end)
    return [(name, start, min(stop, last)) for name, start, stop in named if start < min(stop, last)]


def _part(
    name: str, start: int, end: int, mine: npt.NDArray[np.bool_], net: Numbers, premium: Numbers,
    mean: tuple[int, int] | None,
) -> Part:  # fmt: skip
    absolute = int(np.abs(net[mine]).sum())
    return Part(name, start, end, int(net[mine].sum()), total(premium[mine]), absolute, mean)


def _mean(minute: Ints, line: Numbers, start: int, end: int) -> tuple[int, int]:
    """Return the sum and count of the line at the end of each clock minute of [start, end)."""
    place = np.searchsorted(minute, np.arange(start, end), "right")
    return int(np.concatenate(([0], line))[place].sum()), end - start


def _extreme(minute: Ints, line: Numbers, sign: int = 1) -> tuple[int, int] | None:
    if not len(line):
        return None
    place = int(np.argmax(line))
    return sign * int(line[place]), int(minute[place])
