"""The store that many processes share against the embedded one: ingest, a cold query; and how soon another process sees
what was written."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import Run, child, in_turn, ratio
from benchmarks.report import Aim, Section
from benchmarks.scale import DAY, ROOT, Scale
from flowtape.cache.cache import Cache

EMBEDDED, SHARED = "DuckDB", "chDB, in process"
PARTS = 20
"""A store is given the day's prints by this."""
WRITES = 200
PAUSE = 0.05
NS = 10**9


def run(scale: Scale) -> list[Section]:
    """Two tables."""
    tape = _tape(scale)
    names = {EMBEDDED: str(scale.folder / "shared.duckdb"), SHARED: f"chdb://{scale.folder / 'shared.chdb'}"}
    taken = in_turn(
        scale.rounds, {name: partial(_afresh, "shared:ingest", tape, store) for name, store in names.items()}
    )
    asked = in_turn(
        scale.rounds, {name: partial(child, "shared:ask", store) for name, store in names.items()}
    )
    for store in names.values():
        _remove(store)
    return [_stores(scale, taken, asked), _freshness(scale)]


def _tape(scale: Scale) -> Path:
    from flowtape.simulation.tape import Market, write_tape

    path = scale.folder / "part.parquet"
    if not path.exists():
        market = Market(seed=1, underlyings=scale.underlyings // PARTS)
        write_tape(market, DAY, path, rows=scale.prints // PARTS)
    return path


def _remove(store: str) -> None:
    path = Path(store.removeprefix("chdb://"))
    if path.is_dir():
        shutil.rmtree(path)
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def _afresh(function: str, tape: Path, store: str) -> Run:
    _remove(store)
    return child(function, tape, store)


def ingest(tape: str, store: str) -> dict[str, float]:
    """Ingestor.ingest on an empty store until it is closed."""
    from flowtape.pipeline.ingestor import Ingestor
    from flowtape.readers import open_tapes
    from flowtape.storage import open_store

    opened = open_store(store)
    reports = [Ingestor(opened).ingest(one) for one in open_tapes([tape])]
    opened.close()
    path = Path(store.removeprefix("chdb://"))
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return {
        "prints": sum(report.added for report in reports),
        "bytes": sum(file.stat().st_size for file in files),
    }


def ask(store: str) -> dict[str, float]:
    """A store opened and one underlying's week of minutes read, by a process that has just begun."""
    from flowtape.model.query import Query
    from flowtape.queries import CUMULATIVE
    from flowtape.queries.flow_data import FlowData
    from flowtape.storage import open_store

    opened = open_store(store, read_only=True)
    span = opened.span()
    assert span is not None
    end = span[1] // (60 * NS) + 1
    totals = FlowData(opened, None, end * 60 * NS).totals(
        Query(symbol="SPY", at=end * 60 * NS), end - 10_080, end, CUMULATIVE
    )
    opened.close()
    return {"minutes": len(totals.minute)}


def _stores(scale: Scale, taken: dict[str, list[Run]], asked: dict[str, list[Run]]) -> Section:
    rows = []
    for name, runs in taken.items():
        seconds, cold = ([run.seconds for run in of] for of in (runs, asked[name]))
        against = [
            ratio(of, [run.seconds for run in base[EMBEDDED]])
            for of, base in ((seconds, taken), (cold, asked))
        ]
        told = runs[-1].told
        rows.append([
            name, f"{median(seconds):.2f}", f"{told['prints'] / median(seconds) / 1e6:.2f}", f"{against[0]:.2f}×",
            f"{max(run.peak for run in runs) / 2**30:.2f}", f"{told['bytes'] / told['prints']:.1f}",
            f"{median(cold):.2f}", f"{against[1]:.2f}×",
        ])  # fmt: skip
    return Section(
        "The shared store's engine against the embedded one",
        [
            "store",
            "ingest s",
            "M prints/s",
            "against DuckDB",
            "peak GiB",
            "bytes a print",
            "cold query s",
            "against DuckDB",
        ],
        rows,
        notes=[
            f"{scale.prints // PARTS:,} simulated prints of one day over {scale.underlyings // PARTS:,} underlyings,"
            " from Parquet into an empty store until it is closed; then SPY's minutes of the week, the store opened by"
            f" a process that has just begun. Median of {scale.rounds} rounds, each in a fresh process.",
        ],
    )


# freshness
@contextmanager
def stand_in(folder: Path) -> Iterator[str]:
    """chDB behind the tests' stand-in for ClickHouse's interface: a store's address."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, ROOT / "tests" / "http_engine.py", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"clickhouse://127.0.0.1:{int(process.stdout.readline())}/flow"
        finally:
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def write(tape: str, address: str) -> dict[str, float]:
    """One print after the other, each told of on standard error as it is given to the engine."""
    import polars as pl

    from flowtape.library import read
    from flowtape.pipeline.ingestor import Ingestor
    from flowtape.storage import open_store

    store = open_store(address)
    engine = Ingestor(store)
    prints = read(tape).filter(pl.col("symbol") == "SPY")
    usual = prints["condition"].mode()[0]
    prints = prints.filter(pl.col("condition") == usual).head(WRITES)
    for number in range(WRITES):
        began = time.time_ns()
        engine.take(prints[number], "bench")
        print(began, flush=True, file=sys.stderr)
        time.sleep(PAUSE)
    store.close()
    return {}


def _freshness(scale: Scale) -> Section:
    from flowtape.model.prints import day_bounds
    from flowtape.pipeline.ingestor import Ingestor
    from flowtape.server.follower import Follower
    from flowtape.storage import open_store

    seen: list[int] = []
    with stand_in(scale.folder / "fresh") as address:
        store = open_store(address)
        window = Cache(store.catalog, int(day_bounds(DAY)[1].timestamp()) // 60)
        follower = Follower(Ingestor(store, window))
        follower.start()
        command = [sys.executable, "-m", "benchmarks.child", "shared:write", _tape(scale), address]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            while len(seen) < WRITES:
                many = _trades(window)
                seen += [time.time_ns()] * (many - len(seen))
                time.sleep(0.002)
            assert process.stderr is not None
            began = [int(line) for line in process.stderr]
        follower.stop()
        store.close()
    waits = sorted((at - start) / NS for at, start in zip(seen, began, strict=True))
    p50, p99 = median(waits), statistics.quantiles(waits, n=100)[98]
    return Section(
        "Freshness of a shared store",
        ["", "p50 ms", "p99 ms", "worst ms"],
        [["from a print's being given to the engine to another process's window having it",
          *(f"{value * 1e3:.0f}" for value in (p50, p99, waits[-1]))]],
        [Aim("seen by another process, p99", "under 1 s", f"{p99 * 1e3:.0f} ms", p99 < 1)],
        [
            f"{WRITES} prints, each a commit of its own, {PAUSE * 1e3:.0f} ms apart, by one process; followed by"
            " another, which asks four times a second what changed. Over HTTP, chDB behind the tests' stand-in for"
            " ClickHouse's interface; all three on this machine.",
        ],
    )  # fmt: skip


def _trades(window: Cache) -> int:
    number = window.number("option", "SPY")
    found = window.of("option").view().line(number, window.oldest, window.oldest + 10_080, ("trades",))
    return int(found.values["trades"].sum())
