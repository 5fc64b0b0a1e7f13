"""Twenty simulated days into a shared store by one and by two workers, of a Dask cluster and of a pool of processes,
against one process into the embedded store."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import Run, child, in_turn, ratio
from benchmarks.report import Section
from benchmarks.scale import Scale
from benchmarks.shared import stand_in

FIRST = date(2026, 4, 13)
DAYS = [FIRST + timedelta(days=7 * week + day) for week in range(4) for day in range(5)]
ROWS_OF_DAY = 200
"""A day has the prints of the scale's by this."""
EMBEDDED = "one process, DuckDB"
ROUNDS = 2


def run(scale: Scale) -> list[Section]:
    """One table."""
    folder = scale.folder / "month"
    _tapes(folder, scale)
    ways: dict[str, Callable[[], Run]] = {EMBEDDED: partial(_embedded, folder)}
    for workers in (1, 2):
        for kind in ("processes", "dask"):
            name = f"{workers} {'worker' if workers == 1 else 'workers'}, {kind}"
            ways[name] = partial(_shared, folder, kind, workers)
    taken = in_turn(min(scale.rounds, ROUNDS), ways)
    rows = []
    for name, runs in taken.items():
        seconds = [run.told["seconds"] for run in runs]
        told = runs[-1].told
        against = ratio(seconds, [run.told["seconds"] for run in taken[EMBEDDED]])
        rows.append(
            [name, f"{median(seconds):.1f}", f"{told['prints'] / median(seconds):,.0f}", f"{against:.2f}×"]
        )
    return [
        Section(
            "Twenty days by several workers",
            ["workers", "seconds", "prints/s", "against DuckDB"],
            rows,
            notes=[
                f"{len(DAYS)} simulated days of {scale.prints // ROWS_OF_DAY:,} prints, a Parquet file each, over"
                f" {scale.underlyings // ROWS_OF_DAY:,} underlyings; `flowtape backfill`, from its plan to its end."
                f" Median of {min(scale.rounds, ROUNDS)} rounds. Every way makes the same prints and minutes, which the"
                " tests hold.",
                "The shared store is chDB behind the tests' stand-in for ClickHouse's interface, over HTTP, which takes"
                " one statement at a time and runs on the same two cores as the workers.",
                "Dask: a `LocalCluster` of processes of one thread each; its start does not count, the pool's does.",
            ],
        )
    ]


def _tapes(folder: Path, scale: Scale) -> None:
    from flowtape.simulation.tape import Market, write_tape

    folder.mkdir(exist_ok=True)
    for seed, day in enumerate(DAYS):
        path = folder / f"{day}.parquet"
        if not path.exists():
            market = Market(seed=seed, underlyings=scale.underlyings // ROWS_OF_DAY)
            write_tape(market, day, path, rows=scale.prints // ROWS_OF_DAY)


def _embedded(folder: Path) -> Run:
    store = folder / "one.duckdb"
    for old in folder.glob(f"{store.name}*"):
        old.unlink()
    return child("backfill:take", folder, store, "here", 1)


def _shared(folder: Path, kind: str, workers: int) -> Run:
    with stand_in(folder / "engine") as address:
        return child("backfill:take", folder, address, kind, workers)


def take(folder: str, store: str, kind: str, workers: str) -> dict[str, float]:
    """All days into an empty store."""
    import time

    from flowtape.pipeline.backfill import backfill
    from flowtape.pipeline.backfill.files import Reading
    from flowtape.pipeline.backfill.pools import Dask, Here, Processes
    from flowtape.pipeline.backfill.tasks import Place

    task = partial(backfill, Place(store), [f"{folder}/*.parquet"], Reading())
    if kind == "dask":
        from distributed import LocalCluster

        with LocalCluster(n_workers=int(workers), threads_per_worker=1, dashboard_address=None) as cluster:
            pool = Dask(cluster.scheduler_address)
            began = time.perf_counter()
            summary = task(pool)
            seconds = time.perf_counter() - began
            pool.close()
    else:
        began = time.perf_counter()
        summary = task(Here() if kind == "here" else Processes(int(workers)))
        seconds = time.perf_counter() - began
    assert not summary.failed, summary.failed
    return {
        "prints": sum(outcome.added for one in summary.done for outcome in one.outcomes),
        "seconds": seconds,
    }
