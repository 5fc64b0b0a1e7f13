"""A server's start with a full week of minutes, and the longest answer there is."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import Run, child, in_turn, ratio
from benchmarks.processes import HOST, free_port, running, wait_for
from benchmarks.report import Aim, Section
from benchmarks.scale import ROOT, Scale
from benchmarks.week import SYMBOL, week_store

OURS, PEER = "flowtape serve, until /health is 200", "a new process, DuckDB SELECT * of the rows to Polars"
ANSWERS = 20
_PEER = """
import sys, duckdb, polars
with duckdb.connect(sys.argv[1], read_only=True) as db:
    print(polars.DataFrame(db.sql("SELECT * FROM bar_rows").to_arrow_table()).height)
"""


def run(scale: Scale) -> list[Section]:
    """A table of the start, a table of the answer."""
    store = scale.folder / "week.duckdb"
    minute = week_store(store, scale.prints // 2, scale.underlyings)
    rows = int(_select_all(store)[1])
    starts = in_turn(scale.rounds, {OURS: partial(_start, store), PEER: lambda: _select_all(store)[0]})
    answers = in_turn(scale.rounds, {"answer": partial(child, "startup:longest_answer", store, minute)})[
        "answer"
    ]
    return [_start_section(scale, starts, rows), _answer_section(scale, answers)]


def _start(store: Path) -> float:
    """Seconds from the start of the process to its first healthy answer."""
    port, log = free_port(), store.with_suffix(".log")
    command = [Path(sys.executable).with_name("flowtape"), "serve", "--store", store, "--port", port]
    started = time.perf_counter()
    with running(command, log) as process:
        wait_for(f"http://{HOST}:{port}/health", process, log)
        return time.perf_counter() - started


def _select_all(store: Path) -> tuple[float, str]:
    """Seconds of a whole process that reads the same rows, and how many it found."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _PEER, store], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return time.perf_counter() - started, done.stdout


def longest_answer(store: str, minute: str) -> dict[str, float]:
    """Median seconds of an answer of 10,080 minutes made anew, and of encoding its finished object alone."""
    import polars as pl
    from msgspec.json import Encoder

    from flowtape import queries
    from flowtape.cache.cache import MINUTES, Cache
    from flowtape.model.query import Query
    from flowtape.orderflow.minute_bars import NS_PER_MINUTE
    from flowtape.queries.source import Desk
    from flowtape.storage import open_store

    opened = open_store(store, read_only=True)
    window = Cache(opened.catalog, int(minute))
    window.load(opened)
    desk = Desk(opened, window, int(minute) * NS_PER_MINUTE + 1)
    query = Query(symbol=SYMBOL, minutes=MINUTES)
    bar = opened.bars(pl.Series([window.number("option", SYMBOL)]), int(minute), int(minute) + 1)
    whole, encoding, encode = [], [], Encoder().encode
    for _ in range(ANSWERS):
        # As a live print would.
        window.change(bar)
        started = time.perf_counter()
        made = queries.encode(queries.cumulative(desk, query), False)
        whole.append(time.perf_counter() - started)
        body = queries.cumulative(desk, query).body
        started = time.perf_counter()
        encoded = encode(body)
        encoding.append(time.perf_counter() - started)
        if made.body != encoded or body.count != MINUTES:  # type: ignore[attr-defined]
            raise RuntimeError("not the answer that was meant")
    opened.close()
    return {"whole": median(whole), "worst": max(whole), "encoding": median(encoding), "bytes": len(encoded)}


def _start_section(scale: Scale, starts: dict[str, list[float]], rows: int) -> Section:
    ours = starts[OURS]
    seconds = median(ours)
    return Section(
        "Start with a full week",
        ["what", "seconds", "time against flowtape"],
        [[name, f"{median(of):.2f}", f"{ratio(of, ours):.2f}×"] for name, of in starts.items()],
        [Aim("start with a full window", "under 5 s", f"{seconds:.2f} s", seconds < 5)],
        [
            f"{rows:,} minute rows of {scale.underlyings:,} symbols over the last 10,080 minutes, the file in the page "
            f"cache; median of {scale.rounds} rounds, from the start of the process, imports counted in both.",
        ],
    )


def _answer_section(scale: Scale, answers: list[Run]) -> Section:
    told = [run.told for run in answers]
    whole, encoding = [one["whole"] for one in told], [one["encoding"] for one in told]
    worst = max(one["worst"] for one in told)
    rows = [
        ["flowtape, from the window to bytes and ETag", f"{median(whole) * 1e3:.1f}", "1.00×"],
        ["msgspec, encoding the finished object (the limit)", f"{median(encoding) * 1e3:.1f}",
         f"{ratio(encoding, whole):.2f}×"],
    ]  # fmt: skip
    return Section(
        "One answer of 10,080 minutes",
        ["what", "ms", "time against flowtape"],
        rows,
        [
            Aim(
                "an answer of 10,080 minutes",
                "under 20 ms",
                f"{median(whole) * 1e3:.1f} ms",
                median(whole) < 0.02,
            )
        ],
        [
            f"A symbol with a bar in every minute in each of eight series, {told[0]['bytes']:,.0f} bytes; nothing "
            f"remembered from the answer before. Median of {scale.rounds} processes of {ANSWERS} answers each, the "
            f"slowest of all {worst * 1e3:.1f} ms.",
        ],
    )
