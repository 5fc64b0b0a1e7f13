"""Sessions: known days, properties of every day, and equality with a plain loop."""

import csv
import runpy
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtape.model import calendar
from flowtape.model.prints import underlying_of

NEW_YORK = ZoneInfo("America/New_York")
MINUTE = 60_000_000_000
KINDS = [("stock", "AAPL"), ("option", "AAPL"), ("option", "SPY"), ("option", "RUT"), ("option", "SPX")]
with (Path(__file__).parent / "golden/sessions.csv").open(encoding="utf-8", newline="") as lines:
    GOLDEN = list(csv.DictReader(lines))


def ns(text):
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


def new_york(instant):
    return datetime.fromtimestamp(instant // 10**9, NEW_YORK)


@cache
def of_years(kind, first, last):
    """Return the sessions of whole years, by date."""
    found = calendar.sessions(*kind, ns(f"{first - 1}-12-31"), ns(f"{last + 1}-01-01"))
    return [session for session in found if first <= session.day.year <= last]


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row['symbol']} {row['session']}")
def test_known_sessions_have_their_hours(row):
    kind, day = (row["asset"], row["symbol"]), date.fromisoformat(row["session"])
    opened, closed = ns(row["open"]), ns(row["close"])
    session = calendar.Session(day, opened, closed)
    assert calendar.sessions(*kind, opened, opened + 1) == [session]
    assert calendar.sessions(*kind, closed, closed + 1) == [session]
    assert calendar.sessions(*kind, opened - 1, opened)[0].day < day
    assert [calendar.is_open(*kind, at) for at in (opened - 1, opened, closed - 1, closed)] == [
        False, True, True, False
    ]  # fmt: skip
    opens, days = calendar.anchors(*kind, np.array([opened, closed]) // MINUTE)
    assert opens.tolist() == [opened // MINUTE] * 2
    assert days.tolist() == [day] * 2


@pytest.mark.parametrize(
    ("kind", "full", "early"),
    [
        (("option", "VIX"), "16:15", "13:15"),
        (("option", "SPX"), "16:15", "13:15"),
        (("option", "NDX"), "16:15", "13:15"),
        (("option", "RUT"), "16:15", "13:15"),
        (("option", "SPY"), "16:15", "13:15"),
        (("option", "QQQ"), "16:15", "13:15"),
        (("option", "AAPL"), "16:00", "13:00"),
        (("stock", "SPY"), "16:00", "13:00"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_regular_session_closes_when_its_symbol_does(kind, full, early):
    for day, close in (("2026-05-12", full), ("2026-11-27", early)):
        (found,) = calendar.regular_sessions(*kind, ns(day), ns(day) + 24 * 60 * MINUTE)
        assert found.day == date.fromisoformat(day)
        assert f"{new_york(found.open):%F %H:%M}" == f"{day} 09:30"
        assert f"{new_york(found.close):%F %H:%M}" == f"{day} {close}"


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_a_symbol_is_open_all_through_its_regular_session(kind):
    whole = of_years(kind, 2026, 2026)
    regular = calendar.regular_sessions(*kind, ns("2026-01-01"), ns("2027-01-01"))
    assert [one.day for one in regular] == [one.day for one in whole]
    for one, session in zip(regular, whole, strict=True):
        assert session.open <= one.open < one.close <= session.close
        assert all(calendar.is_open(*kind, at) for at in (one.open, one.close - 1))


def test_the_holidays_of_2026():
    days = {session.day for session in of_years(("option", "AAPL"), 2026, 2026)}
    every = (date(2026, 1, 1) + timedelta(n) for n in range(365))
    assert [f"{day:%m-%d}" for day in every if day.weekday() < 5 and day not in days] == [
        "01-01", "01-19", "02-16", "04-03", "05-25", "06-19", "07-03", "09-07", "11-26", "12-25"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS[:2])
def test_stocks_and_their_options_open_at_half_past_nine(kind):
    for session in of_years(kind, 1991, 2098):
        opened = datetime.combine(session.day, time(9, 30), NEW_YORK)
        assert session.open == round(opened.timestamp()) * 10**9
        assert session.close > session.open
    closes = {new_york(session.close).time() for session in of_years(kind, 1993, 2098)}
    assert closes == {time(13), time(16)}


def test_night_hours_begin_on_the_previous_evening():
    for session in of_years(("option", "SPX"), 2025, 2098):
        opened, closed = new_york(session.open), new_york(session.close)
        assert opened.time() == time(20, 15)
        assert opened.weekday() not in (4, 5)
        assert closed.time() in {time(13, 15), time(17)}
        assert opened.date() < closed.date() == session.day


@pytest.mark.parametrize(
    ("at", "opened"),
    [
        ("2026-03-09T00:14", False),  # Sunday 20:14, daylight saving just begun
        ("2026-03-09T00:15", True),
        ("2026-03-09T13:24", True),
        ("2026-03-09T13:25", False),  # the pause before 09:30
        ("2026-03-09T13:30", True),
        ("2026-03-09T20:20", True),  # curb
        ("2026-03-09T21:00", False),
        ("2024-08-23T13:15", False),  # the pause began at 09:15
        ("2026-01-19T15:00", True),  # a holiday's night hours, to 11:30
        ("2026-01-19T16:30", False),
        ("2026-01-20T01:15", True),
        ("2026-04-03T12:00", False),  # Good Friday
        ("2026-12-25T12:00", False),
        ("2026-12-24T18:20", False),  # no curb after an early close
    ],
)
def test_an_index_option_is_closed_in_its_pauses(at, opened):
    assert calendar.is_open("option", "SPX", ns(at)) is opened


def test_a_span_includes_the_session_before_it():
    def days(first, last):
        return [f"{session.day:%m-%d}" for session in calendar.sessions("stock", "A", ns(first), ns(last))]

    assert days("2026-01-17", "2026-01-18") == ["01-16"]
    assert days("2026-01-20T14:30", "2026-01-21T14:30") == ["01-20"]
    assert days("2026-01-20T14:29", "2026-01-21T14:31") == ["01-16", "01-20", "01-21"]
    assert days("2026-01-20T15:00", "2026-01-20T15:00") == ["01-20"]


instants = st.integers(ns("2014-01-01"), ns("2030-01-01"))


@given(st.sampled_from(KINDS), st.lists(instants.map(lambda at: at // MINUTE), max_size=20))
def test_anchors_equal_a_plain_loop(kind, minutes):
    opens, days = calendar.anchors(*kind, np.array(minutes, np.int64))
    for minute, opened, day in zip(minutes, opens.tolist(), days.tolist(), strict=True):
        latest = None
        for session in of_years(kind, 2013, 2030):
            if session.open > minute * MINUTE:
                break
            latest = session
        assert (opened * MINUTE, day) == (latest.open, latest.day)
    ascending = calendar.anchors(*kind, np.sort(np.array(minutes, np.int64)))
    assert all((np.diff(values.astype(np.int64)) >= 0).all() for values in ascending)


@given(st.sampled_from(KINDS), instants)
def test_a_symbol_is_open_only_within_a_session(kind, at):
    last = calendar.sessions(*kind, at, at + 1)[-1]
    within = last.open <= at < last.close
    assert calendar.is_open(*kind, at) == within or (within and kind[1] in {"RUT", "SPX"})


@pytest.mark.parametrize("kind", KINDS)
def test_sessions_do_not_overlap(kind):
    every = of_years(kind, 1991, 2098)
    assert all(one.close < two.open and one.day < two.day for one, two in pairwise(every))


@pytest.mark.parametrize("day", ["1677-09-22", "1985-01-01", "1990-01-01", "2100-01-04", "2262-04-10"])
def test_there_are_no_sessions_outside_the_calendar(day):
    at = ns(day) + 15 * 60 * MINUTE
    assert not calendar.is_open("option", "SPX", at)
    assert calendar.sessions("option", "SPX", at, at + 1) == []
    opens, days = calendar.anchors("option", "SPX", np.array([at, ns("2026-05-13")]) // MINUTE)
    assert days.tolist() == [date.fromisoformat(day), date(2026, 5, 12)]
    assert 0 < at // MINUTE - opens[0] < 24 * 60
    assert calendar.sessions("stock", "A", ns("1985-01-01"), ns("1990-01-04"))[0].day == date(1990, 1, 2)
    assert calendar.sessions("stock", "A", ns("2099-12-30"), ns("2200-01-01"))[-1].day == date(2099, 12, 31)


def test_tables_of_hours_name_underlyings():
    named = {*calendar._LATE_SYMBOLS, *calendar._NIGHT_SYMBOLS}
    assert {underlying_of(symbol) for symbol in named} == named
    assert not calendar._LATE_SYMBOLS & calendar._NIGHT_SYMBOLS.keys()


def test_the_session_table_equals_exchange_calendars():
    script = runpy.run_path(str(Path(__file__).parents[1] / "docs/make_calendar.py"))
    assert script["TABLE"].read_text(encoding="utf-8") == script["table"](), (
        "run: python docs/make_calendar.py"
    )
