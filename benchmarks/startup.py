"""A server's start with a full week of prints, its memory, and the longest answer there is."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import in_turn, ratio
from benchmarks.processes import HOST, free_port, get, running, wait_for
from benchmarks.report import Aim, Section
from benchmarks.scale import ROOT, Scale
from benchmarks.week import Week, busiest, resident, week_of

OURS, PEER = (
    "flowtape serve, until /health is 200",
    "a new process, DuckDB SELECT * of the minute bars to Polars",
)
ASKED = 10
"""Symbols that every route is asked for, the busiest."""
_PEER = """
import sys, duckdb, polars
with duckdb.connect(sys.argv[1], read_only=True) as db:
    print(polars.DataFrame(db.sql("SELECT * FROM bar_rows").to_arrow_table()).height)
"""
_PER_SYMBOL = (
    "recent?limit=50", "summary", "blocks?minSize=100", "history?minutes=240", "history?minutes=10080",
    "cumulative?minutes=240", "cumulative?minutes=10080", "cumulative?minutes=10080&right=C",
    "cumulative?minutes=10080&measure=premium&anchor=session", "cumulative?minutes=10080&dte=0",
    "cumulative?minutes=5000&include=quality", "dealer-premium?windowMinutes=10080", "divergence?minutes=5000",
    "turning-points?minutes=5000", "sessions?days=5",
)  # fmt: skip
_OF_ALL = (
    "leaderboard?windowMinutes=10080",
    "outliers?windowMinutes=10080&limit=200",
    "drift?windowMinutes=5000",
)


def run(scale: Scale) -> list[Section]:
    """A table of the start, a table of memory."""
    week = week_of(scale)
    store = Path(week.path)
    starts = in_turn(scale.rounds, {OURS: partial(_start, store), PEER: lambda: _select_all(store)})
    return [_start_section(scale, week, starts), _memory_section(week, _memory(store))]


@contextmanager
def server_of(store: Path, *load: object) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server on the week's store whose clock begins after the week: its process and its URL once it is healthy."""
    port, log = free_port(), store.with_suffix(".log")
    with running([sys.executable, "-m", "benchmarks.week_child", port, store, *load], log) as process:
        wait_for(f"http://{HOST}:{port}/health", process, log)
        yield process, f"http://{HOST}:{port}"


def key_of(store: Path) -> str:
    """Make a key that may ask everything."""
    command = [
        Path(sys.executable).with_name("flowtape"),
        "keys",
        "create",
        "--plan",
        "alpha",
        "--store",
        store,
    ]
    told = subprocess.run(
        [*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return next(word for word in told.split() if word.startswith("ft_"))


def _start(store: Path) -> float:
    """Seconds from the start of the process to its first healthy answer."""
    started = time.perf_counter()
    with server_of(store):
        return time.perf_counter() - started


def _select_all(store: Path) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", _PEER, store], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def _memory(store: Path) -> dict[str, int]:
    """Resident bytes of a server: at rest, after every route was asked, and at its peak."""
    key, names = key_of(store), busiest(store, ASKED)
    with server_of(store) as (process, url):
        told = {"at rest after the start": resident(process.pid)}
        told["at its peak until then"] = resident(process.pid, "VmHWM")
        headers = {"X-Api-Key": key}
        for symbol in names:
            for route in _PER_SYMBOL:
                get(f"{url}/v1/flow/options/{symbol}/{route}", headers)
        for route in _OF_ALL:
            get(f"{url}/v1/flow/options/{route}", headers)
        told[f"after every route was asked for the {ASKED} busiest symbols"] = resident(process.pid)
        told["at its peak"] = resident(process.pid, "VmHWM")
    return told


def _start_section(scale: Scale, week: Week, starts: dict[str, list[float]]) -> Section:
    ours = starts[OURS]
    seconds = median(ours)
    return Section(
        "Start with a full week",
        ["what", "seconds", "time against flowtape"],
        [[name, f"{median(of):.2f}", f"{ratio(of, ours):.2f}×"] for name, of in starts.items()],
        [Aim("week of 50 M prints: start to the first 200", "under 4 s", f"{seconds:.2f} s", seconds < 4)],
        [
            week.note,
            f"The file is in the page cache; median of {scale.rounds} rounds, from the start of the process, imports "
            "counted in both. The server's clock begins at the open of the session after the week.",
        ],
    )


def _memory_section(week: Week, told: dict[str, int]) -> Section:
    peak = told["at its peak"]
    return Section(
        "Memory of a server with a full week",
        ["when", "resident GiB"],
        [[name, f"{many / 2**30:.2f}"] for name, many in told.items()],
        [
            Aim("week of 50 M prints: resident memory at its peak, every route asked", "under 1 GB",
                f"{peak / 1e9:.2f} GB", peak < 1e9),
        ],
        [week.note, f"Routes of a symbol: {', '.join(f'`{route}`' for route in _PER_SYMBOL)}."],
    )  # fmt: skip
