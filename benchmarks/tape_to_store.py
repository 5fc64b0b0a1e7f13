"""A day's tape to a committed store, against DuckDB copying the same file as it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import Run, child, in_turn, ratio
from benchmarks.report import Aim, Section
from benchmarks.scale import Scale

OURS, PEER = "flowtape ingest", "DuckDB CREATE TABLE AS, no sides or minutes"


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
    """Engine.ingest on an empty store, closed at the end: everything committed and in the file."""
    from flowtape.pipeline.ingestor import Engine
    from flowtape.readers import open_tapes
    from flowtape.storage import open_store

    opened = open_store(store)
    reports = [Engine(opened).ingest(one) for one in open_tapes([tape])]
    opened.close()
    return {"prints": sum(report.added for report in reports), "bytes": Path(store).stat().st_size}


def copy(tape: str, store: str) -> dict[str, float]:
    """The file's own columns, as they are."""
    import duckdb

    with duckdb.connect(store) as db:
        db.execute("SET preserve_insertion_order = false")
        db.execute("CREATE TABLE prints AS SELECT * FROM read_parquet(?)", [tape])
        (prints,) = db.execute("SELECT count(*) FROM prints").fetchall()[0]
    return {"prints": prints, "bytes": Path(store).stat().st_size}


def _afresh(function: str, tape: Path, store: Path) -> Run:
    _remove(store)
    return child(function, tape, store)


def _remove(store: Path) -> None:
    for path in store.parent.glob(f"{store.name}*"):
        path.unlink()


def _section(scale: Scale, runs: dict[str, list[Run]]) -> Section:
    ours = [run.seconds for run in runs[OURS]]
    rows = []
    for name, of in runs.items():
        seconds = [run.seconds for run in of]
        kept = of[-1].told
        rows.append([
            name, f"{median(seconds):.2f}", f"{scale.prints / median(seconds) / 1e6:.2f}",
            f"{ratio(seconds, ours):.2f}×", f"{kept['bytes'] / kept['prints']:.1f}",
            f"{max(run.peak for run in of) / 2**30:.2f}",
        ])  # fmt: skip
    speed = scale.prints / median(ours)
    peak = max(run.peak for run in runs[OURS])
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
            Aim("tape to store", "at least 1.5 M prints/s", f"{speed / 1e6:.2f} M prints/s", speed >= 1.5e6),
            Aim("tape to store, peak resident memory", "under 2 GB", f"{peak / 1e9:.2f} GB", peak < 2e9),
        ],
        [
            f"{scale.prints:,} simulated prints over {scale.underlyings:,} underlyings, from Parquet in the page cache "
            f"into an empty store, until it is closed; median of {scale.rounds} rounds, each in a fresh process.",
            "flowtape keeps prints and the minutes made of them, signed, with cancels resolved, and looks for rows it "
            "has already; the copy does none of this and says what DuckDB's own writing costs.",
        ],
    )
