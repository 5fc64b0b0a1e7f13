import asyncio
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from flowtape.api.keys import DAY, Keys, plan_named
from flowtape.errors import StoreError, UsageError

TODAY = 20_000
NOW = TODAY * DAY + 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "flow.duckdb.keys"


Open = Callable[[Path], Keys]


@pytest.fixture
def open_keys() -> Iterator[Open]:
    opened: list[Keys] = []

    def make(path: Path) -> Keys:
        opened.append(Keys(path, lambda: NOW))
        return opened[-1]

    yield make
    for keys in opened:
        keys.close()


def test_a_key_is_found_by_what_was_shown_once(open_keys: Open, path: Path) -> None:
    keys = open_keys(path)
    raw = keys.create("alpha", "desk")
    found = keys.find(raw.encode())
    assert found is not None
    assert (found.plan, found.label, found.created) == ("Alpha", "desk", NOW)
    assert raw.startswith("ft_")
    assert len(raw) == 35
    assert keys.find(b"") is None
    assert keys.find(raw.encode() + b"x") is None
    assert keys.find(b"\xff\xfe") is None


def test_the_file_holds_no_key_and_is_open_to_its_owner_alone(open_keys: Open, path: Path) -> None:
    keys = open_keys(path)
    raw = keys.create("alpha")
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert raw[3:].encode() not in file.read_bytes()
    path.chmod(0o644)
    open_keys(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_outlive_the_process_but_for_the_ephemeral(open_keys: Open, path: Path) -> None:
    keys = open_keys(path)
    raw, gone = keys.create("growth"), keys.add_ephemeral("alpha")
    assert keys.find(gone.encode()) is not None
    keys.reload()
    assert keys.find(gone.encode()) is not None
    keys.close()
    again = open_keys(path)
    assert again.find(raw.encode()) is not None
    assert again.find(gone.encode()) is None


def test_revoke_by_id_or_label(open_keys: Open, path: Path) -> None:
    keys = open_keys(path)
    first, second = keys.create("alpha", "one"), keys.create("alpha")
    other = keys.find(second.encode())
    assert other is not None
    assert keys.revoke("one").label == "one"
    assert keys.find(first.encode()) is None
    keys.revoke(other.id)
    assert keys.list() == []
    for name in ("one", other.id, ""):
        with pytest.raises(UsageError, match=f"label '{name}'"):
            keys.revoke(name)


def test_a_label_is_taken_once_until_its_key_is_revoked(open_keys: Open, path: Path) -> None:
    keys = open_keys(path)
    keys.create("alpha", "desk")
    with pytest.raises(UsageError, match="'desk'"):
        keys.create("alpha", "desk")
    keys.revoke("desk")
    keys.create("basic", "desk")
    assert [key.plan for key in keys.list()] == ["Basic"]


def test_a_plan_is_named_in_any_case() -> None:
    assert plan_named(" aLPHa ") == "Alpha"
    with pytest.raises(UsageError, match="'gold'; plans are Free, Basic"):
        plan_named("gold")


@pytest.mark.parametrize("content", [b"not a database" * 100, None])
def test_a_file_that_is_none_of_ours(open_keys: Open, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(StoreError, match="the keys file"):
        open_keys(path)


def test_a_limit_is_exact_across_processes_that_share_the_file(open_keys: Open, path: Path) -> None:
    one, two = open_keys(path), open_keys(path)
    key = one.find(one.create("free").encode())
    assert key is not None
    spent = [(one, two)[turn % 2].spend(key, TODAY, 5) for turn in range(8)]
    assert spent == [True] * 5 + [False] * 3
    assert one.used(key, TODAY) == two.used(key, TODAY) == 5
    assert one.spend(key, TODAY + 1, 5)
    assert one.used(key, TODAY + 1) == 1


def test_a_limited_count_survives_a_kill(open_keys: Open, path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from flowtape.api.keys import Keys
keys = Keys(Path({str(path)!r}))
key = keys.find(keys.create("free", "k").encode())
for _ in range(3):
    keys.spend(key, {TODAY}, 5)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    keys = open_keys(path)
    assert keys.used(keys.list()[0], TODAY) == 3


def test_unlimited_and_ephemeral_counts(open_keys: Open, path: Path) -> None:
    keys = open_keys(path)
    key = keys.find(keys.create("alpha").encode())
    gone = keys.find(keys.add_ephemeral("alpha").encode())
    assert key
    assert gone
    for _ in range(3):
        keys.count(key, TODAY)
        keys.count(gone, TODAY)
    assert keys.used(key, TODAY) == keys.used(gone, TODAY) == 3
    keys.flush()
    assert keys.used(key, TODAY) == 3
    keys.count(key, TODAY)
    keys.close()
    again = open_keys(path)
    assert again.used(key, TODAY) == 4
    assert again.used(gone, TODAY) == 0
    assert [again.spend(gone, TODAY, 2) for _ in range(3)] == [True, True, False]


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


def watched(keys: Keys, during: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        watching = asyncio.create_task(keys.watch())
        await asyncio.wait_for(during(), 5)
        watching.cancel()

    asyncio.run(main())


def test_another_process_makes_and_revokes_within_a_second(open_keys: Open, path: Path) -> None:
    keys, other = open_keys(path), open_keys(path)

    async def during() -> None:
        raw = other.create("alpha", "new").encode()
        await asyncio.wait_for(until(lambda: keys.find(raw) is not None), 1)
        other.revoke("new")
        await asyncio.wait_for(until(lambda: keys.find(raw) is None), 1)

    watched(keys, during)


def test_counts_are_written_while_watching(open_keys: Open, path: Path) -> None:
    keys = open_keys(path)
    key = keys.find(keys.create("alpha").encode())
    assert key
    keys.count(key, TODAY)

    async def during() -> None:
        await until(lambda: open_keys(path).used(key, TODAY) == 1)

    watched(keys, during)


def test_counts_wait_while_the_file_is_held(open_keys: Open, path: Path) -> None:
    keys = open_keys(path)
    key = keys.find(keys.create("alpha").encode())
    assert key
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    keys.count(key, TODAY)
    with pytest.raises(StoreError, match="locked"):
        asyncio.run(keys._write_aside())
    with pytest.raises(StoreError, match="locked"):
        keys.spend(key, TODAY, 5)
    holder.execute("ROLLBACK")
    keys.flush()
    assert open_keys(path).used(key, TODAY) == 1
    holder.close()
