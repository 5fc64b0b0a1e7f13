"""Keys made, listed and revoked by commands beside a running server, on one file of keys."""

import os
import signal
import time
from contextlib import ExitStack, suppress

import httpx
import pytest

from flowtape.errors import TapeError
from flowtape.readers import open_tapes
from flowtape.server.auth.keyfile import FileCounts, FileLedger
from flowtape.server.auth.keys import Keys
from flowtape.storage import open_store
from processes import LIMIT, Served, command, held_to_permissions
from stores import until

SYMBOLS = "/v1/symbols"


@pytest.fixture
def store(tmp_path):
    return tmp_path / "x.duckdb"


@pytest.fixture
def serve(store):
    """Starts a server on the store; what a failed test leaves behind is killed."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Served("--store", store))


def ask(served, key):
    return httpx.get(served.url + SYMBOLS, headers={"X-Api-Key": key})


def settles(served, key, status, within=1.5):
    """Whether a key gets a status soon, and again after that."""
    end = time.monotonic() + within
    while ask(served, key).status_code != status:
        assert time.monotonic() < end, f"no {status} within {within} s"
    return ask(served, key).status_code == status


def open_files(served):
    folder = f"/proc/{served.process.pid}/fd"
    found = []
    for name in os.listdir(folder):
        # A connection may end between the list and the look.
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"{folder}/{name}"))
    return found


def clean(served):
    assert not any("disk I/O error" in line or "malformed" in line for line in served.log)


def test_keys_made_and_revoked_beside_a_server_count(store, serve):
    served = serve()
    made = []
    for turn in range(4):
        made.append(
            command("keys", "create", "--plan", "alpha", "--label", f"k{turn}", "--store", store).strip()
        )
        for key in made:
            assert settles(served, key, 200)
    listed = command("keys", "list", "--store", store)
    assert [line.split()[-1] for line in listed.splitlines()] == ["k0", "k1", "k2", "k3"]
    for turn in (1, 3):
        command("keys", "revoke", f"k{turn}", "--store", store)
        assert settles(served, made[turn], 401)
    assert [ask(served, key).status_code for key in made] == [200, 401, 200, 401]
    assert not [path for path in open_files(served) if "(deleted)" in path]
    assert served.end() == 0
    clean(served)


def test_a_free_key_keeps_its_limit_over_kill_and_restart(store, serve):
    served = serve()
    key = command("keys", "create", "--plan", "free", "--store", store).strip()
    other = command("keys", "create", "--plan", "free", "--label", "other", "--store", store).strip()
    assert settles(served, key, 200)
    assert settles(served, other, 200)
    used = 2
    while used < 5:
        assert ask(served, key).status_code == 200
        command("keys", "list", "--store", store)
        used += 1
    assert ask(served, key).status_code == 429
    assert served.end(signal.SIGKILL) == -signal.SIGKILL
    again = serve()
    assert settles(again, key, 429, within=20)
    assert ask(again, other).headers["x-ratelimit-remaining"] == "2"
    assert again.end() == 0
    clean(again)


def test_counts_of_an_unlimited_key_are_all_in_the_file(store, serve):
    served = serve()
    key = command("keys", "create", "--plan", "alpha", "--label", "desk", "--store", store).strip()
    assert settles(served, key, 200)
    asked = 2
    for _ in range(40):
        assert ask(served, key).status_code == 200
        asked += 1
        if asked % 10 == 0:
            command("keys", "create", "--plan", "free", "--store", store)

    def counted():
        (line,) = [line for line in command("keys", "list", "--store", store).splitlines() if "desk" in line]
        return int(line.split()[-2]) == asked

    until(counted, LIMIT)
    assert served.end() == 0
    assert counted()


def test_the_servers_store_is_refused_as_a_tape(store, serve):
    served = serve()
    key = command("keys", "create", "--plan", "alpha", "--store", store).strip()
    assert settles(served, key, 200)
    for name in (store, f"{store}.keys"):
        said = command("ingest", name, "--store", store, code=3)
        assert "is a database that this process has open" in said
    said = command("store", "check", "2026-05-12", "--store", store, code=5)
    assert "another process holds this store" in said
    again = command("keys", "create", "--plan", "alpha", "--label", "again", "--store", store).strip()
    assert settles(served, again, 200)
    assert settles(served, key, 200)
    assert served.end() == 0


def test_a_store_cannot_be_its_own_tape(tmp_path, store):
    kept = open_store(store)
    with pytest.raises(TapeError, match="database that this process has open"):
        open_tapes([store])
    kept.close()
    keys = Keys(FileLedger(tmp_path / "keys"))
    with pytest.raises(TapeError, match="database that this process has open"):
        open_tapes([tmp_path / "keys"], "table")
    keys.close()


def test_key_files_that_cannot_be_used_are_named(tmp_path, store):
    wide = tmp_path / "wide.keys"
    FileLedger(wide).close()
    wide.chmod(0o666)
    command("keys", "list", env=os.environ | {"FLOWTAPE_KEYS": str(wide)})
    assert wide.stat().st_mode & 0o777 == 0o600
    closed = tmp_path / "closed"
    closed.mkdir()
    FileCounts(closed / "kept.keys").close()
    shut = tmp_path / "shut.keys"
    FileLedger(shut).close()
    shut.chmod(0o400)
    corrupt = tmp_path / "corrupt.keys"
    corrupt.write_bytes(b"SQLite format 3\0" + b"\xa5" * 8000)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    closed.chmod(0o500)
    words = {
        closed / "new.keys": "Permission denied",
        closed / "kept.keys": "must be writable",
        shut: "must be writable",
        corrupt: "file is not a database",
        fifo: "not a regular file",
        tmp_path: "not a regular file",
    }
    try:
        for path, word in words.items():
            for arguments in (
                ("keys", "create", "--plan", "free"),
                ("serve", "--port", "0", "--store", store),
            ):
                env = os.environ | {"FLOWTAPE_KEYS": str(path)}
                said = command(*arguments, code=5, env=env, preexec_fn=held_to_permissions)
                assert str(path) in said, said
                assert word in said, said
    finally:
        closed.chmod(0o700)
