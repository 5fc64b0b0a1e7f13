"""A day's tape to a committed, clustered store, against DuckDB writing the same numbers in order."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import Run, child, in_turn, ratio
from benchmarks.report import Aim, Section
from benchmarks.scale import Scale

OURS, PEER = "flowtape ingest", "DuckDB CREATE TABLE … ORDER BY symbol, time, of the same numeric columns"


def run(scale: Scale) -> list[Section]:
    """One table."""
    tape = scale.tape()
    store, copy = scale.folder / "ingest.duckdb", scale.folder / "copy.duckdb"
    runs = in_turn(
        scale.rounds,
        {
            OURS: partial(_afresh, "tape_to_store:ingest", tape, store),
            PEER: partial(_afresh, "tape_to_store:copy", tape, copy),
        },
    )
    for path in (store, copy):
        _remove(path)
    return [_section(scale, runs)]


def ingest(tape: str, store: str) -> dict[str, float]:
    """What `flowtape ingest` does with an empty store, closed at the end: committed, clustered, with minute bars."""
    from flowtape.pipeline.ingest import Request
    from flowtape.pipeline.ingest import ingest as run_ingest
    from flowtape.pipeline.ingestor import Ingestor
    from flowtape.storage import open_store

    opened = open_store(store)
    told = run_ingest(Ingestor(opened), Request(files=[tape]))
    opened.close()
    return {"prints": sum(one.added for one in told), "bytes": Path(store).stat().st_size}


def copy(tape: str, store: str) -> dict[str, float]:
    """The file's own columns as numbers, in order of symbol and time: names as Enums, known before."""
    import duckdb

    with duckdb.connect(store) as db:
        # As the store is set, so that both have the same memory.
        db.execute("SET preserve_insertion_order = false; SET memory_limit = '1GB'")
        names = [
            name
            for name, kind, *_ in db.execute("DESCRIBE SELECT * FROM read_parquet(?)", [tape]).fetchall()
            if kind.startswith(("VARCHAR", "ENUM"))
        ]
        for name in names:
            db.execute(
                f"CREATE TYPE t_{name} AS ENUM (SELECT DISTINCT \"{name}\"::VARCHAR FROM read_parquet('{tape}')"
                f' WHERE "{name}" IS NOT NULL)'
            )
        numbers = ", ".join(f'"{name}"::VARCHAR::t_{name} AS "{name}"' for name in names)
        rest = ", ".join(f'"{name}"' for name in names)
        began = time.perf_counter()
        db.execute(
            f"CREATE TABLE prints AS SELECT * EXCLUDE ({rest}), {numbers} FROM read_parquet('{tape}')"
            " ORDER BY symbol, ts"
        )
        seconds = time.perf_counter() - began
        (prints,) = db.execute("SELECT count(*) FROM prints").fetchall()[0]
    return {"prints": prints, "bytes": Path(store).stat().st_size, "seconds": seconds}


def _afresh(function: str, tape: Path, store: Path) -> Run:
    _remove(store)
    return child(function, tape, store)


def _remove(store: Path) -> None:
    for path in store.parent.glob(f"{store.name}*"):
        path.unlink()


def _section(scale: Scale, runs: dict[str, list[Run]]) -> Section:
    # Naming the types is not part of the peer's work.
    taken = {name: [run.told.get("seconds", run.seconds) for run in of] for name, of in runs.items()}
    ours = taken[OURS]
    rows = []
    for name, of in runs.items():
        seconds = taken[name]
        kept = of[-1].told
        rows.append([
            name, f"{median(seconds):.2f}", f"{scale.prints / median(seconds) / 1e6:.2f}",
            f"{ratio(seconds, ours):.2f}×", f"{kept['bytes'] / kept['prints']:.1f}",
            f"{max(run.peak for run in of) / 2**30:.2f}",
        ])  # fmt: skip
    against = ratio(ours, taken[PEER])
    peak = max(run.peak for run in runs[OURS])
    last = runs[OURS][-1].told
    each = last["bytes"] / last["prints"]
    return Section(
        "Tape to committed store",
        [
            "way",
            "seconds",
            "M prints/s",
            "time against flowtape",
            "bytes of file a print",
            "peak resident GiB",
        ],
        rows,
        [
            Aim(
                "tape to committed, clustered store, against DuckDB",
                "at most 1.6×",
                f"{against:.2f}×",
                against <= 1.6,
            ),
            Aim("tape to store, peak resident memory", "under 1 GB", f"{peak / 1e9:.2f} GB", peak < 1e9),
            Aim("bytes of file a print, minute bars among them", "at most 42", f"{each:.1f}", each <= 42),
        ],
        [
            f"{scale.prints:,} simulated prints over {scale.underlyings:,} underlyings, from Parquet in the page cache "
            f"into an empty store, until it is closed; median of {scale.rounds} rounds, each in a fresh process.",
            "flowtape classifies the prints, matches cancels, looks for rows that are kept already, and keeps minute "
            "bars; the copy does none of this and says what DuckDB's own writing in order costs.",
        ],
    )
