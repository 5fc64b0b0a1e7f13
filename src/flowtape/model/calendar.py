"""Trading sessions: the session of an instant, and whether a symbol's market is open.

Trading days and early closes are those of the New York Stock Exchange. They are in the table `nyse.csv` beside this
module, which `docs/make_calendar.py` generates from `exchange_calendars` (XNYS). The tables below hold the trading
hours of options outside the stocks' hours; docs/concepts/sessions.md gives their sources.
Instants are ns since 1970, UTC.
"""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape.model.prints import FIRST_DAY, LAST_DAY, LATEST, minute_days

Ints = npt.NDArray[np.int64]
"""An array of integers, such as instants in ns since 1970, UTC."""
Days = npt.NDArray[np.datetime64]
"""An array of dates."""


class Session(NamedTuple):
    """One session of one exchange: its date, its first instant, and the instant after its last (ns since 1970, UTC)."""

    day: date
    open: int
    close: int


class Hours(NamedTuple):
    """The trading hours of a symbol outside the stocks' hours.

    `late` is in minutes after the stocks' close. `nights` is the date of the first session with night hours and, where
    the exchange holds one, a curb session after the close.
    """

    late: int
    nights: date


class _Night(NamedTuple):
    """Night hours that apply from a session's date on, in minutes from its midnight in New York."""

    since: date
    open: int
    close: int
    curb: int
    """The end of the curb session on a day without early close; 0 where there is none."""


_NEVER = date.max
_REGULAR = Hours(0, _NEVER)
_LATE = Hours(15, _NEVER)
_LATE_SYMBOLS = {
    "DJX", "MRUT", "NDX", "OEX", "XEO",
    "DBA", "DBB", "DBC", "DBO", "DIA", "EEM", "EFA", "GAZ", "IWM", "IWN", "IWO", "IWV", "JJC", "KBE", "KRE",
    "MDY", "MOO", "OEF", "OIL", "QQQ", "SLX", "SPY", "SVXY", "UNG", "UUP", "UVIX", "UVXY", "VIXM", "VIXY",
    "VXX", "VXZ", "XHB", "XLB", "XLE", "XLF", "XLI", "XLK", "XLP", "XLU", "XLV", "XLY", "XME", "XRT",
}  # fmt: skip
_NIGHT_SYMBOLS = {
    "VIX": date(2015, 3, 2),
    "SPX": date(2015, 3, 9),
    "XSP": date(2022, 12, 12),
    "RUT": date(2026, 2, 9),
}
_NINE_THIRTY = 9 * 60 + 30
_EVENING_BEFORE = 20 * 60 + 15 - 24 * 60
_NIGHTS = (
    _Night(date.min, _NINE_THIRTY, _NINE_THIRTY, 0),
    _Night(date(2015, 3, 2), 3 * 60, 9 * 60 + 15, 0),
    _Night(date(2021, 11, 22), _EVENING_BEFORE, 9 * 60 + 15, 0),
    _Night(date(2022, 4, 25), _EVENING_BEFORE, 9 * 60 + 15, 17 * 60),
    _Night(date(2024, 8, 26), _EVENING_BEFORE, 9 * 60 + 25, 17 * 60),
)
_HOLIDAY_NIGHT = _Night(date(2022, 2, 15), _EVENING_BEFORE, 11 * 60 + 30, 0)
_SHUT_AT_NIGHT = {(12, 24), (12, 25), (12, 26), (1, 1), (1, 2)}
_FULL_DAY_CLOSE = 16 * 60
_NS_PER_MINUTE = 60_000_000_000
_TABLE = Path(__file__).with_name("nyse.csv")
"""`date` and, on a day of early close, `close` in New York time. A weekday without `close` has no session."""


def hours_of(asset: Literal["option", "stock"], symbol: str) -> Hours:
    """Return the hours of an underlying's options, or of a stock. A symbol in no table has the stocks' hours."""
    if asset == "stock":
        return _REGULAR
    if symbol in _NIGHT_SYMBOLS:
        return Hours(_LATE.late, _NIGHT_SYMBOLS[symbol])
    return _LATE if symbol in _LATE_SYMBOLS else _REGULAR


def sessions(asset: Literal["option", "stock"], symbol: str, start: int, end: int) -> list[Session]:
    """Return the sessions that overlap `[start, end)` and the last session opened at or before `start`, oldest first.

    `start` and `end` are in ns UTC. The calendar has sessions from `prints.FIRST_DAY` to `prints.LAST_DAY`.
    """
    calendar = _calendar(hours_of(asset, symbol))
    if start > LATEST:
        return []
    first = max(0, int(np.searchsorted(calendar.opens, start, "right")) - 1)
    stop = int(np.searchsorted(calendar.opens, end))
    if start >= calendar.opens[0]:
        stop = max(first + 1, stop)
    return [
        Session(day.item(), int(opened), int(closed))
        for day, opened, closed in zip(
            calendar.days[first:stop], calendar.opens[first:stop], calendar.closes[first:stop], strict=True
        )
    ]


def regular_sessions(asset: Literal["option", "stock"], symbol: str, start: int, end: int) -> list[Session]:
    """Return the regular sessions that open in `[start, end)`, oldest first, without night and curb sessions.

    `start` and `end` are in ns UTC. A regular session opens at 09:30 in New York. It closes at 16:00 or 16:15, by
    symbol, and at 13:00 or 13:15 on a day of early close.
    """
    days, opens, closes = _stock_sessions()
    first, stop = np.searchsorted(opens, (start, end)).tolist()
    late = hours_of(asset, symbol).late * _NS_PER_MINUTE
    return [
        Session(day.item(), int(opened), int(closed) + late)
        for day, opened, closed in zip(days[first:stop], opens[first:stop], closes[first:stop], strict=True)
    ]


def anchors(asset: Literal["option", "stock"], symbol: str, minutes: Ints) -> tuple[Ints, Days]:
    """Return the session of each minute: the last session that opened at or before it.

    Args:
        asset: the asset of the symbol.
        symbol: an underlying or a stock.
        minutes: minutes since 1970, in any order.

    Returns:
        Two arrays of the shape of `minutes`: the minute of the session's open, and the exchange's date of the session
        (datetime64[D]). For a minute outside the calendar these are the midnight and the date of New York.
    """
    calendar = _calendar(hours_of(asset, symbol))
    instants = minutes * _NS_PER_MINUTE
    place = np.maximum(np.searchsorted(calendar.opens, instants, "right") - 1, 0)
    opens, days = calendar.opens[place] // _NS_PER_MINUTE, calendar.days[place]
    outside = np.flatnonzero((instants < calendar.opens[0]) | (instants > LATEST))
    if len(outside):
        dates = minute_days(minutes[outside]).astype("datetime64[D]")
        opens[outside], days[outside] = _midnight(dates) // _NS_PER_MINUTE, dates
    return opens, days


def is_open(asset: Literal["option", "stock"], symbol: str, ns: int) -> bool:
    """Return whether the symbol trades at an instant. It is false in pauses of a session and outside the calendar."""
    calendar = _calendar(hours_of(asset, symbol))
    place = int(np.searchsorted(calendar.span_opens, ns, "right")) - 1
    return place >= 0 and bool(ns < calendar.span_closes[place])


def in_regular_session(instants: Ints) -> npt.NDArray[np.bool_]:
    """Return a mask of the instants that lie in a session of the stocks' exchange, from its open to its close.

    An instant outside the calendar lies in no session.
    """
    _, opens, closes = _stock_sessions()
    place = np.searchsorted(opens, instants, "right") - 1
    inside: npt.NDArray[np.bool_] = (place >= 0) & (instants < closes[place])
    return inside


class _Calendar(NamedTuple):
    """All sessions for one kind of hours, and all spans of trading without a pause. Both are ascending."""

    days: Days
    opens: Ints
    closes: Ints
    span_opens: Ints
    span_closes: Ints


@cache
def _stock_sessions() -> tuple[Days, Ints, Ints]:
    """Return the date, open and close of every session of the stocks' exchange."""
    table = pl.read_csv(_TABLE, schema={"date": pl.Date, "close": pl.String})
    special = table["date"].to_numpy()
    is_open = table["close"].is_not_null().to_numpy()
    weekdays = np.arange(np.datetime64(FIRST_DAY), np.datetime64(LAST_DAY) + 1)
    days = np.setdiff1d(weekdays[np.is_busday(weekdays)], special[~is_open])
    clock = table["close"].drop_nulls().str.to_time("%H:%M")
    close = np.full(len(days), _FULL_DAY_CLOSE, np.int64)
    close[np.searchsorted(days, special[is_open])] = clock.to_physical().to_numpy() // _NS_PER_MINUTE
    midnight = _midnight(days)
    return days, midnight + _NINE_THIRTY * _NS_PER_MINUTE, midnight + close * _NS_PER_MINUTE


@cache
def _calendar(hours: Hours) -> _Calendar:
    days, opens, closes = _stock_sessions()
    midnight = _midnight(days)
    nights = _nights(hours, days)
    ends = closes + hours.late * _NS_PER_MINUTE
    has_curb = (nights["curb"] > 0) & (closes == midnight + _FULL_DAY_CLOSE * _NS_PER_MINUTE)
    ends = np.where(has_curb, midnight + nights["curb"] * _NS_PER_MINUTE, ends)
    night_opens, night_closes = (midnight + nights[name] * _NS_PER_MINUTE for name in ("open", "close"))
    holidays = _night_holidays(hours, days)
    holiday_opens, holiday_closes = (
        _midnight(holidays) + minutes * _NS_PER_MINUTE
        for minutes in (_HOLIDAY_NIGHT.open, _HOLIDAY_NIGHT.close)
    )
    firsts = night_opens.copy()
    # Trades on a holiday carry the date of the next session.
    np.minimum.at(firsts, np.searchsorted(days, holidays), holiday_opens)
    span_opens = np.concatenate((night_opens, opens, holiday_opens))
    span_closes = np.concatenate((night_closes, ends, holiday_closes))
    order = np.argsort(span_opens, kind="stable")
    order = order[span_opens[order] < span_closes[order]]
    return _Calendar(days, firsts, ends, span_opens[order], span_closes[order])


def _nights(hours: Hours, days: Days) -> npt.NDArray[np.void]:
    """Return the night hours of each session: `open`, `close` and `curb`, in minutes from the session's midnight."""
    since = np.array([night.since for night in _NIGHTS], "datetime64[D]")
    table = np.array(
        [(night.open, night.close, night.curb) for night in _NIGHTS],
        [("open", np.int64), ("close", np.int64), ("curb", np.int64)],
    )
    kept = days >= np.datetime64(hours.nights)
    return table[np.where(kept, np.searchsorted(since, days, "right") - 1, 0)]


def _night_holidays(hours: Hours, days: Days) -> Days:
    """Return the weekdays without a regular session that have night hours."""
    first = max(hours.nights, _HOLIDAY_NIGHT.since)
    if first > LAST_DAY:
        return days[:0]
    every = np.arange(np.datetime64(first), days[-1])
    shut = np.setdiff1d(every[np.is_busday(every)], days)
    return shut[[_trades_at_night(day.item()) for day in shut]]


def _trades_at_night(holiday: date) -> bool:
    """Return whether an observed holiday has night hours: all but Christmas, New Year's Day and Good Friday have."""
    good_friday = holiday.weekday() == 4 and holiday.month in (3, 4)
    return not good_friday and (holiday.month, holiday.day) not in _SHUT_AT_NIGHT


def _midnight(days: Days) -> Ints:
    """Return the instant at which each date begins in New York."""
    local = pl.Series(days).cast(pl.Datetime("ns")).dt.replace_time_zone("America/New_York")
    return local.to_physical().to_numpy()
