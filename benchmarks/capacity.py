"""`python -m benchmarks.capacity`: what a site needs, from measured figures; and a day played through it by seconds.

The figures are those of RESULTS.md; the load is assumed, and said to be (docs/scale.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np

PRINTS_PER_CORE = 45_000
"""Prints/s into ClickHouse's engine, a core of two with engine and flowtape on both (`shared`, 0.09 M/s)."""
BYTES_A_PRINT = 47.7
"""On disk, with its minutes (`shared`)."""
REQUESTS_PER_WORKER = 12_388
"""Requests/s of one server, a core for it and one for who asks (`endpoint`)."""
EVENTS_PER_CORE = 6_300
"""Stream events/s (`live`: 7,083 at 1.12 cores)."""
QUEUE = 500_000
"""Live prints that may wait in one process."""
CLAIM_BYTES = 170
"""Memory of a process for each symbol's day it knows the source of."""
YEAR, SECONDS = 252, 23_400
ROOM = 0.5
"""Of a process's speed, what the busiest second may take."""


@dataclass(frozen=True, slots=True)
class Load:
    """What comes in and who asks. `burst` is the busiest second over the mean one, `skew` the share of prints of the
    busiest symbol."""

    name: str
    prints_a_day: int
    symbols: int
    years: int
    clients: int
    events_a_client: float
    requests: int
    burst: float = 100.0
    skew: float = 0.12


LOADS = (
    Load("a desk", 300_000, 20, 1, 20, 1, 50),
    Load("half the tape", 6_000_000, 2_500, 5, 1_000, 1, 2_000),
    Load("all of OPRA", 12_000_000, 5_500, 10, 100_000, 1, 20_000),
)


@dataclass(frozen=True, slots=True)
class Need:
    """What that takes."""

    mean: float
    peak: float
    ingests: int
    stream_cores: int
    servers: int
    terabytes: float
    claims_gb: float
    backfill_core_days: float


def need(load: Load) -> Need:
    """The model: each stage's load over its measured speed."""
    mean = load.prints_a_day / SECONDS
    prints = load.prints_a_day * YEAR * load.years
    return Need(
        mean=mean,
        peak=mean * load.burst,
        ingests=max(1, ceil(mean * load.burst / (PRINTS_PER_CORE * ROOM))),
        stream_cores=ceil(load.clients * load.events_a_client / EVENTS_PER_CORE),
        servers=max(2, ceil(load.requests / REQUESTS_PER_WORKER)),
        terabytes=prints * BYTES_A_PRINT / 1e12,
        claims_gb=load.symbols * YEAR * load.years * CLAIM_BYTES / 1e9,
        backfill_core_days=prints / PRINTS_PER_CORE / 86_400,
    )


def arrivals(load: Load, seed: int = 1) -> np.ndarray:
    """Prints in each second of a session: busy at its ends, noisy, with bursts of some seconds up to `burst`."""
    draw = np.random.default_rng(seed)
    at = np.linspace(-1, 1, SECONDS)
    shape = 0.6 + 1.2 * at**2
    bursts = np.ones(SECONDS)
    for start in draw.integers(0, SECONDS - 30, 40):
        long = int(draw.integers(2, 15))
        bursts[start : start + long] = draw.uniform(2, load.burst)
    rate = shape * bursts
    return draw.poisson(load.prints_a_day * rate / rate.sum())


def played(load: Load, processes: int, seed: int = 1) -> tuple[int, float]:
    """The most prints that wait in one process, and the 99th percentile of the wait in seconds, over the prints of the
    process that has the busiest symbol; the others' symbols are spread evenly."""
    share = load.skew + (1 - load.skew) / processes if processes > 1 else 1.0
    waiting, most = 0.0, 0.0
    waits = np.empty(SECONDS)
    mine = arrivals(load, seed) * min(share, 1.0)
    for second, many in enumerate(mine):
        waiting = max(0.0, waiting + many - PRINTS_PER_CORE)
        most = max(most, waiting)
        waits[second] = waiting / PRINTS_PER_CORE
    order = np.argsort(waits)
    reached = np.searchsorted(np.cumsum(mine[order]), 0.99 * mine.sum())
    return int(most), float(waits[order][min(int(reached), SECONDS - 1)])


def lines() -> Iterator[str]:
    """The table of docs/scale.md."""
    yield (
        "| load | prints/s, mean and busiest | ingest processes | most that wait, p99 of the wait | API servers |"
        " cores for streams | TB a replica | memory of claims | backfill, core days |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for load in LOADS:
        told = need(load)
        most, wait = played(load, told.ingests)
        yield (
            f"| {load.name} | {told.mean:,.0f}, {told.peak:,.0f} | {told.ingests} | {most:,}, {wait:.1f} s |"
            f" {told.servers} | {told.stream_cores} | {told.terabytes:.2f} | {told.claims_gb:.1f} GB |"
            f" {told.backfill_core_days:.1f} |"
        )


if __name__ == "__main__":
    print("\n".join(lines()))
