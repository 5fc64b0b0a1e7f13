"""What it costs that another process follows a shared store, and that a thousand clients follow a stream."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median, quantiles

from benchmarks.live import STREAM_RATE, STREAMS, Child, _Reader
from benchmarks.measure import say
from benchmarks.report import Section
from benchmarks.scale import DAY, ROOT, Scale
from benchmarks.shared import PARTS, _tape, stand_in

COMMITS = ((250, 20), (5_000, 20))
"""Prints of a commit, and how many commits; two a second."""
PAUSE = 0.5


def run(scale: Scale) -> list[Section]:
    """Two tables."""
    return [_following(scale), _streams(scale)]


# following
def write(tape: str, address: str, many: str, commits: str) -> dict[str, float]:
    """Commits of so many prints, two a second."""
    from flowtape.library import read
    from flowtape.pipeline.ingestor import Ingestor
    from flowtape.storage import open_store

    store = open_store(address)
    ingestor, prints = Ingestor(store), read(tape)
    for number in range(int(commits)):
        began = time.monotonic()
        ingestor.take(prints[number * int(many) : (number + 1) * int(many)], "bench")
        time.sleep(max(0.0, PAUSE - (time.monotonic() - began)))
    store.close()
    return {}


def _looks(scale: Scale, folder: Path, many: int, commits: int) -> tuple[list[float], list[float]]:
    """Processor seconds of each look that found nothing, and of each that found a commit."""
    from flowtape.cache.cache import Cache
    from flowtape.model.prints import day_bounds
    from flowtape.pipeline.ingestor import Ingestor
    from flowtape.storage import open_store

    idle, busy = [], []
    with stand_in(folder) as address:
        store = open_store(address)
        ingestor = Ingestor(store, Cache(store.catalog, int(day_bounds(DAY)[1].timestamp()) // 60))
        command = [
            sys.executable,
            "-m",
            "benchmarks.child",
            "tail:write",
            _tape(scale),
            address,
            many,
            commits,
        ]
        with subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL) as writer:
            while True:
                ended, before, began = writer.poll() is not None, ingestor.generation, time.process_time()
                ingestor.follow()
                (busy if ingestor.generation > before else idle).append(time.process_time() - began)
                if ended and ingestor.generation == before:
                    break
                time.sleep(PAUSE / 4)
        store.close()
    return idle, busy


def _following(scale: Scale) -> Section:
    rows = []
    for most, commits in COMMITS:
        many = min(most, scale.prints // PARTS // commits)
        say(f"  {commits} commits of {many} prints")
        idle, busy = _looks(scale, scale.folder / "tail", many, commits)
        # The first look with a commit takes up the whole window.
        found = sorted(busy[1:])
        rows.append([
            f"{many:,} prints a commit", f"{median(idle) * 1e3:.1f}", f"{median(found) * 1e3:.1f}",
            f"{quantiles(found, n=100)[98] * 1e3:.1f}", f"{many / median(found):,.0f}",
        ])  # fmt: skip
    return Section(
        "What following a shared store costs",
        [
            "commits",
            "a look that finds nothing, ms",
            "a look that finds one, ms",
            "p99 ms",
            "prints/s and core",
        ],
        rows,
        notes=[
            "Processor of the process that follows, over HTTP against chDB behind the tests' stand-in for"
            " ClickHouse's interface; a server looks four times a second. Each server follows all that is written."
            " There is no peer.",
        ],
    )


# streams
class _Timed(_Reader):
    """A stream whose events are timed."""

    def __init__(self, seen: dict[bytes, list[float]]) -> None:
        super().__init__()
        self._seen = seen

    def take(self, kind: bytes, data: bytes) -> None:
        super().take(kind, data)
        if kind == b"change":
            self._seen[data].append(time.perf_counter())


async def _fan_out(folder: str, clients: int, seconds: float) -> dict[str, float]:
    child = Child(folder, STREAM_RATE, seconds + 15, 0)
    await asyncio.sleep(3)
    seen: dict[bytes, list[float]] = defaultdict(list)
    readers = [_Timed(seen) for _ in range(clients)]
    tasks = [asyncio.create_task(reader.follow(child.port, child.key)) for reader in readers]
    while not all(reader.events for reader in readers):
        await asyncio.sleep(0.1)
    seen.clear()
    before, began, events = child.stat()[0], time.monotonic(), sum(reader.events for reader in readers)
    await asyncio.sleep(seconds)
    cpu, passed = child.stat()[0] - before, time.monotonic() - began
    events = sum(reader.events for reader in readers) - events
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(child.result)
    await asyncio.to_thread(child.end)
    waits = [at - times[0] for times in seen.values() if len(times) == clients for at in times]
    cuts = quantiles(waits, n=100)
    return {
        "events": events / passed,
        "cores": cpu / passed,
        "p50": cuts[49],
        "p99": cuts[98],
        "max": max(waits),
    }


def _streams(scale: Scale) -> Section:
    rows = []
    for clients in (1, STREAMS):
        say(f"  {clients} streams")
        with tempfile.TemporaryDirectory() as folder:
            told = asyncio.run(_fan_out(folder, clients, 15 if scale.full else 5))
        rows.append([
            f"{clients:,}", f"{told['events']:,.0f}", f"{told['cores']:.2f}", f"{told['events'] / told['cores']:,.0f}",
            *(f"{told[name] * 1e3:.0f}" for name in ("p50", "p99", "max")),
        ])  # fmt: skip
    return Section(
        "What a stream's tail costs",
        ["clients of one symbol", "events/s", "cores of the server", "events/s and core", "same event, first client to"
         " the others, p50 ms", "p99 ms", "last ms"],
        rows,
        notes=[
            f"{STREAM_RATE} prints a second come in meanwhile, for which the first row pays almost alone. The clients"
            " are one process on the same machine, whose own work is in the waits. There is no peer.",
        ],
    )  # fmt: skip
