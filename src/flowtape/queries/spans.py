"""The minutes of a query, and the pages of an answer that is too long for one response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from flowtape.cache.view import Totals
from flowtape.model.query import Query
from flowtape.orderflow.minute_bars import NS_PER_MINUTE
from flowtape.queries.flow_data import FlowData
from flowtape.queries.render.numbers import instant, past_minutes, window_minutes

PAGE = 10_080
"""The most points of one answer, and the most minutes of one read."""
_WIDEST = 4 * PAGE
"""The most minutes of one read after a read without minutes, so that a long gap takes few reads."""


class Page(NamedTuple):
    """Minutes of a query from `start` on that fit one answer, and the minute at which the next page begins."""

    totals: Totals
    start: int
    following: int | None


def minutes_of(data: FlowData, query: Query) -> tuple[int, int]:
    """Return the minutes [start, end) since 1970 that a query asks for; with `from`, of any length."""
    if query.since is not None:
        until = data.now + NS_PER_MINUTE if query.until is None else query.until
        return -(-query.since // NS_PER_MINUTE), until // NS_PER_MINUTE
    if query.at is not None:
        return past_minutes(query.at, query.minutes)
    return window_minutes(data.now, query.minutes)


def span_fields(query: Query, page: Page) -> dict[str, Any]:
    """Return the fields of a body that describe its span and the next page."""
    fields: dict[str, Any] = {"count": len(page.totals.minute)}
    if query.since is None:
        return fields | {"minutes": query.minutes}
    fields["since"] = instant(query.since)
    if query.until is not None:
        fields["until"] = instant(query.until)
    if page.following is not None:
        fields["next_cursor"] = str(page.following)
    return fields


def read_page(data: FlowData, query: Query, names: tuple[str, ...], *, newest_first: bool) -> Page:
    """Return the minutes of an answer, oldest first. Of a query with `from`, return one page of at most `PAGE`
    minutes."""
    start, end = minutes_of(data, query)
    if query.since is None:
        return Page(data.totals(query, start, end, names), start, None)
    if query.cursor is not None:
        start, end = (start, min(end, query.cursor + 1)) if newest_first else (max(start, query.cursor), end)
    parts, count = [data.totals(query, start, start, names)], 0
    for part in read(data, query, start, end, names, newest_first=newest_first):
        parts.append(part)
        count += len(part.minute)
        if count > PAGE:
            break
    whole = _joined(parts, names)
    if count <= PAGE:
        return Page(whole, start, None)
    if newest_first:
        return Page(_cut(whole, slice(-PAGE, None)), start, int(whole.minute[-PAGE - 1]))
    return Page(_cut(whole, slice(PAGE)), start, int(whole.minute[PAGE]))


def read(
    data: FlowData, query: Query, start: int, end: int, names: tuple[str, ...], *, newest_first: bool = False
) -> Iterator[Totals]:
    """Yield a symbol's minutes in [start, end) in parts that fit in memory, skipping gaps without prints."""
    end = _last_day(data, query, start, end)
    width = PAGE
    while start < end:
        low, high = (max(start, end - width), end) if newest_first else (start, min(end, start + width))
        part = data.totals(query, low, high, names)
        yield part
        start, end = (start, low) if newest_first else (high, end)
        width = PAGE
        if not len(part.minute):
            # There may be prints here, none of which passes the filter.
            width = min(2 * (high - low), _WIDEST)
            if newest_first:
                end = _last_day(data, _before(query, end), start, end)
            else:
                start = _first_days(data, query, start, end)


def _before(query: Query, minute: int) -> Query:
    return msgspec.structs.replace(query, at=minute * NS_PER_MINUTE)


def _last_day(data: FlowData, query: Query, start: int, end: int) -> int:
    """Return the minute at which the newest day with prints before `end` ends, at most `end`; `start` without one."""
    day = data.day(query)
    return start if day is None else max(start, min(end, -(-day.end // NS_PER_MINUTE)))


def _first_days(data: FlowData, query: Query, start: int, end: int) -> int:
    """Return a minute at most `PAGE` before the first day with prints that ends after `start`."""
    while end - start > PAGE:
        middle = (start + end) // 2
        if _last_day(data, _before(query, middle), start, middle) > start:
            end = middle
        else:
            start = middle
    return start


def _joined(parts: list[Totals], names: tuple[str, ...]) -> Totals:
    """Return parts of minutes as one, oldest first."""
    parts = (
        sorted((part for part in parts if len(part.minute)), key=lambda part: int(part.minute[0])) or parts
    )
    return Totals(
        np.concatenate([part.minute for part in parts]),
        {name: np.concatenate([part.values[name] for part in parts]) for name in names},
        max((part.as_of for part in parts if part.as_of is not None), default=None),
    )


def _cut(totals: Totals, part: slice) -> Totals:
    values = {name: column[part] for name, column in totals.values.items()}
    return Totals(totals.minute[part], values, totals.as_of)
