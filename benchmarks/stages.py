"""What a print costs by stage on one core, and what prints, minute bars and quotes take on disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import quotes_data as data
from benchmarks.measure import Run, child, in_turn, processor, ratio
from benchmarks.report import Section
from benchmarks.scale import Scale
from benchmarks.shared import PARTS, _remove, _tape

DUCKDB, CLICKHOUSE = "DuckDB", "ClickHouse's engine (chDB)"
PEER = "Polars, read_parquet alone"
STAGES = {"read": "read and check a Parquet file", "sides": "sides", "minutes": "minutes"}
BLOCK = 2**18
"""Bytes in a block of a DuckDB file."""
QUOTES = """CREATE TABLE quotes (contract UInt32 CODEC(ZSTD), ts DateTime64(9) CODEC(DoubleDelta, ZSTD),
bid Int32 CODEC(Delta, ZSTD), ask Int32 CODEC(Delta, ZSTD), bid_size UInt32 CODEC(ZSTD), ask_size UInt32 CODEC(ZSTD))
ENGINE = MergeTree ORDER BY (contract, ts)"""


def run(scale: Scale) -> list[Section]:
    """Two tables."""
    tape = _tape(scale)
    stores = {DUCKDB: scale.folder / "stages.duckdb", CLICKHOUSE: scale.folder / "stages.chdb"}
    contestants = {
        "memory": partial(child, "stages:in_memory", tape, core=True),
        PEER: partial(child, "stages:decode", tape, core=True),
        **{name: partial(_afresh, tape, name, path) for name, path in stores.items()},
    }
    runs = in_turn(scale.rounds, contestants)
    quotes = {
        name: child("stages:keep_quotes", name, path, scale.prints // 5).told for name, path in stores.items()
    }
    for path in stores.values():
        _remove(str(path))
    return [_costs(scale, runs), _sizes(scale, runs, quotes)]


def _afresh(tape: Path, name: str, path: Path) -> Run:
    _remove(str(path))
    return child("stages:stored", tape, name, path, core=True)


def in_memory(tape: str) -> dict[str, float]:
    """Each stage from the frame that the one before it gave."""
    from flowtape.library import minutes, read, sign

    told: dict[str, float] = {}
    with processor(told, "read"):
        prints = read(tape)
    with processor(told, "sides"):
        signed = sign(prints)
    with processor(told, "minutes"):
        minutes(signed)
    return told


def decode(tape: str) -> dict[str, float]:
    """The file's columns as they are."""
    import polars as pl

    told: dict[str, float] = {}
    with processor(told):
        pl.read_parquet(tape)
    return told


def stored(tape: str, name: str, path: str) -> dict[str, float]:
    """Ingest into an empty store as `flowtape ingest` does, and what each table takes there."""
    from flowtape.pipeline.ingestor import Ingestor
    from flowtape.pipeline.maintenance import seal_all
    from flowtape.readers import open_tapes
    from flowtape.storage import open_store

    told: dict[str, float] = {}
    opened = open_store(f"chdb://{path}" if name == CLICKHOUSE else path)
    with processor(told):
        for one in open_tapes([tape]):
            Ingestor(opened).ingest(one)
        if name == DUCKDB:
            # As `flowtape ingest` ends: in order, with minute bars.
            seal_all(opened, lambda day, done: None)
            opened.close()
    if name == DUCKDB:
        return told | _duckdb_tables(path, {"prints": "print_rows", "bars": "bar_rows"})
    opened.close()
    return told | _clickhouse_tables(path, {"prints": "prints", "bars": "minute_bars"})


def _duckdb_tables(path: str, tables: dict[str, str]) -> dict[str, float]:
    """Rows and bytes of tables, by the blocks that they fill."""
    import duckdb

    told: dict[str, float] = {}
    with duckdb.connect(path, read_only=True) as db:
        for name, table in tables.items():
            (rows,) = db.execute(f"SELECT count(*) FROM {table}").fetchall()[0]
            (blocks,) = db.execute(
                f"SELECT count(DISTINCT block_id) FROM pragma_storage_info('{table}') WHERE persistent"
            ).fetchall()[0]
            told |= {f"{name}_rows": rows, f"{name}_bytes": blocks * BLOCK}
    return told


def _clickhouse_tables(path: str, tables: dict[str, str]) -> dict[str, float]:
    """Rows and bytes of tables, of the parts that count."""
    from chdb.session import Session

    told: dict[str, float] = {}
    with Session(path) as session:
        for name, table in tables.items():
            found = session.query(
                "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts WHERE active AND database != 'system'"
                f" AND table = '{table}'", "TabSeparated",
            )  # fmt: skip
            rows, size = str(found).split()
            told |= {f"{name}_rows": int(rows), f"{name}_bytes": int(size)}
    return told


def keep_quotes(name: str, path: str, many: str) -> dict[str, float]:
    """A table of quotes, in order of contract and time, whole numbers as small as they may be."""
    import duckdb

    frame = data.quotes(int(many)).sort("contract", "ts")
    file = f"{path}-quotes.parquet"
    frame.write_parquet(file)
    if name == DUCKDB:
        kept = f"{path}-quotes"
        with duckdb.connect(kept) as db:
            db.execute(
                "CREATE TABLE quotes AS SELECT contract::INTEGER AS contract, ts::TIMESTAMP_NS AS ts,"
                " bid::INTEGER AS bid, ask::INTEGER AS ask, bid_size::INTEGER AS bid_size,"
                " ask_size::INTEGER AS ask_size FROM read_parquet(?)", [file],
            )  # fmt: skip
        return _duckdb_tables(kept, {"quotes": "quotes"})
    from chdb.session import Session

    with Session(path) as session:
        session.query("CREATE DATABASE kept ENGINE = Atomic")
        session.query(QUOTES.replace("quotes", "kept.quotes", 1))
        session.query(f"INSERT INTO kept.quotes SELECT * FROM file('{file}', Parquet)")
        session.query("OPTIMIZE TABLE kept.quotes FINAL")
    return _clickhouse_tables(path, {"quotes": "quotes"})


def _costs(scale: Scale, runs: dict[str, list[Run]]) -> Section:
    many = scale.prints // PARTS
    seconds = {STAGES[key]: [run.told[key] for run in runs["memory"]] for key in STAGES}
    seconds |= {
        f"file to {name}, all stages": [run.told["cpu"] for run in runs[name]]
        for name in (DUCKDB, CLICKHOUSE)
    }
    seconds[PEER] = [run.told["cpu"] for run in runs[PEER]]
    rows = [
        [name, f"{median(of):.3f}", f"{many / median(of):,.0f}", f"{ratio(of, seconds[PEER]):.1f}×"]
        for name, of in seconds.items()
    ]
    return Section(
        "What a print costs by stage, on one core",
        ["stage", "seconds", "prints/s and core", "time against Polars"],
        rows,
        notes=[
            f"{many:,} simulated prints of one day over {scale.underlyings // PARTS:,} underlyings; each stage from the"
            f" frame that the one before it gave. Median of {scale.rounds} rounds, each in a fresh process on one core;"
            " seconds are the processor's, so that what else runs is not in them. Into ClickHouse's engine: engine and"
            " flowtape in one process.",
        ],
    )  # fmt: skip


def _sizes(scale: Scale, runs: dict[str, list[Run]], quotes: dict[str, dict[str, float]]) -> Section:
    rows = []
    for name in (DUCKDB, CLICKHOUSE):
        told = runs[name][-1].told | quotes[name]
        each = {key: told[f"{key}_bytes"] / told[f"{key}_rows"] for key in ("prints", "bars", "quotes")}
        share = told["bars_rows"] / told["prints_rows"]
        rows.append([
            name, f"{each['prints']:.1f}", f"{each['bars']:.1f}", f"{share:.2f}",
            f"{each['prints'] + share * each['bars']:.1f}", f"{each['quotes']:.1f}",
        ])  # fmt: skip
    return Section(
        "Bytes on disk",
        ["store", "a print", "a minute bar", "bars a print", "a print with its bars", "a quote"],
        rows,
        notes=[
            "The same prints, by the blocks (DuckDB) or parts (ClickHouse's engine) of each table.",
            f"No store keeps quotes: {scale.prints // 5:,} of the generator's of `quotes` in a table of their own, in"
            " order of contract and time; ClickHouse's columns by Delta, DoubleDelta and ZSTD. Real quotes may be"
            " larger or smaller.",
        ],
    )  # fmt: skip
