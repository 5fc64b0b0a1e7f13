import asyncio
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flowtape.api.keyfile import FileCounts, FileLedger
from flowtape.api.keys import Keys, Ledger, plan_named
from flowtape.api.usage import DAY, Usage
from flowtape.errors import StoreError, UsageError

TODAY = 20_000
NOW = TODAY * DAY + 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "flow.duckdb.keys"


@pytest.fixture
def ledger(path: Path) -> Callable[[], Ledger]:
    """Opens one and the same place of keys, as one process after another would."""
    return lambda: FileLedger(path)


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


def test_a_key_is_found_by_what_was_shown_once(open_keys: Open) -> None:
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


def test_keys_outlive_the_process_but_for_the_ephemeral(open_keys: Open) -> None:
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


def test_a_label_is_taken_once_until_its_key_is_revoked(open_keys: Open) -> None:
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


def test_of_many_who_take_a_label_at_the_same_instant_one_does(open_keys: Open) -> None:
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


def test_a_plan_is_named_in_any_case() -> None:
    assert plan_named(" aLPHa ") == "Alpha"
    with pytest.raises(UsageError, match="'gold'; plans are Free, Basic"):
        plan_named("gold")


@pytest.mark.parametrize("content", [b"not a database" * 100, None])
def test_a_file_that_is_none_of_ours(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file"
    path.mkdir() if content is None else path.write_bytes(content)
    for opened in (FileLedger, FileCounts):
        with pytest.raises(StoreError, match="the file of keys and counts"):
            opened(path)


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
from flowtape.api.keys import keys_of
from flowtape.api.usage import usage_of
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
