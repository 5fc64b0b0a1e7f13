import asyncio
import hashlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

from flowtape.cli import commands
from flowtape.errors import StoreError, UsageError
from flowtape.server.auth.keyfile import FileCounts, FileLedger
from flowtape.server.auth.keys import Key, Keys, Ledger, check_place, keys_of, plan_named
from flowtape.server.auth.keystore import StoreLedger
from flowtape.server.auth.usage import DAY, MOST_RESERVED, Usage, usage_of
from flowtape.settings import Settings
from flowtape.storage import open_store
from flowtape.storage.clickhouse.connection import Link, parse
from stores import http_engine, name_of, over_http

TODAY = 20_000
NOW = TODAY * DAY + 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flow.duckdb.keys"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with over_http(tmp_path_factory.mktemp("engine")) as address:
        yield address


def made(engine: str, path: Path) -> str:
    """Return the address of a new shared store."""
    address = name_of(path, engine)
    open_store(address).close()
    return address


@pytest.fixture
def store(engine: str, tmp_path: Path) -> str:
    return made(engine, tmp_path)


@pytest.fixture(params=["file", "chdb", "http"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, path: Path) -> Callable[[], Ledger]:
    """Return a function that opens the same storage of keys, as several processes do."""
    if request.param == "file":
        return lambda: FileLedger(path)
    address = made("chdb" if request.param == "chdb" else request.getfixturevalue("engine"), tmp_path)
    return lambda: StoreLedger(parse(address))


Open = Callable[[], Keys]


@pytest.fixture
def open_keys(ledger: Callable[[], Ledger]) -> Iterator[Open]:
    opened: list[Keys] = []

    def make() -> Keys:
        opened.append(Keys(ledger(), lambda: NOW))
        return opened[-1]

    yield make
    for keys in opened:
        keys.close()


def test_a_key_is_found_by_its_text(open_keys: Open) -> None:
    keys = open_keys()
    raw = keys.create("alpha", "desk's \\ “first”")
    for one in (keys, open_keys()):
        found = one.find(raw.encode())
        assert found is not None
        assert (found.plan, found.label, found.created) == ("Alpha", "desk's \\ “first”", NOW)
        assert one.find(b"") is None
        assert one.find(raw.encode() + b"x") is None
        assert one.find(b"\xff\xfe") is None
    assert raw.startswith("ft_")
    assert len(raw) == 35


def test_the_file_holds_no_key_and_is_open_to_its_owner_alone(path: Path) -> None:
    keys = Keys(FileLedger(path))
    raw = keys.create("alpha")
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert raw[3:].encode() not in file.read_bytes()
    keys.close()
    path.chmod(0o644)
    FileLedger(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_store_holds_only_the_digest_of_a_key(store: str) -> None:
    keys = keys_of(Settings(store=store, keys="store:"))
    raw = keys.create("alpha", "desk")
    (key,) = keys.list()
    keys.revoke("desk")
    keys.close()
    link = Link(parse(store))
    rows = link.ask(f"SELECT * FROM {parse(store).database}.keys ORDER BY revoked").rows(named=True)
    link.close()
    digest = hashlib.sha256(raw.encode()).hexdigest()
    assert [row["digest"] for row in rows] == [digest, ""]
    assert [row["revoked"] > 0 for row in rows] == [False, True]
    kept = {name: value for name, value in rows[0].items() if name not in ("digest", "revoked")}
    assert kept == {"id": key.id, "plan": "Alpha", "label": "desk", "created": key.created}


def test_only_ephemeral_keys_end_with_the_process(open_keys: Open) -> None:
    keys = open_keys()
    raw, gone = keys.create("growth"), keys.add_ephemeral("alpha")
    assert keys.find(gone.encode()) is not None
    keys.reload()
    assert keys.find(gone.encode()) is not None
    assert keys.find(raw.encode()) is not None
    keys.close()
    again = open_keys()
    assert again.find(raw.encode()) is not None
    assert again.find(gone.encode()) is None


def test_revoke_by_id_or_label(open_keys: Open) -> None:
    keys = open_keys()
    first, second = keys.create("alpha", "one"), keys.create("alpha")
    other = keys.find(second.encode())
    assert other is not None
    assert keys.revoke("one").label == "one"
    assert keys.find(first.encode()) is None
    keys.revoke(other.id)
    assert keys.list() == open_keys().list() == []
    for name in ("one", other.id, ""):
        with pytest.raises(UsageError, match=f"label '{name}'"):
            keys.revoke(name)


def test_a_label_is_unique_among_valid_keys(open_keys: Open) -> None:
    keys, other = open_keys(), open_keys()
    for plan in ("alpha", "basic"):
        raw = keys.create(plan, "desk").encode()
        for one in (keys, other):
            with pytest.raises(UsageError, match="'desk'"):
                one.create("growth", "desk")
        keys.create("growth", "")
        assert [key.label for key in open_keys().list()].count("desk") == 1
        assert keys.find(raw)
        other.revoke("desk")


def test_only_one_of_concurrent_keys_gets_a_label(open_keys: Open) -> None:
    many = [open_keys() for _ in range(4)]
    start = threading.Barrier(len(many))

    def take(keys: Keys) -> str | None:
        start.wait()
        try:
            return keys.create("alpha", "desk")
        except UsageError:
            return None

    for _ in range(2):
        with ThreadPoolExecutor(len(many)) as pool:
            taken = [raw for raw in pool.map(take, many) if raw]
        assert len(taken) == 1
        seen = open_keys()
        assert [key.label for key in seen.list()] == ["desk"]
        assert seen.find(taken[0].encode())
        seen.revoke("desk")


def test_plan_names_are_accepted_in_any_case() -> None:
    assert plan_named(" aLPHa ") == "Alpha"
    with pytest.raises(UsageError, match="'gold'; plans are Free, Basic"):
        plan_named("gold")


@pytest.mark.parametrize("content", [b"not a database" * 100, None])
def test_a_foreign_key_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file"
    path.mkdir() if content is None else path.write_bytes(content)
    for opened in (FileLedger, FileCounts):
        with pytest.raises(StoreError, match="the file of keys and counts"):
            opened(path)


def test_a_store_without_a_table_of_keys_is_refused(store: str) -> None:
    link = Link(parse(store))
    link.run(f"DROP TABLE {parse(store).database}.keys")
    link.close()
    with pytest.raises(StoreError, match="no table of keys; `flowtape store migrate` makes it"):
        keys_of(Settings(store=store, keys="store:"))


def test_a_silent_store_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowtape.server.auth.keystore.PATIENCE", 1)
    with http_engine(tmp_path) as (process, port):
        address = f"clickhouse://127.0.0.1:{port}/flow"
        open_store(address).close()
        keys = keys_of(Settings(store=address, keys="store:"))
        raw = keys.create("alpha").encode()
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreError, match="timed out"):
            keys.reload()
        assert keys.find(raw)
        keys.close()


def test_an_invalid_place_of_keys_is_named(tmp_path: Path) -> None:
    for settings, what in (
        (
            Settings(store="x.duckdb", keys="store:"),
            "setting keys cannot be 'store:' with the store 'x.duckdb'",
        ),
        (Settings(store="clickhouse://h/flow", keys="store:keys"), "setting keys takes"),
        (Settings(keys="clickhouse://flow:hush@h/flow"), "setting keys takes"),
    ):
        with pytest.raises(UsageError) as caught:
            check_place(settings)
        assert what in str(caught.value)
        assert "hush" not in str(caught.value)
    command = [sys.executable, "-m", "flowtape", "serve", "--store", "x.duckdb", "--port", "0"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"FLOWTAPE_KEYS": "store:"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "setting keys cannot be 'store:'" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def open_file(path: Path) -> Iterator[Callable[[], tuple[Keys, Usage]]]:
    opened: list[tuple[Keys, Usage]] = []

    def make() -> tuple[Keys, Usage]:
        opened.append((Keys(FileLedger(path), lambda: NOW), Usage(FileCounts(path))))
        return opened[-1]

    yield make
    for pair in opened:
        for one in pair:
            one.close()


Files = Callable[[], tuple[Keys, Usage]]


def test_a_limit_is_exact_across_processes_that_share_the_file(open_file: Files) -> None:
    (keys, one), (_, two) = open_file(), open_file()
    key = keys.find(keys.create("free").encode())
    assert key is not None
    spent = [(one, two)[turn % 2].spend(key, TODAY, 5) for turn in range(8)]
    assert spent == [True] * 5 + [False] * 3
    assert one.used(key, TODAY) == two.used(key, TODAY) == 5
    assert one.spend(key, TODAY + 1, 5)
    assert one.used(key, TODAY + 1) == 1


def test_a_limited_count_survives_a_kill(open_file: Files, path: Path) -> None:
    program = f"""
import os, signal
from flowtape.server.auth.keys import keys_of
from flowtape.server.auth.usage import usage_of
from flowtape.settings import Settings
settings = Settings(keys={str(path)!r})
keys, usage = keys_of(settings), usage_of(settings)
key = keys.find(keys.create("free", "k").encode())
for _ in range(3):
    usage.spend(key, {TODAY}, 5)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    keys, usage = open_file()
    assert usage.used(keys.list()[0], TODAY) == 3


def test_a_kill_loses_at_most_one_reservation(open_file: Files, path: Path) -> None:
    program = f"""
import os, signal
from flowtape.server.auth.keys import keys_of
from flowtape.server.auth.usage import usage_of
from flowtape.settings import Settings
settings = Settings(keys={str(path)!r})
keys, usage = keys_of(settings), usage_of(settings)
key = keys.list()[0]
print(sum(usage.spend(key, {TODAY}, 2000) for _ in range(777)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    keys, usage = open_file()
    keys.create("free", "k")
    key = keys.list()[0]
    granted = 0
    for kills in range(1, 4):
        done = subprocess.run([sys.executable, "-c", program], check=False, stdout=subprocess.PIPE)
        granted += int(done.stdout)
        counted = Usage(FileCounts(path))
        assert granted <= counted.used(key, TODAY) <= min(granted + kills * MOST_RESERVED, 2000)
        counted.close()
    assert usage.spend(key, TODAY, 2000) is False


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=30, deadline=None)
def test_servers_sharing_a_file_grant_exactly_the_limit(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys"
        servers = [Usage(FileCounts(path)) for _ in range(3)]
        key = Key(id="k", plan="Free", label="", created=0)
        limit = data.draw(st.integers(1, 700))
        granted = 0
        for _ in range(data.draw(st.integers(1, 20))):
            server = data.draw(st.sampled_from(servers))
            granted += sum(server.spend(key, TODAY, limit) for _ in range(data.draw(st.integers(1, 90))))
            if data.draw(st.booleans()):
                server.flush()
        assert granted <= limit
        for server in servers:
            server.flush()
        for server in servers:
            while server.spend(key, TODAY, limit):
                granted += 1
            server.flush()
        assert granted == limit
        for server in servers:
            server.close()


def test_unlimited_and_ephemeral_counts(open_file: Files) -> None:
    keys, usage = open_file()
    key = keys.find(keys.create("alpha").encode())
    gone = keys.find(keys.add_ephemeral("alpha").encode())
    assert key
    assert gone
    for _ in range(3):
        usage.count(key, TODAY)
        usage.count(gone, TODAY)
    assert usage.used(key, TODAY) == usage.used(gone, TODAY) == 3
    usage.flush()
    assert usage.used(key, TODAY) == 3
    usage.count(key, TODAY)
    usage.close()
    _, again = open_file()
    assert again.used(key, TODAY) == 4
    assert again.used(gone, TODAY) == 0
    assert [again.spend(gone, TODAY, 2) for _ in range(3)] == [True, True, False]


def test_keys_in_the_store_are_counted_in_a_file_of_the_node(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(store=store, keys="store:")
    keys = keys_of(settings)
    key = keys.find(keys.create("free", "desk").encode())
    keys.close()
    assert key
    assert listed(settings) == [key.id, "0", "desk"]
    assert list(tmp_path.iterdir()) == []
    usage = usage_of(settings)
    today = time.time_ns() // DAY
    assert [usage.spend(key, today, 2) for _ in range(3)] == [True, True, False]
    assert listed(settings) == [key.id, "2", "desk"]
    usage.close()
    assert {file.name for file in tmp_path.iterdir()} == {"flowtape.counts"}


def listed(settings: Settings) -> list[str]:
    """Return what `flowtape keys list` prints of the only key: its id, its requests today, its label."""
    words = ["keys", "list", "--store", settings.store]
    done = CliRunner(env={"FLOWTAPE_KEYS": settings.keys}).invoke(commands, words, catch_exceptions=False)
    name, _, _, used, label = done.stdout.split()
    return [name, used, label]


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


def watched(watch: Callable[[], Awaitable[None]], during: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        watching = asyncio.ensure_future(watch())
        await asyncio.wait_for(during(), 5)
        watching.cancel()

    asyncio.run(main())


def test_another_process_makes_and_revokes_within_a_second(open_keys: Open) -> None:
    keys, other = open_keys(), open_keys()

    async def during() -> None:
        raw = other.create("alpha", "new").encode()
        await asyncio.wait_for(until(lambda: keys.find(raw) is not None), 1)
        other.revoke("new")
        await asyncio.wait_for(until(lambda: keys.find(raw) is None), 1)

    watched(keys.watch, during)


def test_counts_are_written_while_watching(open_file: Files) -> None:
    keys, usage = open_file()
    key = keys.find(keys.create("alpha").encode())
    assert key
    usage.count(key, TODAY)

    async def during() -> None:
        await until(lambda: open_file()[1].used(key, TODAY) == 1)

    watched(usage.watch, during)


def test_counts_wait_while_the_file_is_held(open_file: Files, path: Path) -> None:
    keys, usage = open_file()
    key = keys.find(keys.create("alpha").encode())
    assert key
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    usage.count(key, TODAY)
    with pytest.raises(StoreError, match="locked"):
        asyncio.run(usage._write_aside())
    with pytest.raises(StoreError, match="locked"):
        usage.spend(key, TODAY, 5)
    holder.execute("ROLLBACK")
    usage.flush()
    assert open_file()[1].used(key, TODAY) == 1
    holder.close()
