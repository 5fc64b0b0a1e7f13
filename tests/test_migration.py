"""Stores of older versions carried over, and stores shrunk, whole or not at all."""

import random
import signal
import subprocess
import sys
from contextlib import closing
from datetime import date

import duckdb
import polars as pl
import pytest

from flowtape.errors import StoreError
from flowtape.pipeline.ingest import Request
from flowtape.pipeline.ingest import ingest as run_ingest
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.migration import migrate
from flowtape.simulation.tape import Market, write_tape
from flowtape.storage import open_store
from old_stores import DDL, make_old
from stores import every_print
from tapes import SECOND, STOCK, T0, frame, row

DAY = date(2026, 3, 6)
PRINTS = frame([
    row(seq=1, price=13_000), row(seq=2, ts=T0 + 1), row(seq=3, ts=T0 + SECOND, condition="CANC"),
    row(seq=4, ts=T0 + 2, root="SPXW", symbol="SPX", bid=None, ask=None),
    STOCK | {"seq": 5, "symbol": "IBM", "root": "IBM", "size": 7, "bid_size": 3},
])  # fmt: skip
IN_UNITS = ("size", "bid_size", "ask_size")


def command(*args):
    return [sys.executable, "-m", "flowtape", "store", *map(str, args)]


def old_store(path, shape, source="test"):
    prints = PRINTS
    if shape == "2":  # whole shares
        whole = [
            pl.when(asset="stock").then(pl.col(name) // 10_000).otherwise(name).alias(name)
            for name in IN_UNITS
        ]
        prints = prints.with_columns(whole)
    make_old(path, shape, prints, source)


def state(path):
    """What a store of version 4 holds, apart from the numbers of prints."""
    with duckdb.connect(str(path), read_only=True) as db:
        return [
            sorted(db.execute(f"SELECT COLUMNS(lambda c: c != 'print_id') FROM {view}").fetchall(), key=str)
            for view in ("prints", "minutes", "removals", "sources", "cursors", "standing_quotes")
        ]


@pytest.mark.parametrize("shape", DDL)
def test_a_store_of_an_older_version_is_migrated(tmp_path, shape):
    path = tmp_path / "x.duckdb"
    old_store(path, shape)
    with pytest.raises(StoreError, match=r"flowtape store migrate"):
        open_store(path)
    done = subprocess.run(command("migrate", "--store", path), check=True, capture_output=True, text=True)
    assert f"5 prints carried over from version {shape[0]}" in done.stdout
    assert ("the others are lost" in done.stderr) == (shape == "2")
    with closing(open_store(path)) as store:
        kept = every_print(store)
        names = [name for name in PRINTS.columns if shape != "2" or name != "quote_class"]
        assert kept.select(names).equals(PRINTS.sort("seq").select(names))
        assert kept["removed_at"].null_count() == 4
        assert store.cursor("feed") == '{"at": 1}'
        assert store.standing("feed").height == 1
        assert set(store.sources()["source"]) == {"test (version 2)" if shape == "2" else "test"}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.duckdb"]


def test_rows_of_version_2_are_replaced_not_doubled(tmp_path):
    path = tmp_path / "x.duckdb"
    old_store(path, "2")
    assert migrate(path, None).prints == 5
    with closing(open_store(path)) as store:
        ingestor = Ingestor(store)
        assert ingestor.take(PRINTS, "test").refused == 5
        assert ingestor.take(PRINTS, "test", replace=True).added == 5
        assert every_print(store).height == 5
        assert set(store.sources()["source"]) == {"test"}


def test_a_version_3_file_ingested_again_adds_nothing(tmp_path):
    path = tmp_path / "x.duckdb"
    old_store(path, "3")
    migrate(path, None)
    with closing(open_store(path)) as store:
        assert Ingestor(store).take(PRINTS, "test").added == 0


def test_prints_beyond_todays_bounds_are_left_out_and_counted(tmp_path):
    path = tmp_path / "x.duckdb"
    old_store(path, "3")
    with duckdb.connect(str(path)) as db:
        db.execute("UPDATE print_rows SET price = 10000000000000 WHERE seq = 2")
    done = migrate(path, None)
    assert (done.prints, done.left_out) == (4, 1)


def test_a_version_that_cannot_be_migrated_is_named(tmp_path):
    path = tmp_path / "x.duckdb"
    old_store(path, "2")
    with duckdb.connect(str(path)) as db:
        db.execute("UPDATE meta SET value = '1'")
    before = path.read_bytes()
    done = subprocess.run(command("migrate", "--store", path), check=False, capture_output=True, text=True)
    assert done.returncode == 5
    assert "version 1" in done.stderr
    assert path.read_bytes() == before


def test_migrating_a_store_of_today_changes_nothing(tmp_path):
    path = tmp_path / "x.duckdb"
    with closing(open_store(path)) as store:
        Ingestor(store).take(PRINTS, "test")
    before = state(path)
    done = subprocess.run(command("migrate", "--store", path), check=True, capture_output=True, text=True)
    assert "is of version 4" in done.stdout
    assert state(path) == before


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A store of 130,000 prints with a cursor, as large again by rows that were replaced."""
    path = tmp_path_factory.mktemp("large") / "x.duckdb"
    tape = path.with_name("tape.parquet")
    write_tape(Market(seed=5, underlyings=20), DAY, tape, rows=130_000)
    with closing(open_store(path)) as store:
        run_ingest(Ingestor(store), Request(files=[str(tape)]))
        rows = store.prints(store.catalog.series["series"], 0, 2**62)
        with store.transaction():
            store.replace_prints(rows)
            store.set_cursor("feed", "here")
    return path


def test_vacuum_shrinks_a_file_and_keeps_every_row(tmp_path, large):
    path = tmp_path / "x.duckdb"
    path.write_bytes(large.read_bytes())
    path.chmod(0o640)
    before, order = state(path), rows_in_order(path)
    done = subprocess.run(command("vacuum", "--store", path), check=True, capture_output=True, text=True)
    assert "MB before" in done.stdout
    assert path.stat().st_size < large.stat().st_size / 1.5
    assert path.stat().st_mode & 0o777 == 0o640
    assert (state(path), rows_in_order(path)) == (before, order)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.duckdb"]


def rows_in_order(path):
    with duckdb.connect(str(path), read_only=True) as db:
        return db.execute("SELECT print_id FROM print_rows ORDER BY rowid").fetchall()


def test_vacuum_killed_at_any_instant_loses_nothing(tmp_path, large):
    path = tmp_path / "x.duckdb"
    path.write_bytes(large.read_bytes())
    before, chance = state(path), random.Random(7)
    for _ in range(3):
        child = subprocess.Popen(command("vacuum", "--store", path), stdout=subprocess.DEVNULL)
        try:
            # The instant itself is what is random here; nothing is waited for.
            child.wait(timeout=chance.uniform(0.5, 2.0))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.wait()
        assert state(path) == before
    subprocess.run(command("vacuum", "--store", path), check=True, capture_output=True)
    assert state(path) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.duckdb"]


def test_a_migration_killed_at_any_instant_can_be_repeated(tmp_path):
    path, chance = tmp_path / "x.duckdb", random.Random(11)
    old_store(path, "3")
    for _ in range(3):
        child = subprocess.Popen(command("migrate", "--store", path), stdout=subprocess.DEVNULL)
        try:
            child.wait(timeout=chance.uniform(0.8, 2.0))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.wait()
    subprocess.run(command("migrate", "--store", path), check=True, capture_output=True)
    with closing(open_store(path)) as store:
        assert every_print(store).height == 5


@pytest.mark.parametrize("name", ["vacuum", "migrate"])
def test_a_store_in_use_is_not_migrated(tmp_path, name):
    path = tmp_path / "x.duckdb"
    with closing(open_store(path)):
        done = subprocess.run(command(name, "--store", path), check=False, capture_output=True, text=True)
    assert done.returncode == 5
    assert "another process holds this store" in done.stderr


def test_the_old_word_for_vacuum_still_works(tmp_path):
    path = tmp_path / "x.duckdb"
    open_store(path).close()
    done = subprocess.run(command("tidy", "--store", path), check=True, capture_output=True, text=True)
    assert "is now `store vacuum`" in done.stderr
