"""Faults of the machine, made on purpose: a full disk, a store that is none, a process killed and told to read keys."""

import os
import resource
import signal
import subprocess
import sys
import threading
from datetime import date
from pathlib import Path

import httpx
import pytest

from flowtape.engine import Engine
from flowtape.feeds.simulate import Market, write_tape
from flowtape.readers import Options, open_tapes
from flowtape.store import open_store
from test_kill import CHILD, assert_states, state

FLOWTAPE = Path(sys.executable).with_name("flowtape")
LIMIT = 30


@pytest.fixture(scope="module")
def tape(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults") / "tape.parquet"
    write_tape(Market(seed=5), date(2026, 5, 12), path, rows=40_000)
    return path


def taken(tape, path):
    store = open_store(path)
    for one in open_tapes([tape], options=Options()):
        Engine(store).ingest(one)
    store.close()


def test_a_disk_that_is_full_keeps_the_last_commit_and_goes_on_later(tape, tmp_path):
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
def test_a_store_that_is_broken_is_named_and_left_as_it_is(tape, tmp_path, harm):
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


class Served:
    """`flowtape serve` as a process of its own."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [FLOWTAPE, "serve", "--port", "0", "--log-format", "json", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        first = self.process.stdout.readline()
        self.url = first.split(" at ")[1].split()[0]
        self.log, self._heard = [], threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            with self._heard:
                self.log.append(line)
                self._heard.notify_all()

    def await_log(self, text):
        with self._heard:
            assert self._heard.wait_for(lambda: any(text in line for line in self.log), LIMIT)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        code = self.process.wait(LIMIT)
        self._reader.join(LIMIT)
        self.process.stdout.close()
        self.process.stderr.close()
        return code


def test_sighup_reads_the_keys_again(tmp_path):
    store = tmp_path / "x.duckdb"
    served = Served("--store", store)
    os.kill(served.process.pid, signal.SIGHUP)
    served.await_log("keys read again")
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


def test_a_replay_killed_and_gone_on_with_ends_as_an_undisturbed_run(tape, tmp_path):
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
