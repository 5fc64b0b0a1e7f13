"""Replay of a file in its own time: `replay:FILE?speed=60`. The tape sets the clock of the whole program."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from flowtape.errors import FeedError, UsageError
from flowtape.feeds.backlog import Backlog
from flowtape.feeds.base import Delivery, Outlet
from flowtape.feeds.specs import Spec
from flowtape.model.prints import SCHEMA, trading_days
from flowtape.readers import Options, Tape, open_tapes

STEP = 0.05
"""Seconds between deliveries."""
_BATCH_ROWS = 50_000
_LONGEST_STEP = 60 * 10**9
"""The longest tape time (ns) of one delivery."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay: the file's name, the New York date of its first print, the speed relative to real time, and the `asset`
    and `symbol` of one of its first prints."""

    file: str
    day: date
    speed: float
    asset: str
    symbol: str

    def __str__(self) -> str:
        """Return the replay as a value of the header `X-Data-Source`."""
        return f"replay; day={self.day}; speed={self.speed:g}"


class TapeClock:
    """The tape's clock: it starts with the first print, runs at `speed` times real time and ends with the last
    print."""

    def __init__(self, start: int, speed: float) -> None:
        self._start, self._speed = start, speed
        self._began = time.monotonic_ns()
        self._end: int | None = None

    def now_ns(self) -> int:
        """Return the present instant of the tape, ns UTC."""
        now = self._start + int((time.monotonic_ns() - self._began) * self._speed)
        return now if self._end is None else min(now, self._end)

    def begin(self, start: int) -> None:
        """Set the present instant to `start`."""
        self._start, self._began = start, time.monotonic_ns()

    def end(self, last: int) -> None:
        """Stop the clock at an instant."""
        self._end = last


class ReplayFeed:
    """One tape, delivered by its own clock. The cursor is the number of prints delivered and the tape's time."""

    always_open = True
    ends = True
    symbols: tuple[str, ...] = ()

    def __init__(self, path: Path, speed: float, format: str | None = None) -> None:
        self._path, self._speed, self._format = path, speed, format
        tape = self._open()
        first = next((batch.prints for batch in tape.batches if batch.prints.height), None)
        if first is None:
            raise UsageError(f"--feed replay:{path}: the file holds no prints")
        self.source, self.name = tape.source, f"replay:{path.name}"
        self.assets = frozenset({"option", "stock"})
        start = int(first["ts"].to_physical()[0])
        self.clock = TapeClock(start, speed)
        early = first.filter(pl.col("ts").to_physical() < start + self._width())
        often = early.group_by("asset", "symbol").len().sort("len", "symbol", descending=[True, False])
        self.replay = Replay(
            path.name, trading_days(first["ts"].head(1))[0], speed, *map(str, often.row(0)[:2])
        )
        self._rejected = 0

    def _open(self) -> Tape:
        tapes = open_tapes([str(self._path)], self._format, Options(batch_rows=_BATCH_ROWS))
        if len(tapes) != 1:
            raise UsageError(f"--feed replay:{self._path}: holds {len(tapes)} tapes, not one")
        return tapes[0]

    def go_on(self, cursor: str | None) -> None:
        """Set the clock to the time of a cursor."""
        if cursor is not None:
            self.clock.begin(_place(cursor)[1])

    def restore(self, standing: pl.DataFrame) -> None:
        """Do nothing: the file's prints have their quotes."""

    def run(self, outlet: Outlet, cursor: str | None) -> None:
        """Deliver the tape from the cursor on, as `base.Feed.run` defines."""
        skip, _ = _place(cursor) if cursor is not None else (0, 0)
        done, last = 0, 0
        if cursor is not None:
            # The earlier prints are loaded, and there may be none left to deliver.
            outlet.put(Delivery(pl.DataFrame(schema=SCHEMA), cursor, backlog=Backlog(1.0)))
        for prints in self._steps(outlet):
            last = max(last, int(prints["ts"].to_physical().max()))  # type: ignore[arg-type]
            done += prints.height
            if done <= skip:
                continue
            if not self._wait(outlet.stop, outlet, last):
                return
            outlet.put(Delivery(prints.tail(done - skip), f"{done} {last}", backlog=Backlog(1.0)))
            skip = done
        if last:
            self.clock.end(last)
        while not outlet.stop.wait(1.0):
            outlet.heard()

    def _steps(self, outlet: Outlet) -> Iterator[pl.DataFrame]:
        """Yield the tape's prints in file order, in pieces of about `STEP` of the clock."""
        tape = self._open()
        width = self._width()
        for batch in tape.batches:
            # Times may step back a little in file order. A piece ends where the latest time so far enters a new step.
            step = batch.prints["ts"].to_physical().cum_max() // width
            for piece in batch.prints.with_columns(step.alias("#step")).partition_by(
                "#step", maintain_order=True
            ):
                yield piece.drop("#step")
        if tape.rejects.count:
            outlet.count("rows of the file left out", tape.rejects.count)

    def _width(self) -> int:
        """Return the nanoseconds of the tape in one delivery."""
        return max(1, min(int(STEP * 1e9 * self._speed), _LONGEST_STEP))

    def _wait(self, stop: threading.Event, outlet: Outlet, until: int) -> bool:
        """Wait until the clock reaches an instant. Return false if the feed is stopped first."""
        while (ahead := (until - self.clock.now_ns()) / 1e9 / self._speed) > 0:
            outlet.heard()
            if stop.wait(min(ahead, 1.0)):
                return False
        return not stop.is_set()


def _place(cursor: str) -> tuple[int, int]:
    done, _, at = cursor.partition(" ")
    if not (done.isdecimal() and at.isdecimal()):
        raise FeedError(f"the stored cursor {cursor!r} is not one of a replay")
    return int(done), int(at)


def replay(spec: Spec) -> ReplayFeed:
    """Return the feed of a spec. Raises `UsageError` or `TapeError`."""
    spec.refuse_others("speed", "format")
    if not spec.target:
        raise UsageError(f"--feed {spec.text}: names no file")
    return ReplayFeed(Path(spec.target), spec.number("speed", 1.0, 0.001, 1e6), spec.options.get("format"))
