"""One store, many processes: over HTTP, with killed and fenced writers, and servers that follow."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import httpx
import polars as pl
import pytest
from click.testing import CliRunner

from flowtape.cache.cache import Cache
from flowtape.cli import commands
from flowtape.errors import StoreError, TakenOver, UsageError
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.rebuild import wrong_minutes
from flowtape.pipeline.report import Report
from flowtape.readers import open_tapes
from flowtape.server.flow import Flow
from flowtape.simulation.tape import Market, write_tape
from flowtape.storage import open_store, shown
from flowtape.storage.clickhouse.connection import parse
from flowtape.storage.clickhouse.tables import Layout
from flowtape.storage.clickhouse.vacuum import APART, Vacuum
from serving import Clock
from stores import OWN_NUMBERS, every_print, over_http, until
from tapes import SECOND, T0, frame, row
from test_ingestor import LATER, MINUTE, from_store, from_window

DAY = date(2026, 5, 12)
PAGE = Path(__file__).parents[1] / "docs" / "how-to/clickhouse.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Yield the address of a server."""
    with over_http(tmp_path_factory.mktemp("engine") / "data") as address:
        yield address


@pytest.fixture
def address(server, request):
    return f"{server}/{re.sub('[^a-z]', '_', request.node.name)[-60:]}"


@pytest.fixture
def two(address):
    """Two processes' connections to one store."""
    stores = [open_store(address), open_store(address)]
    yield stores
    for store in stores:
        store.close()


def flowtape(*arguments, **options):
    return subprocess.Popen([sys.executable, "-m", "flowtape", *map(str, arguments)], text=True, **options)


def half_a_commit(ingestor, other):
    """Insert all rows of a commit except the one that completes it."""
    with ingestor.store.transaction():
        ingestor._keep(ingestor._prepare(frame([row()])), "test", False, Report("test"))
        for table in list(ingestor.store._held):
            ingestor.store._flush(table)
        assert every_print(other).is_empty()
        raise StoreError("cut")


def test_readers_see_commits_whole_or_not_at_all(two):
    one, other = two
    ingestor = Ingestor(one)
    with pytest.raises(StoreError, match="cut"):
        half_a_commit(ingestor, other)
    assert every_print(other).is_empty()
    assert from_store(other, "SPY") == []
    ingestor.take(frame([row()]), "test", cursors={"test": "1"})
    assert len(every_print(other)) == 1
    assert [point["tradeCount"] for point in from_store(other, "SPY")] == [1]
    assert other.cursor("test") == "1"


def test_a_servers_cache_follows_other_writers(two):
    one, other = two
    writer = Ingestor(one)
    writer.take(frame([row()]), "test")
    window = Cache(other.catalog, LATER // MINUTE)
    reader = Ingestor(other, window)
    reader.load()
    tape = [
        row(seq=1, ts=T0 + SECOND),
        row(seq=2, ts=T0 + 2 * SECOND, root="NEWW", symbol="NEWW", venue="NEWV"),
        row(seq=3, ts=T0 + 3 * SECOND, condition="CANC"),
        row(seq=1, ts=T0 + SECOND, bid=1, ask=2, quote_ts=T0 + SECOND - 1),
    ]
    for part in tape:
        writer.take(frame([part]), "test")
        reader.follow()
        for symbol in ("SPY", "NEWW"):
            assert from_window(window, symbol) == from_store(other, symbol) == from_store(one, symbol)
    assert from_window(window, "NEWW")
    writer.rebuild(date(2026, 3, 6))
    reader.follow()
    assert from_window(window, "SPY") == from_store(one, "SPY")
    assert wrong_minutes(other, date(2026, 3, 6))[0] == 0
    assert not reader.simulated("option", "SPY")
    writer.take(frame([row(seq=9, root="SIM", symbol="SIM")]), "simulated")
    reader.follow()
    assert reader.simulated("option", "SIM")


def test_a_fenced_writer_writes_no_more(two):
    one, other = two
    first, second = Ingestor(one), Ingestor(other)
    one.take_over("feed")
    first.take(frame([row()]), "test", cursors={"test": "1"})
    other.take_over("feed")
    with pytest.raises(TakenOver):
        first.take(frame([row(seq=1)]), "test", cursors={"test": "2"})
    with pytest.raises(TakenOver):
        first.take(frame([row(seq=2)]), "test", cursors={"test": "3"})
    assert other.cursor("feed") is None
    second.take(frame([row(seq=1)]), "test", cursors={"test": "4"})
    assert (len(every_print(other)), other.cursor("test")) == (2, "4")
    assert len(from_store(other, "SPY")) == 1


def test_a_lease_on_files_ends_with_its_release(two):
    one, other = two
    for _ in range(2):
        one.take_over("files of test")
        assert len(other._others("files of test")) == 1
        one.release("files of test")
        assert other._others("files of test") == []


def test_a_server_behind_its_store_refuses_answers(two):
    flow = Flow(
        Ingestor(two[0]), Cache(two[0].catalog, LATER // MINUTE), Clock(LATER), None, 30.0, lambda: 31.0
    )
    try:
        with pytest.raises(StoreError, match="31 s behind"):
            flow.check()
    finally:
        flow.close()


def test_a_store_of_20000_writers_can_be_queried(two):
    one, other = two
    writers = [2**62 + number for number in range(20_000)]
    for name, of in (("many", 1), ("them", 5)):
        rows = pl.concat([one._progress(writer, of, 2**64 - 1, 0, 0) for writer in writers])
        one._insert("commits", rows, name)
    Ingestor(one).take(frame([row()]), "test")
    assert len(every_print(other)) == 1
    assert len(other.point().reached) == len(writers) + 1


def test_an_insert_sent_twice_counts_once(two):
    one, _ = two
    row_of = one._progress(1, 1, 1, 0, 0)
    for _ in range(3):
        one._insert(
            "leases", pl.DataFrame({"source": ["x"], "writer": row_of["writer"], "ended": [0]}), "token"
        )
    assert one._link.ask(f"SELECT count() AS n FROM {one._at('leases')}").item() == 1


def test_bad_addresses_are_named_without_their_password():
    for text, what in {
        "clickhouse:///flow": "host",
        "clickhouse://a:secret@h/flow-1": "flow-1",
        "clickhouse://a:secret@h:99999/flow": "port",
        "clickhouse://a:secret@h/flow?x=1": "'x'",
        "chdb://flow": "absolute",
        "redis://h": "redis",
    }.items():
        with pytest.raises(UsageError) as caught:
            parse(text)
        assert what in str(caught.value)
        assert "secret" not in str(caught.value)
    assert "secret" not in repr(parse("clickhouse://a:secret@h/flow"))
    with pytest.raises(StoreError, match=r"127[.]0[.]0[.]1:1/") as away:
        open_store("clickhouse://127.0.0.1:1/flow")
    assert "query_id" not in str(away.value)


def test_a_store_name_is_shown_without_its_password():
    for text in (
        "clickhouse://a:secret@h/flow?cluster=desk",
        "clickhouses://a:secret@h:1/x",
        "chdb:///srv/flow",
    ):
        told = shown(text)
        assert "secret" not in told
        assert replace(parse(text), password="") == parse(told)
    assert shown("x.duckdb") == "x.duckdb"


def test_a_write_waits_for_another_s_quorum(tmp_path):
    with over_http(tmp_path / "engine") as address:
        store = open_store(f"{address}/flow")
        busy = tmp_path / "engine.busy"
        for seq in range(2):
            busy.touch()
            Ingestor(store).take(frame([row(seq=seq)]), "test")
            assert not busy.exists()
        assert len(every_print(store)) == 2
        store.close()


def rows_in(store, table):
    return store._link.ask(f"SELECT count() AS n FROM {store._at(table)}").item()


def visible(store):
    """Return the number of visible rows of prints."""
    return store._ask("prints", "count() AS n", "1", own=False).item()


def state_of(store):
    """Return prints, minutes (stored, and made from prints) and cursors of a store."""
    every = every_print(store).drop(*OWN_NUMBERS)
    return every, from_store(store, "SPY"), wrong_minutes(store, date(2026, 3, 6)), store.cursor("test")


def by_sql(store):
    """Return minutes and net volume of SPY by the statement of docs/how-to/clickhouse.md."""
    sql = re.search(r"```text\n(SELECT.*?)```", PAGE.read_text(), re.DOTALL).group(1)
    rows = store._link.ask(sql.replace("flow.", f"{store.address.database}."))
    return [(f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}", net) for at, net in rows.iter_rows()]


def test_vacuum_deletes_replaced_rows_and_changes_no_answer(two):
    one, other = two
    writer = Ingestor(one)
    window = Cache(other.catalog, LATER // MINUTE)
    reader = Ingestor(other, window)
    reader.load()
    for seq in range(6):
        writer.take(frame([row(seq=seq, ts=T0 + seq * SECOND)]), "test", cursors={"test": str(seq)})
    reader.follow()
    writer.take(frame([row(seq=2, ts=T0 + 2 * SECOND, bid=1, ask=2, quote_ts=T0)]), "test")
    writer.take(frame([row(seq=9, ts=T0 + 9 * SECOND, condition="CANC")]), "test")
    net = [(point["ts"], point["netVolume"]) for point in from_store(one, "SPY")]
    assert by_sql(one) == net
    keeper = Vacuum(one.address)
    assert keeper.run(1000) is None
    assert keeper.run(1000 + APART - 1) is None
    before, many = state_of(other), rows_in(one, "minute_bars")
    assert keeper.run(1000 + APART) == {"prints": 1, "minute_bars": 7, "cursors": 5}
    assert rows_in(one, "minute_bars") == many - 7
    assert by_sql(one) == net
    reader.follow()
    assert from_window(window, "SPY") == from_store(other, "SPY")
    writer.rebuild(date(2026, 3, 6))
    writer.take(frame([row(seq=7, ts=T0 + 7 * SECOND)]), "test")
    assert keeper.run(2000 + APART) == {}
    after = state_of(other)
    # All bars of the minute but the newest, which the rebuild replaced.
    assert keeper.run(3000 + APART)["minute_bars"] >= 1
    keeper.close()
    assert after[0].equals(state_of(other)[0])
    assert after[1:] == state_of(other)[1:]
    assert before[0].height == after[0].height - 1
    reader.follow()
    assert from_window(window, "SPY") == from_store(other, "SPY") == from_store(one, "SPY")


def test_vacuum_keeps_rows_replaced_by_a_fenced_writer(two):
    one, other = two
    writer = Ingestor(one)
    for seq in range(3):
        writer.take(frame([row(seq=seq, ts=T0 + seq * SECOND)]), "test", cursors={"test": str(seq)})
    before, reached = state_of(other), other._look()[0].reached[one._writer]
    writer.take(frame([row(bid=1, ask=2, quote_ts=T0 - 1)]), "test", cursors={"test": "3"})
    keeper = Vacuum(one.address)
    assert keeper.run(0) is None
    # As a process that took over and had read the state before that commit.
    other._fence(one._writer, reached)
    assert state_of(other)[1:] == before[1:]
    keeper.run(APART)
    keeper.close()
    assert state_of(other)[0].equals(before[0])
    assert state_of(other)[1:] == before[1:]


@pytest.mark.parametrize("shards", [1, 2])
def test_a_clusters_tables_equal_those_of_one_node(tmp_path, shards):
    """Both shards are one engine, so each finds every row: the statements run, but their sums are not those of a
    real cluster."""
    tape = tmp_path / "day.parquet"
    write_tape(Market(seed=4, underlyings=3), DAY, tape, assets="both", rows=600)
    embedded = open_store(tmp_path / "plain.duckdb")
    with over_http(tmp_path / "engine", shards) as address:
        stores = [open_store(f"{address}/flow?cluster=desk") for _ in range(2)]
        one, other = stores
        for store in (embedded, one):
            ingestor = Ingestor(store)
            store.take_over("files")
            for found in open_tapes([tape]):
                ingestor.ingest(found)
            ingestor.take(frame([row(), row(seq=1, condition="CANC")]), "test", cursors={"test": "1"})
            ingestor.take(frame([row(bid=1, ask=2, quote_ts=T0 - 1)]), "test")
            ingestor.rebuild(DAY)
        reader = Ingestor(other, Cache(other.catalog, LATER // MINUTE))
        reader.load()
        Ingestor(one).take(frame([row(seq=7)]), "test")
        reader.follow()
        keeper = Vacuum(one.address)
        assert keeper.run(0) is None
        assert keeper.run(APART)["minute_bars"] > 0
        keeper.close()
        other.take_over("files")
        with pytest.raises(TakenOver):
            Ingestor(one).take(frame([row(seq=8)]), "test")
        Ingestor(embedded).take(frame([row(seq=7)]), "test")
        assert every_print(other).drop(*OWN_NUMBERS).equals(every_print(embedded).drop(*OWN_NUMBERS))
        assert (
            other.sources()
            .sort("symbol", "asset", "day")
            .equals(embedded.sources().sort("symbol", "asset", "day"))
        )
        if shards == 1:
            assert wrong_minutes(other, DAY) == (0, wrong_minutes(embedded, DAY)[1])
            assert (
                from_window(reader.window, "SPY") == from_store(other, "SPY") == from_store(embedded, "SPY")
            )
        for store in stores:
            store.close()
    embedded.close()


@pytest.mark.parametrize(
    "ages",
    [{}, {"FLOWTAPE_KEEP_PRINTS_DAYS": "36500", "FLOWTAPE_KEEP_MINUTES_DAYS": "36500"}],
    ids=["for good", "for a century"],
)
def test_store_init_sets_the_retention_of_prints(address, monkeypatch, ages):
    for name, days in ages.items():
        monkeypatch.setenv(name, days)
    done = CliRunner().invoke(commands, ["store", "init", "--store", address])
    assert done.exit_code == 0, done.output
    store = open_store(address)
    assert store._link.expires("prints") is bool(ages)
    Ingestor(store).take(frame([row(), row(seq=1, condition="CANC"), row(seq=2)]), "test")
    assert len(every_print(store)) == 3
    assert len(from_store(store, "SPY")) == 1
    monkeypatch.setenv("FLOWTAPE_KEEP_PRINTS_DAYS", "1")
    monkeypatch.delenv("FLOWTAPE_KEEP_MINUTES_DAYS", raising=False)
    assert CliRunner().invoke(commands, ["store", "migrate", "--store", address]).exit_code == 0
    store._link.run(f"OPTIMIZE TABLE {store._at('prints')} FINAL")
    until(lambda: every_print(store).is_empty())
    assert len(from_store(store, "SPY")) == 1
    monkeypatch.delenv("FLOWTAPE_KEEP_PRINTS_DAYS")
    assert CliRunner().invoke(commands, ["store", "migrate", "--store", address]).exit_code == 0
    assert not store._link.expires("prints")
    Ingestor(store).take(frame([row(seq=3)]), "test")
    assert len(every_print(store)) == 1
    store.close()


@pytest.mark.parametrize("cluster", ["", "desk"])
def test_clickhouse_parses_every_statement_of_the_schema(two, cluster):
    layout = Layout("flow", cluster, keep_prints=30)
    for statement in (*layout.statements(), *layout.keeping(), *(sql for _, sql in layout.for_good())):
        assert two[0]._link.ask(f"EXPLAIN AST {statement}").height


def test_another_process_takes_over_a_killed_ingest(address, tmp_path):
    tapes = {}
    for name, seed in (("a", 1), ("b", 2)):
        tapes[name] = tmp_path / f"{name}.parquet"
        write_tape(Market(seed=seed, underlyings=3), DAY, tapes[name], assets="option", rows=4000)
    symbols = sorted(set(pl.read_parquet(tapes["a"])["symbol"].cast(str)))
    plain = tmp_path / "plain.duckdb"
    env = os.environ | {"FLOWTAPE_KEYS": str(tmp_path / "keys")}
    subprocess.run(
        [sys.executable, "-m", "flowtape", "ingest", tapes["a"], "--store", plain], check=True, env=env
    )
    feed = f"replay:{tapes['a']}?speed=6000"
    store = open_store(address)
    first = flowtape("ingest", "--feed", feed, "--store", address, env=env, stderr=subprocess.DEVNULL)
    until(store.span)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = flowtape("ingest", "--feed", feed, "--store", address, env=env, stderr=subprocess.DEVNULL)
    embedded = open_store(plain, read_only=True)
    until(lambda: visible(store) >= 4000)
    second.terminate()
    assert second.wait(timeout=60) == 0
    assert every_print(store).drop(*OWN_NUMBERS).equals(every_print(embedded).drop(*OWN_NUMBERS))
    at = embedded.span()[1] + 1
    for symbol in symbols:
        assert from_store(store, symbol, at) == from_store(embedded, symbol, at)
    store.close()
    embedded.close()


def fed(tape, address, plain, env):
    """Ingest a tape by two processes at a time, each with its symbols, until the store equals the embedded one."""
    prints = pl.read_parquet(tape)
    symbols = prints["symbol"].unique().sort()
    feeds = []
    for number in range(2):
        part = tape.with_name(f"part{number}.parquet")
        prints.filter(pl.col("symbol").is_in(symbols.gather_every(2, number).implode())).write_parquet(part)
        feed = f"replay:{part}?speed=6000"
        feeds.append(
            flowtape("ingest", "--feed", feed, "--store", address, env=env, stderr=subprocess.DEVNULL)
        )
    embedded, store = open_store(plain, read_only=True), open_store(address)
    try:
        until(lambda: visible(store) >= prints.height)
        assert wrong_minutes(store, DAY) == (0, wrong_minutes(embedded, DAY)[1])
    finally:
        embedded.close()
        store.close()
        for one in feeds:
            one.terminate()
    assert [one.wait() for one in feeds] == [0, 0]


def test_two_feeds_and_three_servers_equal_the_embedded_store(address, tmp_path):
    tape = tmp_path / "day.parquet"
    write_tape(Market(seed=3, underlyings=4), DAY, tape, assets="both", rows=3000)
    env = os.environ | {"FLOWTAPE_KEYS": str(tmp_path / "keys")}
    run = [sys.executable, "-m", "flowtape"]
    key = subprocess.run(
        [*run, "keys", "create", "--plan", "alpha"], check=True, env=env, capture_output=True, text=True
    )
    plain = str(tmp_path / "plain.duckdb")
    subprocess.run([*run, "ingest", tape, "--store", plain], check=True, env=env, stdout=subprocess.DEVNULL)
    open_store(address).close()
    servers = [
        flowtape(
            "serve", "--store", name, "--port", 0, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for name in (address, address, address)
    ]
    try:
        fed(tape, address, plain, env)
        servers.append(
            flowtape(
                "serve",
                "--store",
                plain,
                "--port",
                0,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        )
        bases = [re.search(r" at (\S+)", made.stdout.readline()).group(1) for made in servers]
        for base in bases:
            until(lambda base=base: httpx.get(f"{base}/health").status_code == 200)
        at = {"at": "2026-05-12T19:00:00Z"}
        for path, arguments in {
            "options/SPY/cumulative": {"minutes": 400, **at},
            "options/SPY/history": {"minutes": 400, **at},
            "options/SPY/recent": {"limit": 20, **at},
            "options/SPY/summary": at,
            "options/SPY/sessions": at,
            "stocks/SPY/cumulative": {"minutes": 400, **at},
        }.items():
            answers = [
                httpx.get(
                    f"{base}/v1/flow/{path}",
                    params=arguments,
                    headers={"X-Api-Key": key.stdout.strip()},
                    timeout=60,
                )
                for base in bases
            ]
            assert [answer.status_code for answer in answers] == [200] * 4, path
            assert len({answer.content for answer in answers}) == 1, path
            assert json.loads(answers[0].content)
    finally:
        for made in servers:
            made.terminate()
            made.wait()
            made.stdout.close()
