"""The tables of the embedded store, and its readable views (`prints`, `minutes`, `removals`) for other tools."""

from __future__ import annotations

from decimal import Decimal

from flowtape.model.conditions import FAMILIES
from flowtape.model.exact import BITS
from flowtape.model.prints import CONDITION_NAMES, QUOTE_CLASSES, SETS_ENDS, SETS_RANGE, SIZE_SCALE, Side
from flowtape.orderflow.minute_bars import FIELDS, NOTIONALS, VOLUMES
from flowtape.storage.catalog import RIGHTS
from flowtape.storage.dialect import CANCELS, DUCKDB

VERSION = "4"
_TYPES = {
    "ts": "TIMESTAMP_NS NOT NULL", "series": "INTEGER NOT NULL", "strike": "INTEGER NOT NULL",
    "price": "BIGINT NOT NULL", "size": "BIGINT NOT NULL", "bid": "BIGINT", "spread": "BIGINT",
    "bid_size": "BIGINT", "ask_size": "BIGINT", "quote_age": "BIGINT", "quote_seq": "BIGINT",
    "quote_class": "UTINYINT NOT NULL", "condition": "UTINYINT NOT NULL", "venue": "USMALLINT NOT NULL",
    "seq": "BIGINT NOT NULL", "copy": "BIGINT NOT NULL", "corrects": "UTINYINT NOT NULL", "underlying": "BIGINT",
    "price_flags": "UTINYINT NOT NULL", "symbol_id": "INTEGER NOT NULL", "family": "UTINYINT NOT NULL",
    "side": "UTINYINT NOT NULL", "print_id": "BIGINT NOT NULL", "removed_at": "TIMESTAMP_NS",
}  # fmt: skip
PRINT_COLUMNS = ", ".join(_TYPES)
"""The columns that a row of `print_rows` is written by."""
# Small numbers take less room: a quote's age for its time, the spread for the ask.
_DERIVED = (
    "quote_ts TIMESTAMP_NS AS (make_timestamp_ns(epoch_ns(ts) - quote_age)),"
    " ask BIGINT AS (coalesce(bid, 0) + spread)"
)
_BAR_TYPES = {
    "symbol_id": "INTEGER",
    "right": "UTINYINT",
    "minute": "INTEGER",
    **dict.fromkeys(FIELDS, "BIGINT"),
}


def _columns(types: dict[str, str]) -> str:
    return ", ".join(f'"{name}" {kind}' for name, kind in types.items())


def _named(values: tuple[str, ...]) -> str:
    return "[" + ", ".join(f"'{value}'" for value in values) + "]"


def _sized(units: str, digits: int, asset: str = "asset") -> str:
    """SQL for a size or volume as kept in contracts or shares, as a decimal of so many digits."""
    one = " ".join(f"WHEN '{name}' THEN {Decimal(1) / scale:.4f}" for name, scale in SIZE_SCALE.items())
    return f"({units} * CASE {asset} {one} END)::DECIMAL({digits}, 4)"


def _summed(units: str, digits: int = 38) -> str:
    """`_sized` of an aggregate over bars of one asset."""
    return _sized(units, digits, "any_value(asset)")


def _notional(upper: str, lower: str) -> str:
    """SQL for Σ price · size of a bar in 1/10,000 USD, as a decimal, of the two columns that hold it."""
    return _sized(f"({upper} * {2**BITS}::HUGEINT + {lower})", 38)


def _of_side(value: str, side: str) -> str:
    """SQL for the sum of a value over the prints of a side."""
    return f"sum(CASE WHEN {DUCKDB.side(side)} THEN {value} ELSE 0 END)"


_SETS_RANGE, _SETS_ENDS = (f"(price_flags & {flag}) // {flag}" for flag in (SETS_RANGE, SETS_ENDS))
_STRIKE = "CASE asset WHEN 'option' THEN strike / 1e4 END AS strike"
# No keys and no UPDATE anywhere: DuckDB writes no checkpoint while updated rows have readers, so its log would grow.
DDL = f"""
CREATE TABLE meta (name VARCHAR PRIMARY KEY, value VARCHAR);
INSERT INTO meta VALUES ('version', '{VERSION}');
CREATE TABLE series (series INTEGER, asset VARCHAR, symbol VARCHAR, root VARCHAR, expiry DATE, "right" VARCHAR,
    symbol_id INTEGER);
CREATE TABLE venues (venue USMALLINT, name VARCHAR);
CREATE TABLE print_rows ({_columns(_TYPES)}, {_DERIVED});
CREATE TABLE bar_rows ({_columns(_BAR_TYPES)});
CREATE TABLE sources (asset VARCHAR, symbol VARCHAR, day DATE, source VARCHAR);
CREATE TABLE days (day DATE, prints BIGINT, sorted_to BIGINT, moved BIGINT, bars BOOLEAN, classification VARCHAR);
CREATE TABLE cursors (source VARCHAR, position VARCHAR);
CREATE TABLE standing_quotes (source VARCHAR, instrument VARCHAR, ts BIGINT, seq BIGINT, bid BIGINT, ask BIGINT,
    bid_size BIGINT, ask_size BIGINT);
CREATE VIEW prints AS SELECT print_id, ts, asset, symbol, root, expiry, "right", {_STRIKE}, price / 1e4 AS price,
    {_sized("size", 18)} AS size, bid / 1e4 AS bid, ask / 1e4 AS ask, {_sized("bid_size", 20)} AS bid_size,
    {_sized("ask_size", 20)} AS ask_size, quote_ts, quote_seq,
    {_named(QUOTE_CLASSES)}[quote_class + 1] AS quote_class, {_named(CONDITION_NAMES)}[condition + 1] AS condition,
    name AS venue, seq, copy, corrects, underlying / 1e4 AS underlying, price_flags,
    {_named(FAMILIES)}[family + 1] AS family, {_named(tuple(Side.categories))}[side + 1] AS side
    FROM print_rows JOIN series USING (series) JOIN venues USING (venue);
CREATE VIEW minutes AS WITH counted AS (
        SELECT *, {_SETS_RANGE} AS sets_range, {_SETS_ENDS} AS sets_ends, name[:8] AS place
        FROM print_rows JOIN series USING (series) JOIN venues USING (venue)
        WHERE removed_at IS NULL AND condition NOT IN ({CANCELS}))
    SELECT asset, symbol, expiry, "right", {_named(FAMILIES)}[family + 1] AS family,
    make_timestamp(epoch_ns(ts) // 60000000000 * 60000000) AS minute,
    {", ".join(f"{_summed(_of_side('size', side))} AS {side}_volume" for side in NOTIONALS)},
    {", ".join(f"{_summed(_of_side('price::HUGEINT * size', side))} AS {side}_notional" for side in NOTIONALS)},
    count(*)::HUGEINT AS trades,
    CASE any_value(asset) WHEN 'stock' THEN arg_max(price, (sets_range, price)) ELSE max(price) END / 1e4 AS high,
    CASE any_value(asset) WHEN 'stock' THEN arg_min(price, (1 - sets_range, price)) ELSE min(price) END / 1e4 AS low,
    {_summed("max(size)", 18)} AS biggest, make_timestamp_ns(arg_min(epoch_ns(ts), (-size, ts))) AS biggest_ts,
    max(ts) AS last_ts,
    CASE any_value(asset) WHEN 'stock' THEN arg_min(price, (1 - sets_ends, ts, seq, place, price)) END / 1e4 AS open,
    CASE any_value(asset) WHEN 'stock' THEN arg_max(price, (sets_ends, ts, seq, place, price)) END / 1e4 AS close
    FROM counted GROUP BY ALL;
CREATE VIEW minute_bars AS SELECT asset, symbol, {_named(RIGHTS[:-1])}[bar_rows."right" + 1] AS "right",
    make_timestamp(minute::BIGINT * 60000000) AS minute, {", ".join(f"{_sized(n, 38)} AS {n}" for n in VOLUMES)},
    {", ".join(f"{_notional(*pair)} AS {side}_notional" for side, pair in NOTIONALS.items())},
    trades::HUGEINT AS trades, high / 1e4 AS high, low / 1e4 AS low, {_sized("biggest", 18)} AS biggest,
    make_timestamp_ns(biggest_ts) AS biggest_ts, make_timestamp_ns(last_ts) AS last_ts,
    open / 1e4 AS open, close / 1e4 AS close
    FROM bar_rows JOIN (SELECT DISTINCT symbol_id, asset, symbol FROM series) USING (symbol_id);
CREATE VIEW removals AS SELECT print_id, ts, asset, symbol, root, expiry, "right", {_STRIKE},
    {_sized("size", 18)} AS size, price / 1e4 AS price, {_named(CONDITION_NAMES)}[condition + 1] AS condition,
    name AS venue, seq, copy, removed_at
    FROM print_rows JOIN series USING (series) JOIN venues USING (venue) WHERE removed_at IS NOT NULL;
"""
