"""Write `src/flowtape/model/nyse.csv`: the weekdays when the New York Stock Exchange is closed or closes early.

Run as `python docs/make_calendar.py` after a new version of `exchange-calendars`; the tests fail while the table
differs from it.
"""

from __future__ import annotations

import warnings
from datetime import timedelta
from pathlib import Path

import exchange_calendars

from flowtape.model.prints import FIRST_DAY, LAST_DAY

TABLE = Path(__file__).parents[1] / "src/flowtape/model/nyse.csv"


def table() -> str:
    """Return the table as it should be: `date`, and the New York time of an early close, empty on a closed day."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calendar = exchange_calendars.get_calendar("XNYS", start=FIRST_DAY, end=LAST_DAY)
        opens, closes = (
            column.dt.tz_convert("America/New_York") for column in (calendar.opens, calendar.closes)
        )
    if set(opens.dt.strftime("%H:%M")) != {"09:30"}:
        raise ValueError("a session opens at another time than 09:30, for which the table has no column")
    closing = dict(zip(calendar.sessions.date, closes.dt.strftime("%H:%M"), strict=True))
    if any(day.weekday() > 4 for day in closing):
        raise ValueError("a session falls on a weekend, for which the table has no row")
    lines = ["date,close"]
    for number in range((LAST_DAY - FIRST_DAY).days + 1):
        day = FIRST_DAY + timedelta(number)
        if day.weekday() < 5 and closing.get(day) != "16:00":
            lines.append(f"{day},{closing.get(day, '')}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
