"""Answers over stored prints as SQL: one template for both engines (`storage.dialect`).

Each template reads from `rows`, the SQL of the visible counted prints of one symbol in a span
(`Store.counted`), and returns minutes, one row of sums, or at most the prints shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

from flowtape.model.exact import BITS
from flowtape.model.prints import NEW_YORK, SETS_RANGE, Side, day_bounds
from flowtape.model.query import Filter
from flowtape.orderflow.minute_bars import NOTIONALS
from flowtape.storage.dialect import Dialect

_NS = 10**9


def passes(dialect: Dialect, which: Filter, start: int, end: int) -> str:
    """Return the predicate of the prints in [start, end) ns that pass a filter."""
    parts = ["1 = 1"]
    contract = []
    if which.right is not None:
        contract.append(f"\"right\" = '{which.right}'")
    if which.expiries:
        contract.append(f"({' OR '.join(_expires(dialect, *ends) for ends in which.expiries)})")
    if contract:
        parts.append(dialect.of_series.format(" AND ".join(contract)))
    if which.dte is not None:
        parts.append(_days_ahead(dialect, which.dte, start, end))
    if which.strike is not None:
        parts.append(f"strike BETWEEN {which.strike[0]} AND {which.strike[1]}")
    if which.exclude:
        parts.append(f"NOT ({dialect.family(which.exclude)})")
    if which.side is not None:
        parts.append(dialect.side(which.side))
    return " AND ".join(parts)


def _expires(dialect: Dialect, first: date, last: date) -> str:
    return f"expiry BETWEEN {dialect.day(first)} AND {dialect.day(last)}"


def _days_ahead(dialect: Dialect, dte: tuple[int, int], start: int, end: int) -> str:
    """Days to expiry count from the trading day, so each day of the span has its own range of expiries."""
    parts = []
    for first, last, day in _days(start, end):
        ends = (day + timedelta(days=min(days, (date.max - day).days)) for days in dte)
        within = dialect.of_series.format(_expires(dialect, *ends))
        parts.append(f"(t >= {first} AND t < {last} AND {within})")
    return f"({' OR '.join(parts) or '1 = 0'})"


def _days(start: int, end: int) -> Iterator[tuple[int, int, date]]:
    """Yield the bounds in ns and the date of each trading day that [start, end) ns touches."""
    while start < end:
        day = datetime.fromtimestamp(start // _NS, UTC).astimezone(NEW_YORK).date()
        first, last = (int(bound.timestamp()) * _NS for bound in day_bounds(day))
        yield first, last, day
        start = last


def minutes(dialect: Dialect, rows: str, which: str, names: tuple[str, ...], *, stock: bool) -> str:
    """Return the statement for one row a minute, rising: `minute`, `names` (`minute_bars.VALUES`) and `newest` (ns)."""
    columns = ", ".join(f"CAST({_value(dialect, name, stock=stock)} AS BIGINT) AS m_{name}" for name in names)
    return (
        f"SELECT CAST(minute AS BIGINT) AS m_minute, {columns}, max(t) AS m_newest FROM ({rows}) AS p"
        f" WHERE {which} GROUP BY minute ORDER BY minute"
    )


def _value(dialect: Dialect, name: str, *, stock: bool) -> str:
    """Return the SQL of one of `minute_bars.VALUES` over the prints of a minute."""
    plain = {
        "trades": "count(*)",
        "biggest": "max(size)",
        "biggest_ts": dialect.earliest_largest,
        "last_ts": "max(t)",
        "high": _extreme("max", stock=stock),
        "low": _extreme("min", stock=stock),
    }
    for side in Side.categories:
        mine = dialect.side(side)
        plain[f"{side}_volume"] = f"sum(CASE WHEN {mine} THEN size ELSE 0 END)"
        notional = f"sum(CASE WHEN {mine} THEN {dialect.wide.format('price')} * size ELSE 0 END)"
        upper, lower = NOTIONALS[side]
        plain[upper] = dialect.whole.format(notional, 2**BITS)
        plain[lower] = f"({notional} % {2**BITS})"
    return plain[name]


def _extreme(function: str, *, stock: bool) -> str:
    """Return the SQL of a minute's high or low: of stocks over the prints that may set it, where there are any."""
    if not stock:
        return f"{function}(price)"
    may = f"price_flags % {2 * SETS_RANGE} >= {SETS_RANGE}"
    return f"coalesce({function}(CASE WHEN {may} THEN price END), {function}(price))"


def summary(dialect: Dialect, rows: str, which: str) -> str:
    """Return the statement for the sums of a span in one row."""
    sides = ", ".join(
        f"CAST(coalesce(sum(CASE WHEN {dialect.side(side)} THEN size ELSE 0 END), 0) AS BIGINT) AS s_{side}"
        for side in Side.categories
    )
    return (
        f"SELECT count(*) AS s_trades, {sides}, CAST(coalesce(max(size), 0) AS BIGINT) AS s_biggest,"
        f" max(t) AS s_newest, {dialect.contracts} AS s_contracts FROM ({rows}) AS p WHERE {which}"
    )


def newest(rows: str, which: str, most: int) -> str:
    """Return what follows the columns in a statement for the `most` newest prints, and those of the last one's instant.

    The caller orders them by event order and takes the first: engines compare texts and nulls differently.
    """
    times = f"SELECT t FROM ({rows}) AS q WHERE {which} ORDER BY t DESC LIMIT {most}"
    return f"FROM ({rows}) AS p WHERE {which} AND t >= (SELECT min(t) FROM ({times}) AS n)"
