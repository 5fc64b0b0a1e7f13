"""Commands refuse pipes, devices and huge files in place of small files."""

import os

import pytest

from flowtape.errors import TapeError, UsageError
from flowtape.feeds.credentials import key_of
from flowtape.files import MOST_TEXT
from flowtape.readers import open_tapes
from processes import command

HEADER = "ts,symbol,price,size\n"


@pytest.fixture(params=["fifo", "/dev/zero", "huge"])
def odd(request, tmp_path):
    path = tmp_path / "odd"
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "huge":
        with path.open("wb") as file:
            file.truncate(2**34)
    return request.param if request.param.startswith("/") else str(path)


def reason(odd):
    return f"larger than {MOST_TEXT:,} bytes" if os.path.isfile(odd) else "is not a regular file"


def test_an_unreadable_mapping_ends_the_command(odd, tmp_path):
    tape = tmp_path / "tape.csv"
    tape.write_text(HEADER)
    store = tmp_path / "x.duckdb"
    for name in ("ingest", "backfill"):
        said = command(name, tape, "--format", "table", "--mapping", odd, "--store", store, code=2)
        assert reason(odd) in said


def test_an_unreadable_settings_file_ends_the_command(odd, tmp_path):
    said = command("keys", "list", code=2, cwd=tmp_path, env=os.environ | {"FLOWTAPE_CONFIG": odd})
    assert reason(odd) in said
    command("keys", "list", cwd=tmp_path, env=os.environ | {"FLOWTAPE_CONFIG": os.devnull})


@pytest.mark.parametrize("odd", ["fifo", "/dev/zero"], indirect=True)
def test_a_tape_or_store_must_be_a_regular_file(odd, tmp_path):
    for given in ((), ("--format", "table"), ("--format", "databento")):
        said = command("ingest", odd, *given, "--store", tmp_path / "x.duckdb", code=3)
        assert "is not a regular file" in said
    said = command("cumulative", "SPY", "--tape", odd, code=3)
    assert "is not a regular file" in said
    tape = tmp_path / "tape.csv"
    tape.write_text(HEADER)
    for words in (("ingest", tape), ("cumulative", "SPY"), ("serve", "--port", "0")):
        assert "it is not a regular file" in command(*words, "--store", odd, code=5)


def test_an_unreadable_credential_is_refused(odd, monkeypatch):
    monkeypatch.setenv("SOME_KEY_FILE", odd)
    with pytest.raises(UsageError, match=reason(odd)):
        key_of("SOME_KEY", "some")


def test_a_read_error_of_a_tape_is_reported():
    # A read of memory at address 0 fails like a read of a bad disk.
    with pytest.raises(TapeError, match="mem: cannot be read: Input/output error"):
        open_tapes(["/proc/self/mem"])
