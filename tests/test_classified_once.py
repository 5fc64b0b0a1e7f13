"""Side and family are stored with a print, and queries do not classify again."""

import itertools
import os
import subprocess
import sys
import time
from datetime import date, timedelta

import httpx
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtape.errors import StoreError
from flowtape.model.query import Filter, Query
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.rebuild import wrong_minutes
from flowtape.queries import blocks, quality, recent, summary
from flowtape.queries.flow_data import FlowData
from flowtape.simulation.market import Market
from flowtape.simulation.tape import write_tape
from flowtape.storage.catalog import CLUSTER, clustered
from processes import Served, command
from stores import ENGINE, every_print, make_store
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
    body = summary(FlowData(store, None, LATER, timedelta(seconds=1)), query).body
    return body.buy_volume, body.sell_volume, body.mid_volume


def test_side_and_family_are_stored_with_the_print(store):
    prints = [
        row(seq=1, price=13_000),
        row(seq=2, price=11_000, condition="SLAN"),
        row(seq=3, price=13_000, condition="MLFT"),
    ]
    Ingestor(store).take(frame(prints), "test")
    kept = every_print(store)
    assert kept["side"].to_list() == ["buy", "sell", "mid"]
    assert kept["family"].to_list() == ["regular", "auction", "floor"]


def test_a_better_quote_changes_the_stored_side(store):
    ingestor = Ingestor(store)
    ingestor.take(frame([row(seq=1, price=13_000, bid=None, ask=None, bid_size=None, ask_size=None)]), "test")
    assert sides(store) == ["mid"]
    ingestor.take(frame([row(seq=1, price=13_000)]), "test")
    assert sides(store) == ["buy"]


def test_answers_use_the_stored_side(store):
    Ingestor(store).take(frame([row(seq=1, price=13_000, size=7, **OLD_QUOTE)]), "test")
    # The query's quote age would make this print mid.
    assert volumes(store) == (7, 0, 0)
    assert volumes(store, side="buy") == (7, 0, 0)
    assert volumes(store, side="sell") == (0, 0, 0)


def test_rebuilt_minutes_use_the_stored_side(store):
    prints = [row(seq=1, price=13_000, size=7, **OLD_QUOTE), row(seq=2, price=13_000, size=3, **OLD_QUOTE)]
    Ingestor(store).take(frame(prints), "test")
    cancel = row(seq=3, ts=T0 + SECOND, price=13_000, size=3, condition="CANC")
    Ingestor(store, max_quote_age=timedelta(seconds=1)).take(frame([cancel]), "test")
    assert volumes(store) == (7, 0, 0)
    assert wrong_minutes(store, DAY)[0] == 0


def test_days_with_other_settings_are_listed_until_rebuilt(store):
    Ingestor(store).take(frame([row(seq=1, price=13_000, size=7, **OLD_QUOTE)]), "test")
    assert Ingestor(store).classifications.look() == []
    ingestor = Ingestor(store, max_quote_age=timedelta(seconds=1))
    assert ingestor.classifications.look() == [DAY]
    assert ingestor.rebuild_outdated() == {DAY: 1}
    assert ingestor.classifications.look() == []
    assert Ingestor(store).classifications.look() == [DAY]
    assert volumes(store) == (0, 0, 7)
    assert wrong_minutes(store, DAY) == (0, 1)


def test_a_day_with_two_settings_is_listed_under_both(store):
    ingestors = [Ingestor(store), Ingestor(store, max_quote_age=timedelta(seconds=1))]
    for seq, ingestor in enumerate(ingestors, start=1):
        ingestor.take(frame([row(seq=seq)]), "test")
    assert [ingestor.classifications.look() for ingestor in ingestors] == [[DAY], [DAY]]


def test_a_failed_commit_records_no_settings(store):
    ingestor = Ingestor(store)

    def fail():
        with store.transaction():
            ingestor.classifications.add(pl.Series([DAY]))
            raise StoreError("the disk is full")

    with pytest.raises(StoreError, match="full"):
        fail()
    assert store.classified().is_empty()


def test_quality_reads_the_stored_side_and_family(store):
    Ingestor(store).take(frame([row(seq=1, price=13_000, **OLD_QUOTE)]), "test")
    data = FlowData(store, None, LATER)
    found = quality.quality(data, Query(symbol="SPY", at=LATER), pl.Series([T0 // (60 * SECOND)]).to_numpy())
    assert found["sided_share"] == [1.0]


@pytest.mark.skipif(ENGINE != "duckdb", reason="a DuckDB file is read")
def test_ingested_prints_are_in_order_of_symbol_and_time(tmp_path):
    import duckdb

    write_tape(Market(seed=9, underlyings=5), DAY, tmp_path / "day.parquet", rows=5_000)
    args = ("ingest", tmp_path / "day.parquet", "--store", tmp_path / "x.duckdb")
    subprocess.run([sys.executable, "-m", "flowtape", *map(str, args)], check=True, capture_output=True)
    with duckdb.connect(str(tmp_path / "x.duckdb"), read_only=True) as db:
        keys = db.execute("SELECT symbol_id, epoch_ns(ts), seq FROM print_rows ORDER BY rowid").fetchall()
        shown = db.execute("SELECT DISTINCT side FROM prints").fetchall()
        families = db.execute("SELECT count(DISTINCT family) FROM prints").fetchall()
    assert keys == sorted(keys)
    assert {side for (side,) in shown} == {"buy", "sell", "mid"}
    assert families[0][0] > 3


@pytest.mark.skipif(ENGINE != "duckdb", reason="one store by file")
def test_rebuild_outdated_updates_a_store(tmp_path):
    path = tmp_path / "x.duckdb"
    kept = make_store(path)
    Ingestor(kept).take(frame([ROW | {"seq": 1, "price": 13_000, **OLD_QUOTE}]), "test")
    kept.close()

    def rebuild(*args):
        command = [sys.executable, "-m", "flowtape", "rebuild", *args, "--store", str(path)]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=env)

    env = os.environ | {"FLOWTAPE_MAX_QUOTE_AGE": "1"}
    assert f"{DAY}: 1 minute bars" in rebuild("--outdated").stdout
    assert "no day is outdated" in rebuild("--outdated").stdout
    assert rebuild().returncode == 2
    assert rebuild(str(DAY), "--outdated").returncode == 2


@pytest.mark.skipif(ENGINE != "duckdb", reason="one store by file")
def test_a_server_names_outdated_days_until_they_are_rebuilt(tmp_path, monkeypatch):
    path = str(tmp_path / "x.duckdb")
    kept = make_store(path)
    Ingestor(kept).take(frame([ROW | {"seq": 1, "price": 13_000, **OLD_QUOTE}]), "test")
    kept.close()
    monkeypatch.setenv("FLOWTAPE_MAX_QUOTE_AGE", "1")
    monkeypatch.chdir(tmp_path)
    with Served("--store", path) as server:
        server.await_log("classified under other settings")

        def health():
            return httpx.get(f"{server.url}/health").json()

        deadline = time.monotonic() + 30
        while health()["status"] != "Healthy" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert health()["detail"].startswith(f"Classified under other settings: {DAY}.")
        command("rebuild", "--outdated", "--store", path)
        assert health() == {"status": "Healthy"}


class WithoutFrames:
    """A store that refuses to return the prints of a span as a frame."""

    def __init__(self, store):
        self.store = store

    def __getattr__(self, name):
        assert name not in ("prints", "prints_of")
        return getattr(self.store, name)


@pytest.mark.parametrize("at", [LATER, None])
def test_day_answers_and_filtered_minutes_read_no_frame_of_prints(store, at):
    cancelled = row(seq=3, size=5, strike=5_000_000, price=13_000)
    cancel = row(seq=4, ts=LATER + SECOND, size=5, strike=5_000_000, price=13_000, condition="CANC")
    prints = [row(seq=1, size=200, price=13_000), row(seq=2, price=11_000), cancelled, cancel]
    Ingestor(store).take(frame(prints), "test")
    data = FlowData(WithoutFrames(store), None, LATER + 60 * SECOND)
    query = Query(symbol="SPY", at=at, limit=2, min_size=100)
    more = at is not None
    assert summary(data, query).body.total_trades == 2 + more
    assert summary(data, query).body.contracts_with_trades == 1 + more
    assert recent(data, query).body.total_available == 2 + more
    assert [trade.size for trade in recent(data, query).body.trades] == ([5, 1] if more else [1, 200])
    assert [block.size for block in blocks(data, query).body.blocks] == [200]
    minute = T0 // (60 * SECOND)

    def minutes(**filters):
        asked = Query(symbol="SPY", at=at, filter=Filter(**filters))
        found = data.totals(asked, minute - 5, minute + 5, ("buy_volume", "trades", "high", "biggest"))
        return {name: values.tolist() for name, values in found.values.items()}

    assert minutes(strike=(5_000_000, 5_000_000)) == (
        {"buy_volume": [5], "trades": [1], "high": [13_000], "biggest": [5]}
        if more
        else {"buy_volume": [], "trades": [], "high": [], "biggest": []}
    )
    assert minutes(side="sell") == {"buy_volume": [0], "trades": [1], "high": [11_000], "biggest": [1]}


def test_filters_of_prints_combine_over_trading_days(store):
    expiries = (date(2026, 3, 6), date(2026, 3, 9), date(2026, 3, 20))
    days = (T0, T0 + 3 * 86_400 * SECOND)
    prints = [
        row(seq=seq, ts=ts, expiry=expiry, right=right, condition=condition, price=13_000)
        for seq, (ts, expiry, right, condition) in enumerate(
            itertools.product(days, expiries, "CP", ("AUTO", "SLAN", "MLET")), start=1
        )
    ]
    Ingestor(store).take(frame(prints), "test")
    data = FlowData(store, None, days[1] + 3600 * SECOND)
    span = (T0 // (60 * SECOND) - 5, days[1] // (60 * SECOND) + 5)

    def trades(**filters):
        query = Query(symbol="SPY", filter=Filter(strike=(0, 2**31 - 1), **filters))
        return data.totals(query, *span, ("trades",)).values["trades"].tolist()

    assert trades() == [18, 18]
    assert trades(dte=(0, 0)) == [6, 6]
    assert trades(dte=(0, 2**31)) == [18, 12]
    assert trades(dte=(3, 14), right="C") == [6, 3]
    assert trades(expiries=((expiries[0], expiries[0]), (expiries[2], date.max))) == [12, 12]
    assert trades(exclude=("auction", "multileg"), right="P", side="buy") == [3, 3]
    assert trades(exclude=("auction",), expiries=((date.min, expiries[1]),)) == [8, 8]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**61), st.integers(0, 3)), max_size=20),
    st.sampled_from([1, 2**57]),
)
def test_clustered_rows_are_in_order_of_symbol_time_sequence(keys, coarse):
    columns = [list(column) for column in zip(*keys, strict=True)] or [[], [], []]
    rows = pl.DataFrame(dict(zip(CLUSTER, columns, strict=True)), dict.fromkeys(CLUSTER, pl.Int64))
    rows = rows.with_columns((pl.col("ts") // coarse).cast(pl.Datetime("ns")))
    assert clustered(rows).equals(rows.sort(CLUSTER))
