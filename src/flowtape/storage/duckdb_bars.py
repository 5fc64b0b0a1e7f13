"""Minute bars of stored prints as one SQL statement over an embedded store."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from flowtape.model.exact import BITS
from flowtape.model.prints import SETS_ENDS, SETS_RANGE, Side
from flowtape.orderflow.minute_bars import FIELDS, NOTIONALS, NS_PER_MINUTE, venue_key
from flowtape.storage.catalog import BAR_KEY, RIGHTS, Catalog
from flowtape.storage.dialect import CANCELS, DUCKDB

COLUMNS = ", ".join(f'"{name}"' for name in (*BAR_KEY, *FIELDS))
_PLACE = 2 ** (NS_PER_MINUTE - 1).bit_length()
"""More than a minute has nanoseconds: sizes times this, and a time within the minute, are one integer."""
_FIRST, _LAST = "min(({}, ts, seq, place, price))", "max(({}, ts, seq, place, price))"


def bars_of_prints(catalog: Catalog, where: str) -> str:
    """Return the statement for the minute bars (`COLUMNS`) of the prints that count and meet a predicate."""
    assets = catalog.series["asset"].unique().cast(pl.String).sort()
    return " UNION ALL ".join(_bars(catalog, where, stock=asset == "stock") for asset in assets)


def _bars(catalog: Catalog, where: str, *, stock: bool) -> str:
    """Return the statement for one asset; only bars of stocks have the columns of `minute_bars.EDGES`."""
    columns = ", ".join(f"({value})::BIGINT AS {name}" for name, value in _fields(stock=stock).items())
    right = " ".join(f"WHEN '{name}' THEN {place}" for place, name in enumerate(RIGHTS[:-1]))
    venue = f"JOIN {_places(catalog)} USING (venue)" if stock else ""
    # The product of price and size of a stock may be beyond 64 bits.
    notional = f"{'price::HUGEINT' if stock else 'price'} * size"
    return f"""SELECT symbol_id, "right", minute, {columns} FROM (SELECT symbol_id,
            (CASE s."right" {right} ELSE {len(RIGHTS) - 1} END)::UTINYINT AS "right",
            (epoch_ns(ts) // {NS_PER_MINUTE})::INTEGER AS minute, {_reduced(notional, stock=stock)}
        FROM print_rows JOIN (SELECT series, asset, "right" FROM series) s USING (series) {venue}
        WHERE s.asset = '{"stock" if stock else "option"}' AND {where}
            AND removed_at IS NULL AND condition NOT IN ({CANCELS}) GROUP BY 1, 2, 3)"""


def _reduced(notional: str, *, stock: bool) -> str:
    """Return what the prints of a bar are reduced to."""
    parts = {
        "trades": "count(*)",
        "last_ts": "epoch_ns(max(ts))",
        # Of one size the earliest time has the greatest number.
        "largest": f"max(size::HUGEINT * {_PLACE} + ({NS_PER_MINUTE - 1} - epoch_ns(ts) % {NS_PER_MINUTE}))",
        "high": "max(price)",
        "low": "min(price)",
    }
    for side in Side.categories:
        mine = f"sum(CASE WHEN {DUCKDB.side(side)} THEN {{}} ELSE 0 END)"
        parts |= {f"{side}_volume": mine.format("size"), f"{side}_notional": mine.format(notional)}
    if stock:
        ends, ranged = (f"(price_flags & {flag}) // {flag}" for flag in (SETS_ENDS, SETS_RANGE))
        parts |= {
            "first_ts": "epoch_ns(min(ts))",
            "sets_range": f"max({ranged})",
            "sets_ends": f"max({ends})",
            "high": f"max(({ranged}, price))[2]",
            "low": f"min((1 - {ranged}, price))[2]",
            "opened": _FIRST.format(f"1 - {ends}"),
            "closed": _LAST.format(ends),
        }
    return ", ".join(f"{value} AS {name}" for name, value in parts.items())


def _fields(*, stock: bool) -> dict[str, str]:
    """Return the SQL of `minute_bars.FIELDS` over `_reduced`."""
    fields = {name: name if stock or name not in _EDGES else "NULL" for name in FIELDS}
    for side, (upper, lower) in NOTIONALS.items():
        fields |= {upper: f"{side}_notional // {2**BITS}", lower: f"{side}_notional % {2**BITS}"}
    fields["biggest"] = f"largest // {_PLACE}"
    fields["biggest_ts"] = f"(minute + 1)::BIGINT * {NS_PER_MINUTE} - 1 - largest % {_PLACE}"
    if stock:
        for name, of in (("open", "opened"), ("close", "closed")):
            fields |= {
                f"{name}_ts": f"epoch_ns({of}[2])",
                f"{name}_seq": f"{of}[3]",
                f"{name}_venue": f"{of}[4]",
            }
            fields[name] = f"{of}[5]"
    return fields


_EDGES = FIELDS[FIELDS.index("open_ts") :]


def _places(catalog: Catalog) -> str:
    """Return a table of each venue's place in the order of events."""
    venues = catalog.venues
    keys = zip(venues["venue"], venue_key(venues["name"]), strict=True)
    return f"(VALUES {', '.join(f'({venue}, ({key})::BIGINT)' for venue, key in keys)}) v(venue, place)"


def of_symbols(symbols: Iterable[int] | None) -> str:
    """Return the predicate of rows of some symbols (numbers); None: of all."""
    if symbols is None:
        return "true"
    known = list(symbols)
    if known and max(known) - min(known) + 1 == len(set(known)):
        return f"symbol_id BETWEEN {min(known)} AND {max(known)}"
    return f"symbol_id IN ({', '.join(map(str, known)) or 'NULL'})"


def of_minutes(start: int, end: int) -> str:
    """Return the predicate of bars of minutes [start, end) since 1970."""
    return f"minute >= {start} AND minute < {end}"
