"""Names of embedded stores: which are refused, what mode their files have, and that nothing is fetched for them."""

import os
import sqlite3
import stat
from contextlib import closing

import pytest

from flowtape.errors import StoreError, UsageError
from flowtape.pipeline.ingestor import Ingestor
from flowtape.storage import open_store
from processes import command
from tapes import frame, row


@pytest.mark.parametrize(
    "name", ["sqlite:x", "md:x", "postgres:host=h", "MD:", "a.b-c:x", "http:x", "iceberg:x"]
)
def test_a_name_with_a_prefix_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prefix = name.partition(":")[0]
    for read_only in (False, True):
        with pytest.raises(UsageError, match=f"would be a store of the kind '{prefix}'"):
            open_store(name, read_only=read_only)
    assert list(tmp_path.iterdir()) == []
    open_store(f"./{name.replace('=', '')}").close()


@pytest.mark.parametrize("name", ["http://host/x", "https://h/x.duckdb", "s3://bucket/x", "md://x"])
def test_an_address_of_another_kind_is_refused(name):
    with pytest.raises(UsageError, match="is none of"):
        open_store(name)


COMMANDS = [
    ("ingest", "t.csv"),
    ("backfill", "t.csv"),
    ("serve", "--port", "0"),
    ("cumulative", "SPY", "--at", "2026-05-12T20:00:00Z"),
    ("rebuild", "2026-05-12"),
    ("report", "SPY", "--day", "2026-05-12", "--out", "r.html"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_no_command_takes_a_store_that_keeps_nothing(words, tmp_path):
    (tmp_path / "t.csv").write_text("ts,symbol,price,size\n2026-05-12T14:00:00Z,SPY,1,1\n")
    for name in (":memory:", "md:x"):
        said = command(*words, "--store", name, code=2, cwd=tmp_path)
        assert "store: " in said
        assert name in said
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_a_store_is_its_owner_s_alone(tmp_path):
    before = os.umask(0o022)
    try:
        store = open_store(tmp_path / "x.duckdb")
        Ingestor(store).take(frame([row()]), "test")
        files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert files == {"x.duckdb": 0o600, "x.duckdb.wal": 0o600}
        # Other files of the process are as before.
        (tmp_path / "other").touch()
        assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o644
        store.close()
    finally:
        assert os.umask(before) == 0o022


def test_a_device_is_no_store_and_gets_no_keys():
    assert "it is not a regular file" in command("keys", "list", "--store", "/dev/zero", code=5)
    assert not os.path.exists("/dev/zero.keys")


def test_an_sqlite_file_is_named_as_one(tmp_path):
    with closing(sqlite3.connect(tmp_path / "keys")) as db:
        db.execute("CREATE TABLE keys (id TEXT)")
    with pytest.raises(StoreError, match="keys: cannot be opened as a store: it is an SQLite file"):
        open_store(tmp_path / "keys")
