"""Trading sessions: which one an instant belongs to, and whether a symbol's market is open.

Trading days and early closes are those of the New York Stock Exchange, from the table `nyse.csv` beside this module,
which `docs/make_calendar.py` makes from `exchange_calendars` (XNYS). What options trade beyond the stocks' hours is in
the tables here; docs/concepts/sessions.md has their sources.
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
"""An array of whole numbers, such as instants in ns since 1970, UTC."""
Days = npt.NDArray[np.datetime64]
"""An array of dates."""


class Session(NamedTuple):
    """One session of one exchange: the exchange's date for it, its first instant, the instant after its last."""

    day: date
    open: int
    close: int


class Hours(NamedTuple):
    """What a symbol trades beyond the stocks' hours.

    `late` is minutes past the stocks' close; `nights` is the date of the first session with night hours and,
    where the exchange holds one, a curb session after the close.
    """

    late: int
    nights: date


class _Night(NamedTuple):
    """Night hours from a session's date on, in minutes from its midnight in New York."""

    since: date
    open: int
    close: int
    curb: int
    """When the curb session ends on a day without early close; 0: there is none."""


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
"""`date` and, on a day of early close, `close` in New York time; weekdays without a close have no session."""


def hours_of(asset: Literal["option", "stock"], symbol: str) -> Hours:
    """The hours of an underlying's options, or of a stock; those of a stock where no table names it."""
    if asset == "stock":
        return _REGULAR
    if symbol in _NIGHT_SYMBOLS:
        return Hours(_LATE.late, _NIGHT_SYMBOLS[symbol])
    return _LATE if symbol in _LATE_SYMBOLS else _REGULAR


def sessions(asset: Literal["option", "stock"], symbol: str, start: int, end: int) -> list[Session]:
    """Sessions with any part in `[start, end)`, and the last one opened at or before `start`, oldest first.

    None is known outside the calendar (`prints.FIRST_DAY` to `prints.LAST_DAY`).
    """
    book = _book(hours_of(asset, symbol))
    if start > LATEST:
        return []
    first = max(0, int(np.searchsorted(book.opens, start, "right")) - 1)
    stop = int(np.searchsorted(book.opens, end))
    if start >= book.opens[0]:
        stop = max(first + 1, stop)
    return [
        Session(day.item(), int(opened), int(closed))
        for day, opened, closed in zip(
            book.days[first:stop], book.opens[first:stop], book.closes[first:stop], strict=True
        )
    ]


def regular_sessions(asset: Literal["option", "stock"], symbol: str, start: int, end: int) -> list[Session]:
    """The regular sessions opened in `[start, end)`, oldest first: without night hours and curb sessions.

    They open at 09:30 in New York and close when the symbol does: at 16:00 or 16:15, on days of early close at 13:00 or
    13:15.
    """
    days, opens, closes = _stock_sessions()
    first, stop = np.searchsorted(opens, (start, end)).tolist()
    late = hours_of(asset, symbol).late * _NS_PER_MINUTE
    return [
        Session(day.item(), int(opened), int(closed) + late)
        for day, opened, closed in zip(days[first:stop], opens[first:stop], closes[first:stop], strict=True)
    ]


def anchors(asset: Literal["option", "stock"], symbol: str, minutes: Ints) -> tuple[Ints, Days]:
    """The session that each minute belongs to: the last one opened at or before it.

    `minutes` are whole minutes since 1970, in any order. Gives, of the same shape, the minute of the session's
    open and the exchange's date for the session (datetime64[D]). Outside the calendar, where no session is known,
    these are the midnight and the date of New York.
    """
    book = _book(hours_of(asset, symbol))
    instants = minutes * _NS_PER_MINUTE
    place = np.maximum(np.searchsorted(book.opens, instants, "right") - 1, 0)
    opens, days = book.opens[place] // _NS_PER_MINUTE, book.days[place]
    outside = np.flatnonzero((instants < book.opens[0]) | (instants > LATEST))
    if len(outside):
        dates = minute_days(minutes[outside]).astype("datetime64[D]")
        opens[outside], days[outside] = _midnight(dates) // _NS_PER_MINUTE, dates
    return opens, days


def is_open(asset: Literal["option", "stock"], symbol: str, ns: int) -> bool:
    """Whether the symbol trades at an instant; false in the pauses within a session, and outside the calendar."""
    book = _book(hours_of(asset, symbol))
    place = int(np.searchsorted(book.span_opens, ns, "right")) - 1
    return place >= 0 and bool(ns < book.span_closes[place])


def in_regular_session(instants: Ints) -> npt.NDArray[np.bool_]:
    """Which instants lie in a session of the stocks' exchange, from its open to its close (early on half-days).

    Shape as given. An instant outside the calendar lies in none.
    """
    _, opens, closes = _stock_sessions()
    place = np.searchsorted(opens, instants, "right") - 1
    inside: npt.NDArray[np.bool_] = (place >= 0) & (instants < closes[place])
    return inside


class _Book(NamedTuple):
    """Every session of one kind of hours, and every span of trading without a pause, both ascending."""

    days: Days
    opens: Ints
    closes: Ints
    span_opens: Ints
    span_closes: Ints


@cache
def _stock_sessions() -> tuple[Days, Ints, Ints]:
    """Return date, open and close of every session of the stocks' exchange."""
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
def _book(hours: Hours) -> _Book:
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
    return _Book(days, firsts, ends, span_opens[order], span_closes[order])


def _nights(hours: Hours, days: Days) -> npt.NDArray[np.void]:
    """The night hours of each session: `open`, `close` and `curb`, minutes from the session's midnight."""
    since = np.array([night.since for night in _NIGHTS], "datetime64[D]")
    table = np.array(
        [(night.open, night.close, night.curb) for night in _NIGHTS],
        [("open", np.int64), ("close", np.int64), ("curb", np.int64)],
    )
    kept = days >= np.datetime64(hours.nights)
    return table[np.where(kept, np.searchsorted(since, days, "right") - 1, 0)]


def _night_holidays(hours: Hours, days: Days) -> Days:
    """Weekdays without a session on which there are night hours all the same."""
    first = max(hours.nights, _HOLIDAY_NIGHT.since)
    if first > LAST_DAY:
        return days[:0]
    every = np.arange(np.datetime64(first), days[-1])
    shut = np.setdiff1d(every[np.is_busday(every)], days)
    return shut[[_trades_at_night(day.item()) for day in shut]]


def _trades_at_night(holiday: date) -> bool:
    """All holidays but Christmas, New Year's Day and Good Friday, as observed."""
    good_friday = holiday.weekday() == 4 and holiday.month in (3, 4)
    return not good_friday and (holiday.month, holiday.day) not in _SHUT_AT_NIGHT


def _midnight(days: Days) -> Ints:
    """When each date begins in New York."""
    local = pl.Series(days).cast(pl.Datetime("ns")).dt.replace_time_zone("America/New_York")
    return local.to_physical().to_numpy()
