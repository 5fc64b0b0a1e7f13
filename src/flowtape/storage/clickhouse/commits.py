"""Commits on an engine without transactions: who has written how far, and who may write.

Every row carries its writer and a rising stamp, and counts once that writer's row in `commits` has reached the stamp.
What a reader sees is named by how far each writer had got (a `Point`), and stays the same whatever is written next.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import polars as pl

from flowtape.errors import StoreError, TakenOver
from flowtape.storage import INGEST_AGAIN, Point, other_format
from flowtape.storage.catalog import Catalog
from flowtape.storage.clickhouse.connection import Address, Link
from flowtape.storage.clickhouse.rows import quoted, typed_series
from flowtape.storage.clickhouse.tables import SERIES_COLUMNS, VERSION, Layout

FOREVER = 2**64 - 1


class Commits:
    """What a `ClickStore` has of transactions: begun and ended here, its rows held back until they are to be inserted,
    each under a token of its own."""

    def __init__(self, address: Address, read_only: bool = False) -> None:
        self.address, self.read_only = address, read_only
        self._link = Link(address)
        # Not one of a thread's own: who ends a transaction may not be who began it.
        self._write = threading.Lock()
        self._learning = threading.RLock()
        self._mine = threading.local()
        self._writer = secrets.randbits(62) + 1
        self._writers = {self._writer}
        self._stamp = self._begun = 0
        self._in_transaction = False
        self._point = Point({})
        self._grew = self._claimed = 0
        self._held: dict[str, list[pl.DataFrame]] = {}
        self._lost: int | None = None
        self._leases: set[str] = set()
        self._taken_over = False
        self.claims_version = 0
        self.catalog = Catalog.of()
        self._learned: dict[int, int] = {}
        self._told: dict[int, int] = {}
        try:
            self._prepare()
        except StoreError:
            self._link.close()
            raise

    def _prepare(self) -> None:
        if not self._link.has("meta"):
            if self.read_only:
                raise StoreError(f"{self.address}: there is no flowtape store")
            for statement in Layout(self.address.database, self.address.cluster).statements():
                self._link.run(statement)
        found = self._version()
        if not found and not self.read_only:
            row = pl.DataFrame({"name": ["version"], "value": [str(VERSION)], "at": [1]})
            self._insert("meta", row.cast({"at": pl.UInt64}), "version")
            found = self._version()
        if found != str(VERSION):
            raise StoreError(f"{self.address}: {other_format(found, str(VERSION), INGEST_AGAIN)}")
        self.point()

    def _version(self) -> str:
        sql = f"SELECT argMax(value, at) AS version FROM {self._at('meta')} WHERE name = 'version'"
        return str(self._link.ask(sql).item())

    def _at(self, table: str) -> str:
        return f"{self.address.database}.{table}"

    def bulk(self) -> AbstractContextManager[None]:
        """Do nothing: the engine has its own memory."""
        return nullcontext()

    def close(self) -> None:
        """Let the engine go; a transaction that is open is undone."""
        self._link.close()

    def check(self) -> None:
        self._link.ask(f"SELECT count() AS n FROM {self._at('meta')}")

    # what counts
    def _look(self) -> tuple[Point, pl.DataFrame]:
        """How far each writer has got by now, and where it last brought series and claimed days."""
        rows = self._link.ask(
            "SELECT writer, least(max(last), min(fence)) AS reached, max(grew) AS grew, max(claimed) AS claimed"
            f" FROM {self._at('commits')} GROUP BY writer HAVING reached > 0 ORDER BY writer"
        )
        return Point(dict(rows.select("writer", "reached").iter_rows()) if rows.width else {}), rows

    def point(self) -> Point:
        """Return the state that this thread reads; the catalog knows its series."""
        if not getattr(self._mine, "held", False):
            return self._newest()
        if self._mine.point is None:
            self._mine.point = self._newest()
        found: Point = self._mine.point
        return found

    def _newest(self) -> Point:
        with self._learning:
            # While rows are being written, the numbers they go by must not change.
            return self._point if self._in_transaction else self._learn()

    def _learn(self) -> Point:
        """Look, and take what other writers brought: series into the catalog; that they claimed days is told."""
        point, news = self._look()
        for writer, reached, grew, claimed in news.iter_rows():
            if writer in self._writers:
                continue
            if min(claimed, reached) > self._told.get(writer, 0):
                self._told[writer] = reached
                self.claims_version += 1
            before = self._learned.get(writer, 0)
            if min(grew, reached) > before:
                rows = self._link.ask(
                    f"SELECT {', '.join(SERIES_COLUMNS)} FROM {self._at('series')}"
                    f" WHERE writer = {writer} AND v > {before} AND v <= {reached} ORDER BY ALL"
                )
                if rows.height:
                    self.catalog.adopt(typed_series(rows))
                self._learned[writer] = reached
        self._point = point
        return point

    @contextmanager
    def transaction(self) -> Iterator[None]:
        if self.read_only:
            raise StoreError(f"{self.address}: the store was opened to be read")
        with self._write:
            if self._taken_over:
                raise TakenOver(f"{self.address}: another process has taken over what this one wrote")
            try:
                self._begin()
                yield
                self._commit()
            except BaseException:
                self._abandon()
                raise
            self.catalog.settle()
            self._in_transaction = False

    def _begin(self) -> None:
        with self._learning:
            if self._lost is not None:
                self._begin_anew(self._lost)
                self._lost = None
            point = self._learn()
            self._in_transaction = True
        self._begun = self._stamp = max(self._stamp, *point.reached.values(), 0)
        self._grew = self._claimed = 0
        self._held = {}

    def _commit(self) -> None:
        if self._stamp == self._begun:
            return
        for table in list(self._held):
            self._flush(table)
        row = self._progress(self._writer, self._stamp, FOREVER, self._grew, self._claimed)
        self._insert("commits", row, f"{self._writer}-{self._stamp}-commit")
        reached = self._look()[0].reached
        if reached.get(self._writer, 0) < self._stamp:
            self._taken_over = True
            raise TakenOver(f"{self.address}: another process has taken over what this one wrote")
        self._point = Point({**self._point.reached, self._writer: self._stamp})

    def _abandon(self) -> None:
        self.catalog.rollback()
        self._held = {}
        if self._lost is None:
            self._lost = self._writer
        self._writer = secrets.randbits(62) + 1
        self._writers.add(self._writer)
        self._in_transaction = False

    def _fence(self, writer: int, reached: int) -> None:
        """Let nothing of a writer count beyond a stamp."""
        row = self._progress(writer, reached, reached, 0, 0)
        self._insert("commits", row, f"{writer}-{reached}-fence-{self._writer}")

    @staticmethod
    def _progress(writer: int, last: int, fence: int, grew: int, claimed: int) -> pl.DataFrame:
        row = {"writer": [writer], "last": [last], "fence": [fence], "grew": [grew], "claimed": [claimed]}
        return pl.DataFrame(row, dict.fromkeys(row, pl.UInt64))

    def take_over(self, source: str) -> None:
        if self.read_only:
            raise StoreError(f"{self.address}: the store was opened to be read")
        with self._write:
            self._leases.add(source)
            self._lease(source, ended=0)
            reached = self._look()[0].reached
            for writer in self._others(source):
                self._fence(writer, reached.get(writer, 0))

    def release(self, source: str) -> None:
        with self._write:
            self._leases.discard(source)
            self._lease(source, ended=1)

    def _lease(self, source: str, ended: int) -> None:
        row = pl.DataFrame(
            {"source": [source], "writer": [self._writer], "ended": [ended]},
            {"source": pl.String, "writer": pl.UInt64, "ended": pl.UInt8},
        )
        self._insert("leases", row, f"{self._writer}-{self._next()}-lease")

    def _others(self, source: str) -> list[int]:
        """Other processes' writers that write a source and may."""
        # GLOBAL: on a cluster a query of all shards may not hold another that each of them would send to all again.
        rows = self._link.ask(
            f"SELECT writer FROM {self._at('leases')} WHERE source = {quoted(source)} AND writer GLOBAL NOT IN"
            f" (SELECT writer FROM {self._at('commits')} GROUP BY writer HAVING min(fence) < {FOREVER})"
            " GROUP BY writer HAVING countIf(ended = 0) > countIf(ended = 1)"
        )
        return [writer for (writer,) in rows.iter_rows() if writer not in self._writers]

    def _begin_anew(self, lost: int) -> None:
        """After a commit that failed: whether the row that would have been it arrived or not, from here on nobody sees
        more of that writer, and this process goes on as another."""
        self._fence(lost, self._look()[0].reached.get(lost, 0))
        for source in self._leases:
            self._lease(source, ended=0)
        # Who took over meanwhile either fences the new writer too, or has told of itself before this look.
        for source in self._leases:
            if self._others(source):
                self._taken_over = True
                raise TakenOver(f"{self.address}: another process has taken over {source}")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        self._mine.point, self._mine.held = None, True
        try:
            yield
        finally:
            self._mine.point, self._mine.held = None, False

    def _counts(self, own: bool) -> str:
        """What rows of the state at hand meet; `own` with those of the open transaction."""
        if own and self._in_transaction:
            return seen(Point({**self._point.reached, self._writer: self._stamp}))
        return seen(self.point())

    # writing
    def _next(self) -> int:
        self._stamp += 1
        return self._stamp

    def _insert(self, table: str, rows: pl.DataFrame, token: str) -> None:
        self._link.put(self._at(table), rows, token)

    def _write_rows(self, table: str, rows: pl.DataFrame) -> None:
        """Hold rows to be inserted by the commit at the latest."""
        if rows.is_empty():
            return
        stamp = (pl.lit(self._writer, pl.UInt64).alias("writer"), pl.lit(self._next(), pl.UInt64).alias("v"))
        self._held.setdefault(table, []).append(rows.with_columns(*stamp))

    def _flush(self, table: str) -> None:
        held = self._held.pop(table, None)
        if held:
            self._insert(table, pl.concat(held), f"{self._writer}-{held[-1]['v'][0]}-{table}")


def seen(point: Point) -> str:
    """SQL that the rows of a state meet."""
    if not point.reached:
        return "0"
    # One literal each: the engine bounds how many elements a statement has.
    writers, stamps = (
        f"CAST('[{','.join(map(str, values))}]', 'Array(UInt64)')"
        for values in (point.reached.keys(), point.reached.values())
    )
    return f"v <= transform(writer, {writers}, {stamps}, toUInt64(0))"


def since(point: Point, before: Point) -> str:
    """SQL that the rows of a state meet that were not in one before."""
    parts = (
        f"(writer = {writer} AND v > {before.reached.get(writer, 0)} AND v <= {stamp})"
        for writer, stamp in point.reached.items()
        if stamp > before.reached.get(writer, 0)
    )
    return " OR ".join(parts) or "0"
