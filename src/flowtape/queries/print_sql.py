"""SQL over stored prints, one template for DuckDB and ClickHouse (`storage.dialect`).

Each template reads from `rows`, the SQL of the visible counted prints of one symbol in a span (`Store.counted`). It
returns minutes, one row of sums, or at most the prints shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

from flowtape.model.conditions import FAMILIES
from flowtape.model.exact import BITS
from flowtape.model.prints import NEW_YORK, SETS_ENDS, SETS_RANGE, Side, day_bounds
from flowtape.model.query import Filter
from flowtape.orderflow.minute_bars import NOTIONALS, NS_PER_MINUTE, venue_key
from flowtape.storage.catalog import Catalog
from flowtape.storage.dialect import Dialect

_NS = 10**9


def passes(dialect: Dialect, which: Filter, start: int, end: int) -> str:
    """Return the predicate for prints in [start, end) ns that pass a filter."""
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
    """Return the predicate for days to expiry. They count from the trading day, so each day of the span has its own
    range of expiries."""
    parts = []
    for first, last, day in _days(start, end):
        ends = (day + timedelta(days=min(days, (date.max - day).days)) for days in dte)
        within = dialect.of_series.format(_expires(dialect, *ends))
        parts.append(f"(t >= {first} AND t < {last} AND {within})")
    return f"({' OR '.join(parts) or '1 = 0'})"


def _days(start: int, end: int) -> Iterator[tuple[int, int, date]]:
    """Yield the bounds (ns) and the date of each trading day in [start, end) ns."""
    while start < end:
        day = datetime.fromtimestamp(start // _NS, UTC).astimezone(NEW_YORK).date()
        first, last = (int(bound.timestamp()) * _NS for bound in day_bounds(day))
        yield first, last, day
        start = last


def venue_rank(dialect: Dialect, catalog: Catalog) -> str:
    """Return the SQL of a print's `minute_bars.venue_key`."""
    if dialect.by_name:
        # The first eight bytes of the name as an integer, minus 2^63, as in `venue_key`.
        first = "reverse(substring(concat(venue, repeat(char(0), 8)), 1, 8))"
        return f"reinterpretAsInt64(bitXor(reinterpretAsUInt64({first}), toUInt64({2**63})))"
    keys = venue_key(catalog.venues["name"]).to_list()
    return f"list_extract({keys or [0]}::BIGINT[], venue + 1)"


def bars(
    dialect: Dialect, rows: str, which: str, names: tuple[str, ...], *, stock: bool, length: int, venue: str
) -> str:
    """Return the statement for one row per bar of `length` ns, rising: the bar's number since 1970, `names`, the
    newest time (ns).

    Args:
        names: of `minute_bars.VALUES`, and of `EDGES` for stocks.
        venue: the SQL of `minute_bars.venue_key`.
    """
    bar = "minute" if length == NS_PER_MINUTE else dialect.whole.format("t", length)
    known = _values(dialect, stock=stock) | (_edges(venue) if stock else {})
    columns = [f"CAST({known[name]} AS BIGINT) AS m_{name}" for name in names]
    return (
        f"SELECT CAST({bar} AS BIGINT) AS m_bar, {', '.join((*columns, 'max(t) AS m_newest'))} FROM ({rows}) AS p"
        f" WHERE {which} GROUP BY m_bar ORDER BY m_bar"
    )


def _values(dialect: Dialect, *, stock: bool) -> dict[str, str]:
    """Return the SQL of `minute_bars.VALUES` over the prints of a bar."""
    values = {
        "trades": "count(*)",
        "biggest": "max(size)",
        "biggest_ts": dialect.earliest_largest,
        "last_ts": "max(t)",
        "high": _extreme("max", stock=stock),
        "low": _extreme("min", stock=stock),
    }
    for side in Side.categories:
        mine = dialect.side(side)
        values[f"{side}_volume"] = f"sum(CASE WHEN {mine} THEN size ELSE 0 END)"
        notional = f"sum(CASE WHEN {mine} THEN {dialect.wide.format('price')} * size ELSE 0 END)"
        upper, lower = NOTIONALS[side]
        values[upper] = dialect.whole.format(notional, 2**BITS)
        values[lower] = f"({notional} % {2**BITS})"
    return values


def _edges(venue: str) -> dict[str, str]:
    """Return the SQL of `minute_bars.EDGES` over the prints of a stock's bar."""
    ends, order = _flag(SETS_ENDS), f"t, seq, {venue}, price"
    values = {
        "first_ts": "min(t)",
        "sets_range": f"max({_flag(SETS_RANGE)})",
        "sets_ends": f"max({ends})",
    }
    for name, function, rank in (("open", "argMin", f"1 - {ends}"), ("close", "argMax", ends)):
        columns = {"_ts": "t", "_seq": "seq", "_venue": venue, "": "price"}
        values |= {f"{name}{end}": f"{function}({of}, ({rank}, {order}))" for end, of in columns.items()}
    return values


def _flag(bit: int) -> str:
    """Return the SQL of 1 for prints with a price flag, else 0."""
    return f"CASE WHEN price_flags % {2 * bit} >= {bit} THEN 1 ELSE 0 END"


def _extreme(function: str, *, stock: bool) -> str:
    """Return the SQL of a minute's high or low. For stocks it uses the prints that may set it, where there are any."""
    if not stock:
        return f"{function}(price)"
    return f"coalesce({function}(CASE WHEN {_flag(SETS_RANGE)} = 1 THEN price END), {function}(price))"


def quality(dialect: Dialect, rows: str, which: str, start: int, end: int, max_age: int | None) -> str:
    """Return the statement for the quote coverage of each minute of [start, end) ns, minutes rising.

    The columns are: volume in all; volume of prints with a valid quote in force (`classify.in_force`, at most
    `max_age` ns old); volume of prints with a side; volume of each family in the order of `FAMILIES`; the median age
    of the quotes in force with a known time.
    """
    quote = dialect.quote_time
    days = " ".join(f"WHEN t < {last} THEN {first}" for first, last, _ in _days(start, end))
    fresh = f"{quote} <= t AND {quote} >= CASE {days} END"
    if max_age is not None:
        fresh += f" AND t - {quote} <= {max_age}"
    in_force = f"bid >= 0 AND ask > 0 AND ask >= bid AND (quote_ts IS NULL OR ({fresh}))"
    volumes = {"nbbo": in_force, "sided": f"NOT ({dialect.side('mid')})"}
    volumes |= {f"family_{place}": dialect.family((name,)) for place, name in enumerate(FAMILIES)}
    columns = [
        f"CAST(sum(CASE WHEN {these} THEN size ELSE 0 END) AS BIGINT) AS q_{name}"
        for name, these in volumes.items()
    ]
    age = dialect.median.format(f"CASE WHEN {in_force} THEN t - {quote} END")
    return (
        f"SELECT CAST(minute AS BIGINT) AS q_minute, CAST(sum(size) AS BIGINT) AS q_volume, {', '.join(columns)},"
        f" {age} AS q_age FROM ({rows}) AS p WHERE {which} GROUP BY q_minute ORDER BY q_minute"
    )


def summary(dialect: Dialect, rows: str, which: str) -> str:
    """Return the statement for the sums over a span, in one row."""
    sides = ", ".join(
        f"CAST(coalesce(sum(CASE WHEN {dialect.side(side)} THEN size ELSE 0 END), 0) AS BIGINT) AS s_{side}"
        for side in Side.categories
    )
    return (
        f"SELECT count(*) AS s_trades, {sides}, CAST(coalesce(max(size), 0) AS BIGINT) AS s_biggest,"
        f" max(t) AS s_newest, {dialect.contracts} AS s_contracts FROM ({rows}) AS p WHERE {which}"
    )


def largest(rows: str, which: str, most: int) -> str:
    """Return the statement for size and time of the `most` largest prints; of equal sizes the earliest."""
    return f"SELECT size, t FROM ({rows}) AS p WHERE {which} ORDER BY size DESC, t LIMIT {most}"


def newest(rows: str, which: str, most: int) -> str:
    """Return the clauses after the columns of a statement for the `most` newest prints, and all others at the oldest
    instant among them.

    The caller sorts them by event order and takes the first: DuckDB and ClickHouse compare texts and nulls
    differently.
    """
    times = f"SELECT t FROM ({rows}) AS q WHERE {which} ORDER BY t DESC LIMIT {most}"
    return f"FROM ({rows}) AS p WHERE {which} AND t >= (SELECT min(t) FROM ({times}) AS n)"
