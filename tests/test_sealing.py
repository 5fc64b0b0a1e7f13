"""Closed days are sealed beside readers and writers, and no print is lost or doubled."""

import threading
import time
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from flowtape.errors import StoreError
from flowtape.model.prints import day_bounds
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.maintenance import AFTER_CLOSE, Maintenance, closed, seal_closed
from flowtape.readers import Options, open_tapes
from flowtape.simulation.tape import Market, write_tape
from flowtape.storage.duckdb import DuckStore
from stores import every_print, until
from tapes import SECOND, T0, frame, row

DAY = date(2026, 3, 6)
SYMBOLS = ("SPY", "QQQ", "IWM", "DIA")


def batch(first, many, step=1):
    """Prints of four symbols, by turns, with rising sequence numbers."""
    return frame([
        row(seq=first + place, ts=T0 + (first + place) * step, symbol=SYMBOLS[place % 4], root=SYMBOLS[place % 4])
        for place in range(many)
    ])  # fmt: skip


def in_file(path, sql):
    with duckdb.connect(str(path), read_only=True) as db:
        return db.execute(sql).fetchall()


def keys(path):
    """Symbol, time and sequence of the prints, as they lie in the file."""
    return in_file(path, "SELECT symbol_id, epoch_ns(ts), seq FROM print_rows ORDER BY rowid")


def test_a_sealed_day_is_in_order_of_symbol_and_time(tmp_path):
    path = tmp_path / "x.duckdb"
    with closing(DuckStore(path)) as store:
        ingestor = Ingestor(store)
        for first in range(0, 400, 100):
            ingestor.take(batch(first, 100), "test")
        before = every_print(store)
        assert store.unsealed() == [DAY]
        assert store.seal(DAY)
        assert store.unsealed() == []
        assert every_print(store).equals(before)
    found = keys(path)
    assert len(found) == 400
    assert found == sorted(found)


@pytest.mark.parametrize(("late", "rewritten"), [(20, False), (60, True)])
def test_a_day_is_written_again_when_a_twentieth_is_late(tmp_path, late, rewritten):
    path = tmp_path / "x.duckdb"
    with closing(DuckStore(path)) as store:
        ingestor = Ingestor(store)
        ingestor.take(batch(0, 800), "test")
        assert store.seal(DAY)
        ingestor.take(batch(800, late), "test")
        assert store.unsealed() == [DAY]
        assert store.seal(DAY)
    found = keys(path)
    assert len(found) == 800 + late
    assert (found == sorted(found)) == rewritten


def test_replaced_rows_count_as_out_of_order(tmp_path):
    path = tmp_path / "x.duckdb"
    with closing(DuckStore(path)) as store:
        ingestor = Ingestor(store)
        ingestor.take(batch(0, 100), "test")
        assert store.seal(DAY)
        ingestor.take(batch(0, 40).with_columns(pl.col("bid") + 1), "test")
        assert store.seal(DAY)
    found = keys(path)
    assert len(found) == 100
    assert found == sorted(found)


def test_sealing_during_ingest_keeps_every_print(tmp_path):
    tape = tmp_path / "tape.parquet"
    write_tape(Market(seed=5, underlyings=20), DAY, tape, rows=30_000)
    plain, sealed = tmp_path / "plain.duckdb", tmp_path / "sealed.duckdb"
    found = []
    for path in (plain, sealed):
        with closing(DuckStore(path)) as store:
            ended = threading.Event()
            sealing = threading.Thread(target=seal_until, args=(store, ended))
            if path == sealed:
                sealing.start()
            try:
                ingest_in_parts(Ingestor(store), tape)
            finally:
                ended.set()
                if path == sealed:
                    sealing.join()
            assert all(store.seal(day) for day in store.unsealed())
            found.append(every_print(store).drop("print_id", "series", "symbol_id", strict=False))
    assert found[0].height == 30_000
    assert found[0].equals(found[1])


def seal_until(store, ended):
    while not ended.is_set():
        for day in store.unsealed():
            store.seal(day)


def ingest_in_parts(ingestor, tape):
    """Every third row first, so that cancels and their prints meet in any order."""
    prints = pl.read_parquet(tape)
    for part in range(3):
        file = tape.with_name(f"part{part}.parquet")
        prints.gather_every(3, part).write_parquet(file)
        for one in open_tapes([file], options=Options(batch_rows=2_000)):
            ingestor.ingest(one)


def test_the_file_stays_within_a_copy_and_a_day(tmp_path):
    tape, path = tmp_path / "tape.parquet", tmp_path / "x.duckdb"
    write_tape(Market(seed=5, underlyings=50), DAY, tape, rows=130_000)
    sizes = []
    with closing(DuckStore(path)) as store:
        for one in open_tapes([tape]):
            Ingestor(store).ingest(one)
        for _ in range(3):
            rows = store.prints(store.catalog.series["series"], 0, 2**62).head(10_000)
            with store.transaction():
                store.replace_prints(rows)
            assert store.seal(DAY)
            sizes.append(path.stat().st_size)
    copy = tmp_path / "copy.duckdb"
    with duckdb.connect() as db:
        db.execute(f"ATTACH '{path}' AS a (READ_ONLY); ATTACH '{copy}' AS b; COPY FROM DATABASE a TO b")
    fresh = copy.stat().st_size
    assert max(sizes) <= 1.3 * fresh + fresh


def test_the_log_stays_small_beside_readers(tmp_path):
    path = tmp_path / "x.duckdb"
    with closing(DuckStore(path, checkpoint_at=100_000, snapshot_seconds=600)) as store:
        ingestor = Ingestor(store)
        ingestor.take(batch(0, 1000), "test")
        largest = 0
        with store.snapshot():
            seen = store.span()
            for first in range(1000, 31_000, 2000):
                ingestor.take(batch(first, 2000), "test", cursors={"test": str(first)})
                ingestor.take(
                    frame([row(seq=10**6 + first, ts=T0 + 10**8, condition="CANC")]),
                    "test",
                    cursors={"test": "c"},
                )
                largest = max(largest, Path(f"{path}.wal").stat().st_size)
            assert store.span() == seen
    assert largest < 2 * 100_000


def test_a_commit_ends_a_snapshot_that_is_held_too_long(tmp_path):
    with closing(DuckStore(tmp_path / "x.duckdb", snapshot_seconds=0.0)) as store:
        ingestor = Ingestor(store)
        ingestor.take(batch(0, 4), "test")
        with store.snapshot():
            store.span()
            time.sleep(0.001)  # a monotonic clock may stand for that long
            ingestor.take(batch(4, 4), "test")
            with pytest.raises(StoreError, match="ask for fewer minutes"):
                store.span()
        assert store.span() is not None


def test_a_day_is_closed_two_hours_after_its_end():
    end = int(day_bounds(DAY)[1].timestamp()) * SECOND
    assert timedelta(hours=2) == AFTER_CLOSE
    assert not closed(DAY, end + 7199 * SECOND)
    assert closed(DAY, end + 7200 * SECOND)


def test_a_server_seals_days_that_are_over(tmp_path):
    class At:
        def now_ns(self):
            return T0 + 2 * 86_400 * SECOND

    with closing(DuckStore(tmp_path / "x.duckdb")) as store:
        Ingestor(store).take(batch(0, 100), "test")
        seal_closed(store, T0)
        assert store.unsealed() == [DAY]
        work = Maintenance(store, At())
        work.start()
        until(lambda: store.unsealed() == [])
        work.stop()
