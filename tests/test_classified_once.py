"""Side and family are stored with a print; no answer classifies again."""

import os
import subprocess
import sys
from datetime import date, timedelta

import polars as pl
import pytest

from flowtape.errors import StoreError
from flowtape.model.query import Filter, Query
from flowtape.pipeline.ingestor import Engine, wrong_minutes
from flowtape.queries import quality, summary
from flowtape.queries.source import Desk
from flowtape.simulation.market import Market
from flowtape.simulation.tape import write_tape
from flowtape.storage import open_store
from flowtape.storage.clickhouse.connection import Link, parse
from stores import ENGINE, every_print, make_store, name_of
from tapes import ROW, SECOND, T0, frame, row

DAY = date(2026, 3, 6)
LATER = T0 + 3600 * SECOND
OLD_QUOTE = {"quote_ts": T0 - 10 * SECOND}


@pytest.fixture
def store(tmp_path):
    kept = make_store(tmp_path / "x.duckdb")
    yield kept
    kept.close()


def sides(store):
    return every_print(store)["side"].to_list()


def volumes(store, **filters):
    query = Query(symbol="SPY", at=LATER, filter=Filter(**filters))
    body = summary(Desk(store, None, LATER, timedelta(seconds=1)), query).body
    return body.buy_volume, body.sell_volume, body.mid_volume


def test_side_and_family_are_stored_with_the_print(store):
    prints = [
        row(seq=1, price=13_000),
        row(seq=2, price=11_000, condition="SLAN"),
        row(seq=3, price=13_000, condition="MLFT"),
    ]
    Engine(store).take(frame(prints), "test")
    kept = every_print(store)
    assert kept["side"].to_list() == ["buy", "sell", "mid"]
    assert kept["family"].to_list() == ["regular", "auction", "floor"]


def test_a_better_quote_decides_the_side_again(store):
    engine = Engine(store)
    engine.take(frame([row(seq=1, price=13_000, bid=None, ask=None, bid_size=None, ask_size=None)]), "test")
    assert sides(store) == ["mid"]
    engine.take(frame([row(seq=1, price=13_000)]), "test")
    assert sides(store) == ["buy"]


def test_answers_use_the_stored_side(store):
    Engine(store).take(frame([row(seq=1, price=13_000, size=7, **OLD_QUOTE)]), "test")
    # The desk's quote age would make this print mid.
    assert volumes(store) == (7, 0, 0)
    assert volumes(store, side="buy") == (7, 0, 0)
    assert volumes(store, side="sell") == (0, 0, 0)


def test_minutes_put_back_and_restated_use_the_stored_side(store):
    prints = [row(seq=1, price=13_000, size=7, **OLD_QUOTE), row(seq=2, price=13_000, size=3, **OLD_QUOTE)]
    Engine(store).take(frame(prints), "test")
    cancel = row(seq=3, ts=T0 + SECOND, price=13_000, size=3, condition="CANC")
    Engine(store, max_quote_age=timedelta(seconds=1)).take(frame([cancel]), "test")
    assert volumes(store) == (7, 0, 0)
    assert wrong_minutes(store, DAY)[0] == 0


def test_days_of_other_settings_are_named_until_rebuilt(store):
    Engine(store).take(frame([row(seq=1, price=13_000, size=7, **OLD_QUOTE)]), "test")
    assert Engine(store).classifications.look() == []
    engine = Engine(store, max_quote_age=timedelta(seconds=1))
    assert engine.classifications.look() == [DAY]
    assert engine.rebuild_outdated() == {DAY: 1}
    assert engine.classifications.look() == []
    assert Engine(store).classifications.look() == [DAY]
    assert volumes(store) == (0, 0, 7)
    assert wrong_minutes(store, DAY) == (0, 1)


def test_a_day_of_two_settings_is_named_under_both(store):
    engines = [Engine(store), Engine(store, max_quote_age=timedelta(seconds=1))]
    for seq, engine in enumerate(engines, start=1):
        engine.take(frame([row(seq=seq)]), "test")
    assert [engine.classifications.look() for engine in engines] == [[DAY], [DAY]]


def test_a_failed_commit_records_no_settings(store):
    engine = Engine(store)

    def fail():
        with store.transaction():
            engine.classifications.add(pl.Series([DAY]))
            raise StoreError("the disk is full")

    with pytest.raises(StoreError, match="full"):
        fail()
    assert store.classified().is_empty()


def test_quality_reads_the_stored_side_and_family(store):
    Engine(store).take(frame([row(seq=1, price=13_000, **OLD_QUOTE)]), "test")
    desk = Desk(store, None, LATER)
    found = quality.quality(desk, Query(symbol="SPY", at=LATER), pl.Series([T0 // (60 * SECOND)]).to_numpy())
    assert found["sided_share"] == [1.0]


def test_a_version_3_store_without_sides_is_refused(tmp_path):
    path = tmp_path / "old.duckdb"
    make_store(path).close()
    if ENGINE == "duckdb":
        import duckdb

        with duckdb.connect(str(path)) as db:
            db.execute("DROP VIEW prints; ALTER TABLE print_rows DROP COLUMN side")
    else:
        link = Link(parse(name_of(path)))
        link.run(f"ALTER TABLE {parse(name_of(path)).database}.prints DROP COLUMN side")
        link.close()
    with pytest.raises(StoreError, match=r"version 3 before its release.*flowtape ingest FILES --store"):
        open_store(name_of(path))


@pytest.mark.skipif(ENGINE != "duckdb", reason="a DuckDB file is read")
def test_a_batch_is_inserted_in_order_of_symbol_and_time(tmp_path):
    import duckdb

    write_tape(Market(seed=9, underlyings=5), DAY, tmp_path / "day.parquet", rows=5_000)
    args = ("ingest", tmp_path / "day.parquet", "--store", tmp_path / "x.duckdb")
    subprocess.run([sys.executable, "-m", "flowtape", *map(str, args)], check=True, capture_output=True)
    with duckdb.connect(str(tmp_path / "x.duckdb"), read_only=True) as db:
        keys = db.execute("SELECT symbol_id, ts, seq FROM print_rows ORDER BY rowid").fetchall()
        shown = db.execute("SELECT DISTINCT side FROM prints").fetchall()
        families = db.execute("SELECT count(DISTINCT family) FROM prints").fetchall()
    assert keys == sorted(keys)
    assert {side for (side,) in shown} == {"buy", "sell", "mid"}
    assert families[0][0] > 3


@pytest.mark.skipif(ENGINE != "duckdb", reason="one store by file")
def test_rebuild_outdated_mends_a_store_from_the_command_line(tmp_path):
    path = tmp_path / "x.duckdb"
    kept = make_store(path)
    Engine(kept).take(frame([ROW | {"seq": 1, "price": 13_000, **OLD_QUOTE}]), "test")
    kept.close()

    def rebuild(*args):
        command = [sys.executable, "-m", "flowtape", "rebuild", *args, "--store", str(path)]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=env)

    env = os.environ | {"FLOWTAPE_MAX_QUOTE_AGE": "1"}
    assert f"{DAY}: 1 minute bars" in rebuild("--outdated").stdout
    assert "no day is outdated" in rebuild("--outdated").stdout
    assert rebuild().returncode == 2
    assert rebuild(str(DAY), "--outdated").returncode == 2
