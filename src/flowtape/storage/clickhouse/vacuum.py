"""Rows of a shared store that others took the place of, deleted once nobody can still be reading them.

What counts no more is worked out as of the state that the run before this one saw, not as of today's: who began to read
that state has long finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import polars as pl

from flowtape.storage import Point
from flowtape.storage.clickhouse.commits import Commits, seen, since
from flowtape.storage.clickhouse.rows import BAR_ROW, IDENTITY, struck
from flowtape.storage.clickhouse.tables import Layout

APART = 600
"""Seconds that must lie between two runs: longer than any answer or commit takes."""
_NAME = "tidy"
"""The name under which a run leaves its mark, from when the command was called so."""
_SETTINGS = "lightweight_deletes_sync = 2, allow_nondeterministic_mutations = 1"


@dataclass(frozen=True, slots=True)
class _Kind:
    """Of a table: what names a row, the stamp before which rows of that name count no more, and the column of their
    day (none: all days at once)."""

    table: str
    names: tuple[str, ...]
    floor: str = "v"
    time: str = ""


_KINDS = (
    _Kind("prints", IDENTITY, time="ts"),
    _Kind("minute_bars", BAR_ROW[: BAR_ROW.index("minute") + 1], "if(restated = 1, v, 0)", "minute"),
    _Kind("removals", IDENTITY, time="ts"),
    _Kind("cursors", ("source",)),
    _Kind("standing", ("source", "instrument")),
)


class _Mark(msgspec.Struct):
    """What a run leaves to the next: when it was (Unix seconds), the state it saw, and the state up to which what
    counts no more is deleted."""

    at: int
    seen: dict[int, int]
    done: dict[int, int]


class Vacuum(Commits):
    """A shared store's keeper."""

    def run(self, now: int) -> dict[str, int] | None:
        """Delete what counted no more at the run before this one; `now` is in Unix seconds. Gives rows deleted by
        table; None where that run was less than `APART` ago, or there was none. Raises `StoreError`."""
        last = self._last()
        if last is not None and now - last.at < APART:
            return None
        reached, deleted = dict(self.point().reached), Counter[str]()
        if last is not None:
            # What a writer lost meanwhile, as another took over, was seen then and replaced nothing.
            then = {writer: min(stamp, reached.get(writer, 0)) for writer, stamp in last.seen.items()}
            for table, where in self._gone(Point(then), Point(last.done)):
                deleted[table] += self._delete(table, where)
        text = msgspec.json.encode(_Mark(now, reached, last.seen if last else {})).decode()
        row = pl.DataFrame(
            {"name": [_NAME], "value": [text], "at": [now]}, schema_overrides={"at": pl.UInt64}
        )
        self._insert("meta", row, f"{_NAME}-{now}")
        return None if last is None else {table: many for table, many in deleted.items() if many}

    @property
    def _layout(self) -> Layout:
        return Layout(self.address.database, self.address.cluster)

    def _last(self) -> _Mark | None:
        text = self._link.ask(
            f"SELECT argMax(value, at) AS value FROM {self._at('meta')} WHERE name = '{_NAME}'"
        ).item()
        return msgspec.json.decode(text, type=_Mark) if text else None

    def _gone(self, point: Point, done: Point) -> Iterator[tuple[str, str]]:
        """Tables, and what rows of each meet that count no more as of a state; of days written to since `done`."""
        fresh = since(point, done)
        if fresh == "0":
            return
        for kind in _KINDS:
            names = ", ".join(f"`{name}`" for name in (*kind.names, "writer", "v"))
            for span in self._spans(kind, fresh):
                within = f"({seen(point)}) AND {span}"
                yield (
                    kind.table,
                    (
                        f"{within} AND ({names}) IN (SELECT {names} FROM (SELECT {names}, max({kind.floor}) OVER"
                        f" (PARTITION BY {', '.join(kind.names)}) AS floor FROM {self._layout.local(kind.table)}"
                        f" WHERE {within}) WHERE v < floor)"
                    ),
                )
        voids = self._link.ask(
            f"SELECT kind, asset, symbol, start, end, max(v) AS latest FROM {self._at('voids')} WHERE {fresh}"
            " GROUP BY ALL ORDER BY ALL"
        )
        for void in voids.iter_rows():
            yield void[0], struck(*void)

    def _spans(self, kind: _Kind, fresh: str) -> Iterator[str]:
        if not kind.time:
            yield "1"
            return
        # A day at a time: what is compared at once must fit into the engine's memory.
        day = f"toDate({kind.time}, 'UTC')"
        sql = f"SELECT DISTINCT toString({day}) AS day FROM {self._at(kind.table)} WHERE {fresh} ORDER BY day"
        for (name,) in self._link.ask(sql).iter_rows():
            yield f"{day} = '{name}'"

    def _delete(self, table: str, where: str) -> int:
        many = int(self._link.ask(f"SELECT count() AS n FROM {self._at(table)} WHERE {where}").item())
        if many:
            local = f"{self._layout.local(table)}{self._layout.on}"
            self._link.run(f"DELETE FROM {local} WHERE {where} SETTINGS {_SETTINGS}")
        return many
