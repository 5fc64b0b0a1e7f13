"""Embedded stores of format versions 2 and 3, to be read and carried over."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from itertools import pairwise
from typing import Any

import polars as pl

from flowtape.errors import StoreError
from flowtape.model.prints import CONDITION_NAMES, QUOTE_CLASSES, SIZE_SCALE, day_bounds
from flowtape.orderflow.quotes import STANDING
from flowtape.storage import INGEST_AGAIN, other_format
from flowtape.storage.duckdb_days import between
from flowtape.storage.duckdb_exchange import version_of
from flowtape.storage.duckdb_file import queried
from flowtape.storage.duckdb_tables import VERSION

COLLAPSED = "2"
"""The version that kept one of several prints with the same contract, venue, time and sequence number."""
_VERSIONS = (COLLAPSED, "3")
_PIECE = 500_000
"""Rows read at a time."""
_SIZES = ("size", "bid_size", "ask_size")
_KEPT = ("copy", "corrects", "quote_seq", "price_flags")
"""Columns of prints that version 2 lacks; readers of frames fill them."""


class OldStore:
    """A store of version 2 or 3, over an open connection. Raises `StoreError` for another version."""

    def __init__(self, connection: Any) -> None:
        self._db = connection
        self.version = version_of(connection)
        if self.version not in _VERSIONS:
            raise StoreError(other_format(self.version, VERSION, INGEST_AGAIN))
        self._prints = self._columns("print_rows")
        # Sizes of stocks were whole shares until sums of prices and sizes were kept in two columns.
        self._whole_shares = not any(name.endswith("_upper") for name in self._columns("bar_rows"))

    def _columns(self, table: str) -> set[str]:
        sql = f"SELECT column_name FROM duckdb_columns() WHERE table_name = '{table}'"
        return {name for (name,) in self._db.execute(sql).fetchall()}

    def count(self) -> int:
        """Return the number of prints."""
        return int(self._db.execute("SELECT count(*) FROM print_rows").fetchall()[0][0])

    def rows(self) -> Iterator[pl.DataFrame]:
        """Yield all prints, day by day and in order of time, as frames that `model.prints.conform` takes, with their
        `source`."""
        found = self._db.execute("SELECT DISTINCT day FROM sources ORDER BY day").fetchall()
        for (day,) in found:
            yield from self._of_day(day)

    def _of_day(self, day: date) -> Iterator[pl.DataFrame]:
        start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
        many = self._db.execute(f"SELECT count(*) FROM print_rows WHERE {between(start, end)}").fetchall()[0][
            0
        ]
        pieces = -(-many // _PIECE)
        bounds = [start, end]
        if pieces > 1:
            shares = [place / pieces for place in range(1, pieces)]
            sql = f"SELECT quantile_disc(epoch_ns(ts), {shares}) FROM print_rows WHERE {between(start, end)}"
            bounds = sorted({start, *self._db.execute(sql).fetchall()[0][0], end})
        for low, high in pairwise(bounds):
            frame = queried(self._db, self._select(day, low, high), {})
            frame = frame.with_columns(pl.col(pl.Datetime("ns")).dt.replace_time_zone("UTC"))
            if frame.height:
                yield frame

    def _select(self, day: date, start: int, end: int) -> str:
        return f"""SELECT {", ".join(self._values())}, coalesce(c.source, 'unknown') AS source
            FROM print_rows p JOIN series s USING (series) JOIN venues v USING (venue)
            LEFT JOIN sources c ON c.day = DATE '{day}' AND c.asset = s.asset AND c.symbol = s.symbol
            WHERE {between(start, end)} ORDER BY p.ts, p.seq"""

    def _values(self) -> Iterator[str]:
        """Yield the columns of a print, in the units of today."""
        yield "p.ts"
        yield from (f's."{name}"' for name in ("asset", "symbol", "root", "expiry", "right"))
        yield "CASE s.asset WHEN 'option' THEN p.strike::BIGINT END AS strike"
        yield from (f"p.{name}::BIGINT AS {name}" for name in ("price", "bid", "ask", "underlying", "seq"))
        shares = (
            f" * CASE s.asset WHEN 'stock' THEN {SIZE_SCALE['stock']} ELSE 1 END"
            if self._whole_shares
            else ""
        )
        yield from (f"p.{name}::BIGINT{shares} AS {name}" for name in _SIZES)
        yield "p.quote_ts"
        yield f"{list(CONDITION_NAMES)}[p.condition + 1] AS condition"
        yield "v.name AS venue"
        if "quote_class" in self._prints:
            yield f"{list(QUOTE_CLASSES)}[p.quote_class + 1] AS quote_class"
        else:
            # The least class with a quote: that of a row ingested again counts before it.
            yield "CASE WHEN p.bid IS NULL AND p.ask IS NULL THEN 'none' ELSE 'sampled' END AS quote_class"
        yield from (f"p.{name}" for name in _KEPT if name in self._prints)

    def cursors(self) -> list[tuple[str, str]]:
        """Return each live source and where it was left."""
        found = self._db.execute("SELECT source, position FROM cursors").fetchall()
        return [(source, position) for source, position in found]

    def standing(self, source: str) -> pl.DataFrame:
        """Return the quotes kept with a source's cursor, as `Store.standing` does."""
        if not self._columns("standing_quotes"):
            return pl.DataFrame(schema=STANDING)
        name = source.replace("'", "''")
        found = queried(
            self._db, f"SELECT {', '.join(STANDING)} FROM standing_quotes WHERE source = '{name}'", {}
        )
        return found.select(pl.col(name).cast(kind) for name, kind in STANDING.items())
