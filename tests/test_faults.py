"""Faults of the machine, made on purpose: a full disk, a store that is none, or may not be written, or is taken away,
a process killed and told to read keys."""

import os
import resource
import signal
import subprocess
import sys
import time
from datetime import date

import httpx
import pytest

from flowtape.pipeline.ingestor import Ingestor
from flowtape.readers import Options, open_tapes
from flowtape.simulation.tape import Market, write_tape
from flowtape.storage import open_store
from processes import FLOWTAPE, LIMIT, Served, held_to_permissions
from test_kill import CHILD, assert_states, state


@pytest.fixture(scope="module")
def tape(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults") / "tape.parquet"
    write_tape(Market(seed=5), date(2026, 5, 12), path, rows=40_000)
    return path


def taken(tape, path):
    store = open_store(path)
    for one in open_tapes([tape], options=Options()):
        Ingestor(store).ingest(one)
    store.close()


def test_a_full_disk_keeps_the_last_commit(tape, tmp_path):
    taken(tape, tmp_path / "whole.duckdb")

    def full():
        # A file that may not grow fails as a full disk does, to this process alone.
        resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    store = tmp_path / "x.duckdb"
    child = subprocess.run([sys.executable, CHILD, tape, store, "1500"], check=False, preexec_fn=full,
                           capture_output=True, text=True)  # fmt: skip
    assert child.returncode != 0
    assert "StoreError" in child.stderr
    subprocess.run([sys.executable, CHILD, tape, store, "1500"], check=True, capture_output=True)
    assert_states(state(store), state(tmp_path / "whole.duckdb"))


@pytest.mark.parametrize("harm", ["cut", "garbage"])
def test_a_broken_store_is_named_and_unchanged(tape, tmp_path, harm):
    store = tmp_path / "x.duckdb"
    taken(tape, store)
    whole = store.read_bytes()
    broken = whole[:10_000] if harm == "cut" else b"\x5a" * 8192 + whole[8192:]
    store.write_bytes(broken)
    done = subprocess.run([FLOWTAPE, "serve", "--store", store, "--port", "0"], check=False,
                          capture_output=True, text=True, timeout=LIMIT)  # fmt: skip
    assert done.returncode == 5
    assert "x.duckdb" in done.stderr
    assert "Traceback" not in done.stderr
    assert store.read_bytes() == broken


def test_a_read_only_store_can_still_be_queried(tape, tmp_path):
    store = tmp_path / "x.duckdb"
    taken(tape, store)
    before = store.read_bytes()
    store.chmod(0o444)
    tmp_path.chmod(0o555)
    commands = {
        ("serve", "--port", "0"): 5,
        ("ingest", str(tape)): 5,
        ("cumulative", "SPY", "--at", "2026-05-12T20:00:00Z"): 0,
    }
    try:
        for command, code in commands.items():
            done = subprocess.run([FLOWTAPE, *command, "--store", store], check=False, capture_output=True,
                                  text=True, timeout=LIMIT, preexec_fn=held_to_permissions)  # fmt: skip
            assert done.returncode == code, done.stderr
            assert code == 0 or "x.duckdb: cannot be opened" in done.stderr
            assert "Traceback" not in done.stderr
            assert code or len(done.stdout.splitlines()) > 10
    finally:
        tmp_path.chmod(0o755)
    assert store.read_bytes() == before


def test_sighup_reads_the_keys_again(tmp_path):
    store = tmp_path / "x.duckdb"
    served = Served("--store", store)
    os.kill(served.process.pid, signal.SIGHUP)
    served.await_log("keys reloaded on request")
    assert served.end() == 0


def test_a_removed_store_refuses_answers_until_it_returns(tape, tmp_path):
    store, away = tmp_path / "x.duckdb", tmp_path / "away.duckdb"
    taken(tape, store)
    served = Served("--store", store)
    statuses = {}
    for what, one, other in (("there", None, None), ("away", store, away), ("back", away, store)):
        if one is not None:
            one.rename(other)
        wanted = 503 if what == "away" else 200
        deadline = time.monotonic() + LIMIT
        while (found := httpx.get(served.url + "/health").status_code) != wanted:
            assert time.monotonic() < deadline, found
        statuses[what] = found
    assert statuses == {"there": 200, "away": 503, "back": 200}
    assert served.end() == 0


def kept_prints(served):
    """Live prints that a server has committed since it began."""
    for line in httpx.get(served.url + "/metrics").text.splitlines():
        if line.startswith("flowtape_prints_total "):
            return int(float(line.split()[1]))
    return 0


def in_store(path):
    kept = open_store(path, read_only=True)
    count = kept._frame("SELECT count(*) n FROM print_rows").item()
    kept.close()
    return count


def test_a_killed_replay_resumes_to_the_same_result(tape, tmp_path):
    taken(tape, tmp_path / "whole.duckdb")
    store, have = tmp_path / "x.duckdb", 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, None):
        served = Served("--store", store, "--feed", f"replay:{tape}?speed=5000")
        wanted = 1 if number else 40_000 - have
        while kept_prints(served) < wanted:
            pass
        served.end(number or signal.SIGTERM)
        have = in_store(store)
    assert_states(state(store), state(tmp_path / "whole.duckdb"))
