"""`python -m benchmarks.capacity`: what a site needs, from measured figures; and a day played through it by seconds.
With `--write` the tables of docs/scale.md are made anew.

The figures are those of RESULTS.md (`figures`); the load is assumed, and said to be.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np

from benchmarks import figures
from benchmarks.figures import Figures
from benchmarks.scale import ROOT

PAGE = ROOT / "docs" / "scale.md"
MEASURED = figures.measured()
QUEUE = 500_000
"""Live prints that may wait in one process."""
CLAIM_BYTES = 170
"""Memory of a process for each symbol's day it knows the source of: a table of a million, made once."""
RECORD = 80
"""Bytes of a `cmbp-1` or `tcbbo` record of DBN, uncompressed, as its live gateway sends it."""
HELD = 70
"""Seconds of quotes that a live join holds."""
STREAMS = 10_000
"""Streams that one server admits."""
CONTRACTS = 1_500_000
YEAR, SECONDS = 252, 23_400
ROOM = 0.5
"""Of a process's speed, what the busiest second may take."""
BITS = 8 / 1e9


@dataclass(frozen=True, slots=True)
class Load:
    """What comes in and who asks. `burst` is the busiest second over the mean one, of prints and of quotes; `skew` the
    share of the busiest symbol in both."""

    name: str
    prints_a_day: int
    symbols: int
    years: int
    clients: int
    events_a_client: float
    requests: int
    burst: float = 100.0
    skew: float = 0.12
    quotes_a_print: int = 18_750
    quote_burst: float = 10.0

    @property
    def quotes_a_day(self) -> int:
        return self.prints_a_day * self.quotes_a_print


LOADS = (
    Load("a few quiet symbols", 3_000, 5, 1, 5, 1, 10, skew=0.5),
    Load("a desk", 300_000, 20, 1, 20, 1, 50),
    Load("half the tape", 6_000_000, 2_500, 5, 1_000, 1, 2_000),
    Load("all of OPRA", 12_000_000, 5_500, 10, 100_000, 1, 20_000),
)


def together(*speeds: float) -> float:
    """The speed of stages that follow each other on one core."""
    return 1 / sum(1 / speed for speed in speeds)


def speed(told: Figures, joined: bool) -> tuple[float, float]:
    """Prints and quotes a second of one core, each if it had the core alone: prints come down a line and go into the
    store; quotes, where they are `joined` here, come down a line and through the join."""
    prints = together(told.line_prints, told.prints)
    return prints, together(told.line_quotes, told.live_join) if joined else float("inf")


@dataclass(frozen=True, slots=True)
class Need:
    """What a load takes where each print comes with its quote."""

    mean: float
    peak: float
    gigabits: float
    ingests: int
    servers: int
    following: float
    followed_peak: float
    stream_cores: float
    stream_gb: float
    prints_tb: float
    bars_tb: float
    claims_gb: float
    start: float


def need(load: Load, told: Figures = MEASURED) -> Need:
    """The model: each stage's load over its measured speed."""
    mean, total = load.prints_a_day / SECONDS, load.prints_a_day * YEAR * load.years
    peak = mean * load.burst
    # Four looks a second, of which two find a commit.
    following, most = (
        2 * told.look / 1e3 + max(2 * told.found / 1e3, prints / told.follow) for prints in (mean, peak)
    )
    cores = load.clients * load.events_a_client / (told.events / told.event_cores)
    asked = cores + load.requests / told.requests
    return Need(
        mean=mean,
        peak=peak,
        gigabits=peak * RECORD * BITS,
        ingests=max(1, ceil(peak / (speed(told, joined=False)[0] * ROOM))),
        servers=max(
            2,
            ceil(asked / (1 - following) / ROOM),
            ceil(asked / max(0.1, 1 - most)),
            ceil(load.clients / STREAMS),
        ),
        following=following,
        followed_peak=most,
        stream_cores=cores,
        stream_gb=load.clients * told.client_bytes / 1e9,
        prints_tb=total * told.print_bytes / 1e12,
        bars_tb=total * told.bars * told.bar_bytes / 1e12,
        claims_gb=load.symbols * YEAR * load.years * CLAIM_BYTES / 1e9,
        start=told.start * load.prints_a_day * 5 / 50e6,
    )


@dataclass(frozen=True, slots=True)
class Joined:
    """What it takes to join a load's quotes live, if a symbol could be split as one likes."""

    mean: float
    peak: float
    cores: int
    busiest: int
    memory_gb: float


def joined(load: Load, told: Figures = MEASURED) -> Joined:
    """`busiest` are the cores of the busiest symbol alone, of which one process can use but one."""
    prints, quotes = speed(told, joined=True)
    mean = load.quotes_a_day / SECONDS
    peak = load.quote_burst * mean
    work = peak / quotes + load.burst * load.prints_a_day / SECONDS / prints
    many = arrivals(load.quotes_a_day, load.quote_burst)
    most = np.convolve(many, np.ones(HELD), "valid").max()
    standing = CONTRACTS * load.symbols / LOADS[-1].symbols * told.standing_bytes
    return Joined(
        mean,
        peak,
        ceil(work / ROOM),
        ceil(load.skew * work / ROOM),
        (most * told.held_bytes + standing) / 1e9,
    )


def arrivals(a_day: int, burst: float, seed: int = 1) -> np.ndarray:
    """What comes in each second of a session: busy at its ends, noisy, with bursts of some seconds up to `burst`.
    Of one seed, prints and quotes burst together."""
    draw = np.random.default_rng(seed)
    at = np.linspace(-1, 1, SECONDS)
    shape = 0.6 + 1.2 * at**2
    bursts = np.ones(SECONDS)
    for start in draw.integers(0, SECONDS - 30, 40):
        long = int(draw.integers(2, 15))
        bursts[start : start + long] = draw.uniform(2, burst)
    rate = shape * bursts
    return draw.poisson(a_day * rate / rate.sum())


@dataclass(frozen=True, slots=True)
class Played:
    """Prints that wait at most; the wait of which 99 % of the prints stay below, and the longest, in seconds."""

    most: int
    p99: float
    longest: float


def played(
    load: Load,
    processes: int,
    seed: int = 1,
    told: Figures = MEASURED,
    *,
    quotes: bool = False,
    even: bool = False,
) -> Played:
    """A session through the process that has the busiest symbol, the others' symbols spread evenly; or, `even`, through
    one of processes that share everything. With or without `quotes` to join."""
    share = 1 / processes if even else load.skew + (1 - load.skew) / processes
    by_print, by_quote = speed(told, quotes)
    prints = arrivals(load.prints_a_day, load.burst, seed) * share
    work = prints / by_print
    if quotes:
        work = work + arrivals(load.quotes_a_day, load.quote_burst, seed) * share / by_quote
    # What waits is the sum of what came over a core's second a second, from where it was last nothing.
    over = np.cumsum(work - 1)
    waits = over - np.minimum(np.minimum.accumulate(over), 0)
    order = np.argsort(waits)
    reached = np.searchsorted(np.cumsum(prints[order]), 0.99 * prints.sum())
    p99 = float(waits[order][min(int(reached), SECONDS - 1)])
    return Played(int(waits.max() * by_print), p99, float(waits.max()))


def prints_lines() -> Iterator[str]:
    """Loads whose prints come with their quotes."""
    yield (
        "| load | prints/s, mean and busiest | of a line, Gbit/s | ingest processes | most that wait, p99 of the wait |"
        " memory of claims | TB a replica: prints, bars |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for load in LOADS:
        told = need(load)
        sim = played(load, told.ingests)
        yield (
            f"| {load.name} | {told.mean:,.1f}, {told.peak:,.0f} | {told.gigabits:.3f} | {told.ingests} |"
            f" {sim.most:,}, {sim.p99:.1f} s | {told.claims_gb:.1f} GB | {told.prints_tb:.2f}, {told.bars_tb:.2f} |"
        )


def servers_lines() -> Iterator[str]:
    """Who asks, and what follows the store for them."""
    yield (
        "| load | streams | requests/s | cores for streams | memory of streams | of a server's core, following:"
        " mean, busiest | API servers | a server starts in |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for load in LOADS:
        told = need(load)
        yield (
            f"| {load.name} | {load.clients:,} | {load.requests:,} | {told.stream_cores:.1f} |"
            f" {told.stream_gb:.1f} GB | {told.following:.0%}, {told.followed_peak:.0%} |"
            f" {told.servers} | {told.start:.0f} s |"
        )


def quotes_lines() -> Iterator[str]:
    """Loads whose quotes come apart and are joined live."""
    yield (
        "| load | quotes/s, mean and busiest | Gbit/s, mean and busiest | cores | of these for the busiest symbol |"
        " memory | longest wait: spread evenly, by symbol |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for load in LOADS:
        told = joined(load)
        waits = [played(load, told.cores, quotes=True, even=even).longest for even in (True, False)]
        bits = [rate * RECORD * BITS for rate in (told.mean, told.peak)]
        yield (
            f"| {load.name} | {told.mean:,.0f}, {told.peak:,.0f} | {bits[0]:.2f}, {bits[1]:.1f} | {told.cores:,} |"
            f" {told.busiest:,} | {told.memory_gb:.1f} GB | {_long(waits[0])}, {_long(waits[1])} |"
        )


def _long(seconds: float) -> str:
    return (
        f"{seconds:,.0f} s"
        if 10 <= seconds < 3600
        else f"{seconds:.1f} s"
        if seconds < 10
        else f"{seconds / 3600:.0f} h"
    )


def backfill_lines() -> Iterator[str]:
    """The years of a load out of files."""
    yield (
        "| load | prints with their quotes, core days | quotes, thousand millions | to decode and join, core days |"
        " at the limit, core days | TB of DBN by zstd | days over 10 Gbit/s | TB if kept |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    told = MEASURED
    for load in LOADS:
        days = YEAR * load.years
        prints, quotes = load.prints_a_day * days, load.quotes_a_day * days
        joining = quotes / together(told.decode, told.file_join) / 86_400
        limit = quotes / together(told.decode_limit, told.join_limit) / 86_400
        size = quotes * told.dbn_bytes
        yield (
            f"| {load.name} | {prints / told.prints / 86_400:.1f} | {quotes / 1e9:,.0f} | {joining:,.1f} |"
            f" {limit:,.1f} | {size / 1e12:,.1f} |"
            f" {size * BITS / 10 / 86_400:,.1f} | {quotes * told.quote_bytes / 1e12:,.1f} |"
        )


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "measured": lambda: figures.lines(MEASURED),
    "prints": prints_lines,
    "servers": servers_lines,
    "quotes": quotes_lines,
    "backfill": backfill_lines,
}


def page(text: str) -> str:
    """docs/scale.md with its tables made anew, each after the line that names it."""
    for name, made in TABLES.items():
        table = "\n".join(made())
        text, found = re.subn(
            rf"(<!-- {name} -->\n)(?:\|[^\n]*\n)*", lambda mark, table=table: f"{mark[1]}{table}\n", text
        )
        if found != 1:
            raise ValueError(f"{PAGE.name} has {found} places for the table {name!r}")
    return text


def main() -> None:
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(PAGE.read_text()))
    for name, made in TABLES.items():
        print(name, *made(), "", sep="\n")


if __name__ == "__main__":
    main()
