"""The tables of a ClickHouse store: one text for the engine in process, for one node and for a cluster.

Every row of what is committed carries the `writer` that inserted it and the stamp `v` of the statement that did, and
counts once its writer has told in `commits` that it got that far (docs/how-to/clickhouse.md): a commit is one row of
one table, and what a killed writer left behind is never seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flowtape.model.exact import BITS
from flowtape.orderflow.minute_bars import EDGES, NOTIONALS, VALUES

VERSION = 4
STAMP = {"writer": "UInt64", "v": "UInt64 CODEC(Delta, ZSTD)"}
_TEXT = "LowCardinality(String)"
SERIES_COLUMNS = {
    "asset": _TEXT, "symbol": _TEXT, "root": _TEXT, "expiry": "Date32", "right": _TEXT,
}  # fmt: skip
"""A stock's expiry is 1970-01-01, its root and right may be empty."""
_INSTANT = "DateTime64(9, 'UTC') CODEC(DoubleDelta, ZSTD)"
_IDENTITY = {
    "ts": _INSTANT, **SERIES_COLUMNS, "strike": "Int32", "venue": _TEXT, "seq": "Int64 CODEC(Delta, ZSTD)",
    "price": "Int64 CODEC(Delta, ZSTD)", "size": "Int64 CODEC(ZSTD)", "condition": "UInt8", "copy": "Int64 CODEC(ZSTD)",
}  # fmt: skip
_INDEX = "INDEX stamps v TYPE minmax GRANULARITY 1"


@dataclass(frozen=True, slots=True)
class Table:
    """A table: columns and types, its order, what parts it by time, the column that puts a row on a shard, and the
    time that a row is kept by."""

    name: str
    columns: dict[str, str]
    order: tuple[str, ...]
    shard: str
    parts: str = ""
    age: str = ""
    engine: str = "MergeTree"
    index: str = ""


_PRINT_ID = "Int64 CODEC(Delta, ZSTD)"
_NULLABLE = "Nullable(Int64) CODEC(Delta, ZSTD)"
_KEPT = {
    "bid": _NULLABLE, "ask": _NULLABLE,
    "bid_size": _NULLABLE, "ask_size": _NULLABLE,
    "quote_ts": "Nullable(DateTime64(9, 'UTC')) CODEC(DoubleDelta, ZSTD)", "quote_seq": _NULLABLE,
    "quote_class": "UInt8", "corrects": "UInt8", "underlying": _NULLABLE, "price_flags": "UInt8", "family": _TEXT,
    "side": _TEXT, "print_id": _PRINT_ID, "gone": "UInt8",
}  # fmt: skip
"""`gone` is 1 in the row that removes a print."""
_BAR = {
    **dict.fromkeys(VALUES, "Int64 CODEC(ZSTD)"),
    **dict.fromkeys(EDGES, "Nullable(Int64) CODEC(ZSTD)"),
    # For other tools.
    **{f"{side}_notional": f"Int128 ALIAS toInt128({upper}) * {2**BITS} + {lower}"
       for side, (upper, lower) in NOTIONALS.items()},
}  # fmt: skip
TABLES = (
    Table("prints", {**_IDENTITY, **_KEPT, **STAMP}, ("asset", "symbol", "ts", "seq", "v"), "symbol",
          "toYYYYMM(ts)", "ts", index=_INDEX),
    Table("minute_bars", {"asset": _TEXT, "symbol": _TEXT, "right": _TEXT,
                          "minute": "DateTime('UTC') CODEC(Delta, ZSTD)", **_BAR, "restated": "UInt8", **STAMP},
          ("asset", "symbol", "minute", "right", "v"), "symbol", "toYYYYMM(minute)", "minute", index=_INDEX),
    Table("removals", {**_IDENTITY,
                       "removed_at": "Nullable(DateTime64(9, 'UTC'))", "print_id": _PRINT_ID, **STAMP},
          ("asset", "symbol", "ts", "seq", "v"), "symbol", "toYYYYMM(ts)", "ts", index=_INDEX),
    Table("series", {**SERIES_COLUMNS, **STAMP}, ("asset", "symbol", "expiry", "right", "root", "v"), "symbol",
          index=_INDEX),
    Table("sources", {"asset": _TEXT, "symbol": _TEXT, "day": "Date32", "source": _TEXT, **STAMP},
          ("asset", "symbol", "day", "v"), "symbol"),
    Table("classified", {"day": "Date32", "classification": "String", "whole": "UInt8", **STAMP}, ("day", "v"), "day"),
    Table("voids", {"kind": _TEXT, "asset": _TEXT, "symbol": _TEXT, "start": "Int64", "end": "Int64", **STAMP},
          ("start", "v"), "symbol"),
    Table("cursors", {"source": "String", "position": "String", **STAMP}, ("source", "v"), "source"),
    Table("standing", {"source": "String", "instrument": "String", "ts": "Int64", "seq": "Int64",
                       **dict.fromkeys(("bid", "ask", "bid_size", "ask_size"), "Nullable(Int64)"), **STAMP},
          ("source", "instrument", "v"), "source"),
    Table("leases", {"source": "String", "writer": "UInt64", "ended": "UInt8"}, ("source", "writer"), "source"),
    Table("commits", {"writer": "UInt64", "last": "SimpleAggregateFunction(max, UInt64)",
                      "fence": "SimpleAggregateFunction(min, UInt64)",
                      "grew": "SimpleAggregateFunction(max, UInt64)",
                      "claimed": "SimpleAggregateFunction(max, UInt64)"},
          ("writer",), "writer", engine="AggregatingMergeTree"),
    Table("keys", {"id": "String", "digest": "String", "plan": _TEXT, "label": "String", "created": "Int64",
                   "revoked": "Int64"}, ("id",), "label"),
    Table("meta", {"name": "String", "value": "String", "at": "UInt64"}, ("name",), "name",
          engine="ReplacingMergeTree(at)"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tables are made and how long rows are kept, in days (None: for good)."""

    database: str
    cluster: str = ""
    keep_prints: int | None = None
    keep_minutes: int | None = None

    def statements(self) -> Iterator[str]:
        """All that makes a store; each may be run again."""
        yield f"CREATE DATABASE IF NOT EXISTS {self.database}{self.on}"
        for table in TABLES:
            yield self._create(table)
            if self.cluster:
                yield self._spread(table)

    def keeping(self) -> Iterator[str]:
        """What sets how long rows are kept, on a store that is there, for tables that are not kept for good."""
        for table in TABLES:
            days = self._days(table)
            if table.age and days is not None:
                # By day: a DateTime ends in 2106, and what goes beyond it has long expired.
                age = f"toDate({table.age}) + INTERVAL {days} DAY"
                yield f"ALTER TABLE {self.local(table.name)}{self.on} MODIFY TTL {age}"

    def for_good(self) -> Iterator[tuple[str, str]]:
        """A node's own tables that are kept for good, and for each what takes an age away that it may have had."""
        for table in TABLES:
            if table.age and self._days(table) is None:
                name = self.local(table.name).partition(".")[2]
                yield name, f"ALTER TABLE {self.local(table.name)}{self.on} REMOVE TTL"

    def _days(self, table: Table) -> int | None:
        return self.keep_minutes if table.name == "minute_bars" else self.keep_prints

    @property
    def on(self) -> str:
        """What a statement for all nodes has after the table's name."""
        return f" ON CLUSTER {self.cluster}" if self.cluster else ""

    def local(self, table: str) -> str:
        """The table that holds a node's own rows."""
        return f"{self.database}.{table}_here" if self.cluster else f"{self.database}.{table}"

    def _create(self, table: Table) -> str:
        columns = ", ".join(f"`{name}` {kind}" for name, kind in table.columns.items())
        if table.index:
            columns += f", {table.index}"
        engine, given = table.engine.partition("(")[0], table.engine.partition("(")[2].rstrip(")")
        if self.cluster:
            path = f"'/clickhouse/tables/{{shard}}/{self.database}/{table.name}', '{{replica}}'"
            made = f"Replicated{engine}({path}{', ' + given if given else ''})"
            window = "replicated_deduplication_window = 10000"
        else:
            made, window = table.engine, "non_replicated_deduplication_window = 10000"
        parts = f" PARTITION BY {table.parts}" if table.parts else ""
        order = ", ".join(f"`{name}`" for name in table.order)
        return (
            f"CREATE TABLE IF NOT EXISTS {self.local(table.name)}{self.on} ({columns})"
            f" ENGINE = {made}{parts} ORDER BY ({order}) SETTINGS {window}"
        )

    def _spread(self, table: Table) -> str:
        return (
            f"CREATE TABLE IF NOT EXISTS {self.database}.{table.name}{self.on}"
            f" AS {self.local(table.name)} ENGINE = Distributed({self.cluster}, {self.database},"
            f" {table.name}_here, sipHash64(`{table.shard}`))"
        )
