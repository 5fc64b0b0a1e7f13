"""The simulated market as a file and as a live source. `market` generates the prints."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from threading import Event
from typing import Literal, get_args

import polars as pl
from polars.io.plugins import register_io_source

from flowtape.errors import UsageError
from flowtape.model.clock import Clock
from flowtape.model.prints import PRICE_SCALE, SIZES
from flowtape.readers.frames import READ
from flowtape.simulation.market import BATCH_ROWS, Market, batches, date_of, to_ns
from flowtape.simulation.rows import SLICE_NS, SOURCE, TAPE_SCHEMA, Rows, between, size_unit

__all__ = ["SUFFIXES", "Assets", "Delivery", "LiveFeed", "Market", "live", "write_tape"]

SUFFIXES = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".csv.zst": "csv",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}
"""The format of each file name suffix of a tape."""
Compression = Literal["uncompressed", "gzip", "zstd"]
_COMPRESSION: dict[str, Compression] = {".csv.gz": "gzip", ".csv.zst": "zstd"}
_PRICES = ("strike", "price", "bid", "ask", "underlying")
_FILE_SCHEMA = {
    name: pl.Float64() if name in _PRICES else TAPE_SCHEMA[name] for name in (*READ, "true_side", "source")
}
_WORKERS = max(2, min(4, os.cpu_count() or 2))

Assets = Literal["option", "stock", "both"]
"""The assets in a tape."""
Progress = Callable[[int, int], object]
"""A function that is called with the rows written so far and the total number of rows."""


def write_tape(
    market: Market,
    days: date | Sequence[date],
    path: str | Path,
    *,
    assets: Assets = "option",
    format: str | None = None,
    rows: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the sessions of New York dates as a tape of the format `table`, and return its number of rows.

    The file has the columns that the format `table` reads (prices in USD, in order of report), `true_side` and
    `source`. Memory does not grow with the tape. The file appears under its name only when it is complete.

    Args:
        market: the market.
        days: one or more dates with a session.
        path: the file.
        assets: options, stocks, or both in one order of report.
        format: `parquet`, `csv` or `arrow`; by default from the file name (`SUFFIXES`).
        rows: the number of rows, with cancels, spread evenly over the days. It replaces the market's prints a day; with
            both assets, each keeps its share.
        progress: is called after each frame.

    Raises:
        UsageError: a day has no session, assets or format are unknown, the folder does not exist, or `rows` is
        negative.
    """
    path = Path(path)
    days = [days] if isinstance(days, date) else sorted(days)
    suffix = max((end for end in SUFFIXES if path.name.endswith(end)), key=len, default="")
    form = format or SUFFIXES.get(suffix)
    if form is None or form not in SUFFIXES.values():
        known = ", ".join(sorted({*SUFFIXES.values()}))
        raise UsageError(f"format: {form or path.name!r} is not one of {known}")
    if not path.parent.is_dir():
        raise UsageError(f"path: the folder of {path} does not exist")
    if rows is not None and rows < 0:
        raise UsageError(f"rows: {rows} is negative")
    if assets not in get_args(Assets):
        raise UsageError(f"assets: {assets!r} is not one of {', '.join(get_args(Assets))}")
    total = _a_day(market, assets) * len(days) if rows is None else rows
    sessions = _sessions(market, assets, days, total)
    part = path.with_name(path.name + ".part")
    try:
        _sink(
            _counted(_file_frames(sessions), total, progress),
            part,
            form,
            _COMPRESSION.get(suffix, "uncompressed"),
        )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return total


def _a_day(market: Market, assets: Assets) -> int:
    """Return the rows of a session with the market's settings."""
    options, stocks = market.prints_per_day, market.stock_prints_per_day
    return {"option": options, "stock": stocks, "both": options + stocks}[assets]


def _with_rows(market: Market, assets: Assets, rows: int) -> Market:
    """Return the market with `rows` rows a day. With both assets, each keeps its share."""
    shared = rows * market.stock_prints_per_day // max(_a_day(market, "both"), 1)
    stocks = {"option": 0, "stock": rows, "both": shared}[assets]
    return replace(market, prints_per_day=rows - stocks, stock_prints_per_day=stocks)


def _sessions(market: Market, assets: Assets, days: Sequence[date], rows: int) -> list[tuple[Market, date]]:
    for day in days:
        if market.session(day) is None:
            raise UsageError(f"day: {day} is a {day:%A}, on which the simulated market has no session")
    if not days:
        raise UsageError("day: none is given")
    if len(set(days)) < len(days):
        raise UsageError(f"day: {next(day for day in days if days.count(day) > 1)} is given twice")
    bounds = [rows * place // len(days) for place in range(len(days) + 1)]
    return [
        (_with_rows(market, assets, high - low), day)
        for day, low, high in zip(days, bounds[:-1], bounds[1:], strict=True)
    ]


def _file_frames(sessions: Sequence[tuple[Market, date]]) -> Iterator[pl.DataFrame]:
    for market, day in sessions:
        for pieces in batches(_made_ahead(market, day), BATCH_ROWS):
            yield (
                market.frame(pieces)
                .select(list(_FILE_SCHEMA))
                .with_columns(
                    # Polars divides by multiplication: without rounding, a price of 1.92 becomes 1.9200000000000002.
                    (pl.col(_PRICES) / PRICE_SCALE).round(4),
                    pl.col(SIZES) // size_unit(),
                )
            )


def _made_ahead(market: Market, day: date) -> Iterator[Rows]:
    """Yield a session's slices. Other threads generate a few ahead; NumPy releases the interpreter's lock."""
    session = market.session(day)
    assert session is not None  # noqa: S101 (write_tape has refused such days)
    opens, closes = (to_ns(instant) // SLICE_NS for instant in session)
    waiting: deque[Future[Rows | None]] = deque()
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="simulate") as pool:
        try:
            for number in range(opens, closes + _WORKERS):
                if number < closes:
                    waiting.append(pool.submit(market.slice, number))
                if len(waiting) > _WORKERS or number >= closes:
                    rows = waiting.popleft().result() if waiting else None
                    if rows is not None:
                        yield rows
        finally:
            pool.shutdown(cancel_futures=True)


def _counted(frames: Iterable[pl.DataFrame], total: int, progress: Progress | None) -> Iterator[pl.DataFrame]:
    done = 0
    for frame in frames:
        yield frame
        done += frame.height
        if progress is not None:
            progress(done, total)


def _sink(frames: Iterator[pl.DataFrame], path: Path, form: str, compression: Compression) -> None:
    tape = register_io_source(lambda *_: frames, schema=_FILE_SCHEMA)
    if form == "parquet":
        # lz4 files are half again as large as with zstd, and are decoded in half the time.
        tape.sink_parquet(path, compression="lz4", row_group_size=BATCH_ROWS)
    elif form == "arrow":
        tape.sink_ipc(path, compression="lz4", record_batch_size=BATCH_ROWS)
    else:
        tape.sink_csv(
            path, compression=compression, check_extension=False, datetime_format="%Y-%m-%dT%H:%M:%S%.9fZ"
        )


@dataclass(frozen=True, slots=True)
class Delivery:
    """Prints of a live feed, in `TAPE_SCHEMA` and order of report, of one New York date. Everything reported up to
    `cursor`, inclusive, has then been delivered."""

    prints: pl.DataFrame
    """The prints, in `TAPE_SCHEMA`."""
    cursor: int
    """The last instant delivered, ns since 1970, UTC."""


class LiveFeed:
    """The simulated market in real time: every print once, in order of report, as soon as it is reported.

    It begins after `cursor` (ns UTC) and first catches up, in frames of about `batch_rows` rows. Then it delivers new
    prints every `interval` seconds; a frame may be empty, as a sign of life. A feed that begins at the cursor of
    another feed's delivery continues without loss or repetition. `stop` ends the iteration after the current delivery.
    """

    source = SOURCE
    """The source of the prints."""

    def __init__(
        self,
        market: Market,
        clock: Clock,
        cursor: int,
        *,
        stop: Event | None = None,
        interval: float = 0.25,
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        if cursor < -1:
            raise UsageError(f"cursor: {cursor} lies before 1970")
        self.market, self.clock, self.cursor = market, clock, cursor
        self.stop = stop or Event()
        """Ends the iteration when it is set."""
        self.interval, self.batch_rows = interval, batch_rows
        self._current: tuple[int, Rows | None] = (-1, None)

    def __iter__(self) -> Iterator[Delivery]:
        while not self.stop.is_set():
            for delivery in self.due():
                yield delivery
                if self.stop.is_set():
                    return
            self.stop.wait(self.interval)

    def due(self) -> Iterator[Delivery]:
        """Yield the prints reported since the cursor, without waiting: at least one delivery, the last of them up to
        now.
        """
        now = self.clock.now_ns()
        start, held, count = self.cursor + 1, list[Rows](), 0
        if now < start:
            yield Delivery(self.market.frame([]), self.cursor)
            return
        for number in range(start // SLICE_NS, now // SLICE_NS + 1):
            made = self._slice(number)
            if made is not None:
                held.append(between(made, start, now + 1))
                count += len(held[-1]["reported"])
            end = (number + 1) * SLICE_NS
            full = count >= self.batch_rows or (count > 0 and date_of(end) != date_of(end - 1))
            if full or end > now:
                self.cursor = min(end - 1, now)
                yield Delivery(self.market.frame(held), self.cursor)
                held, count = [], 0

    def _slice(self, number: int) -> Rows | None:
        if self._current[0] != number:
            self._current = (number, self.market.slice(number))
        return self._current[1]


def live(
    market: Market,
    since: datetime,
    clock: Clock,
    *,
    stop: Event | None = None,
    interval: float = 0.25,
) -> LiveFeed:
    """Return a live feed of all prints reported at or after `since`, past sessions first.

    Raises:
        UsageError: `since` has no time zone or is before 1970.
    """
    if since.tzinfo is None:
        raise UsageError(f"since: {since} has no time zone")
    return LiveFeed(market, clock, to_ns(since) - 1, stop=stop, interval=interval)
