"""`python -m benchmarks.live_child PORT FOLDER RATE SECONDS BURST`: a server whose feed brings RATE prints a
second, then BURST in one. Says its key first and, when the feed is done, one line of JSON; ends when its input ends."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.child import peak_resident
from flowtape.cache.cache import Cache
from flowtape.feeds.base import Delivery, Outlet
from flowtape.model.clock import SystemClock
from flowtape.model.prints import conform
from flowtape.orderflow.minute_bars import NS_PER_MINUTE
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.supervisor import Live
from flowtape.server.app import Application
from flowtape.server.auth.keyfile import FileCounts, FileLedger
from flowtape.server.auth.keys import Keys
from flowtape.server.auth.usage import Usage
from flowtape.server.flow import Flow
from flowtape.server.server import run
from flowtape.settings import Settings
from flowtape.storage import open_store

UNDERLYINGS = 500
STEP = 0.02


class Firehose:
    """Prints of 500 underlyings, two rights and five expiries each, spread evenly over the time they come in."""

    source = name = "firehose"
    assets, symbols, always_open, ends = frozenset({"option"}), (), True, False

    def __init__(self, rate: int, seconds: float, burst: int) -> None:
        self.rate, self.seconds, self.burst = rate, seconds, burst
        self.done = threading.Event()
        self.deepest = self.seq = self.steady = 0
        self._chance = np.random.default_rng(1)

    def restore(self, standing: pl.DataFrame) -> None:
        """Nothing is kept."""

    def run(self, outlet: Outlet, cursor: str | None) -> None:
        """Deliver, then wait to be stopped."""
        began = time.monotonic()
        sent = 0
        while (passed := time.monotonic() - began) < self.seconds and not outlet.stop.is_set():
            many = int(passed * self.rate) - sent
            if many:
                self._put(outlet, many)
                sent += many
            outlet.stop.wait(STEP)
        while outlet.live.queue_prints and not outlet.stop.is_set():  # type: ignore[attr-defined]
            outlet.stop.wait(STEP)
        self.steady = sent
        for _ in range(50):
            self._put(outlet, self.burst // 50)
            outlet.stop.wait(STEP)
        while outlet.live.queue_prints and not outlet.stop.is_set():  # type: ignore[attr-defined]
            outlet.stop.wait(STEP)
        self.done.set()
        outlet.stop.wait()

    def _put(self, outlet: Outlet, many: int) -> None:
        if many:
            outlet.put(Delivery(self._prints(many), str(self.seq)))
        self.deepest = max(self.deepest, outlet.live.queue_prints)  # type: ignore[attr-defined]

    def _prints(self, many: int) -> pl.DataFrame:
        chance, now = self._chance, time.time_ns()
        # A few underlyings have most of the prints, as in any market.
        which = np.minimum((chance.pareto(1.0, many)).astype(np.int64), UNDERLYINGS - 1)
        middle = chance.integers(100, 100_000, many) * 100
        names = pl.Series([f"U{number:03}" for number in range(UNDERLYINGS)])[which]
        self.seq += many
        return conform(
            pl.DataFrame(
                {
                    "ts": pl.Series(np.full(many, now)).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC"),
                    "asset": ["option"] * many,
                    "symbol": names,
                    "root": names,
                    "expiry": pl.Series(20_800 + 7 * chance.integers(0, 5, many), dtype=pl.Int32).cast(
                        pl.Date
                    ),
                    "right": pl.Series(["C", "P"])[chance.integers(0, 2, many)],
                    "strike": chance.integers(50, 150, many) * 50_000,
                    "price": middle + chance.integers(-100, 101, many),
                    "size": chance.integers(1, 20, many),
                    "bid": middle - 100,
                    "ask": middle + 100,
                    "condition": ["AUTO"] * many,
                    "venue": ["XCBO"] * many,
                    "seq": np.arange(self.seq - many, self.seq),
                    "quote_ts": pl.Series(np.full(many, now))
                    .cast(pl.Datetime("ns"))
                    .dt.replace_time_zone("UTC"),
                }
            )
        )


class Waits:
    """How long each delivery had waited when answers had its prints, and what commits took."""

    def __init__(self) -> None:
        self.shown_after: list[tuple[float, int]] = []
        self.commits: list[float] = []
        self.prints = 0

    def published(self, source: str, sides: object, waits: Sequence[tuple[float, int]]) -> None:
        """See `live.Listener`."""
        self.shown_after += waits

    def committed(self, seconds: float, prints: int) -> None:
        """See `live.Listener`."""
        self.commits.append(seconds)
        self.prints += prints


def _percentiles(values: Sequence[float], counts: Sequence[int] | None = None) -> dict[str, float]:
    """Milliseconds; each value counts so many times."""
    array = np.repeat(values or [0.0], counts or 1) * 1000
    return {
        "p50": float(np.percentile(array, 50)),
        "p99": float(np.percentile(array, 99)),
        "max": float(array.max()),
    }


async def main() -> None:
    port, folder, rate, seconds, burst = sys.argv[1:]
    clock = SystemClock()
    store = open_store(Path(folder) / "live.duckdb")
    window = Cache(store.catalog, clock.now_ns() // NS_PER_MINUTE)
    ingestor = Ingestor(store, window)
    feed, waits = Firehose(int(rate), float(seconds), int(burst)), Waits()
    live = Live(ingestor, [feed], clock, waits)
    flow = Flow(ingestor, window, clock, live)
    kept = Path(folder) / "live.keys"
    keys, usage = Keys(FileLedger(kept)), Usage(FileCounts(kept))
    stop = asyncio.Event()
    print(json.dumps({"key": keys.add_ephemeral("Alpha")}), flush=True)
    serving = asyncio.create_task(
        run(
            Application(flow, keys, usage, Settings(streams_per_key=None)), "127.0.0.1", int(port), None, stop
        )
    )
    live.start()
    await asyncio.to_thread(feed.done.wait)
    steady = time.process_time()
    waited, many = zip(*waits.shown_after, strict=True)
    held = int(np.searchsorted(np.cumsum(many), feed.steady, "right"))
    told = {
        "shown": _percentiles(waited[:held], many[:held]), "burst": _percentiles(waited[held:], many[held:]),
        "commit": _percentiles(waits.commits), "prints": feed.seq,
        "deepest": feed.deepest, "peak": peak_resident(), "cpu": steady,
    }  # fmt: skip
    print(json.dumps(told), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    stop.set()
    await serving
    await asyncio.to_thread(live.stop)
    flow.close()
    usage.close()
    keys.close()
    store.close()


if __name__ == "__main__":
    asyncio.run(main())
