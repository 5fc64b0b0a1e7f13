"""Repeated kill -9 during an ingest: the store equals that of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

import polars as pl
from polars.testing import assert_frame_equal

from flowtape.pipeline.ingestor import Ingestor
from flowtape.readers import Options, open_tapes
from flowtape.simulation.tape import Market, write_tape
from flowtape.storage import open_store

KILLS = int(os.environ.get("FLOWTAPE_TEST_KILLS", "3"))
SEED = int(os.environ.get("FLOWTAPE_TEST_SEED", "20260512"))
CHILD = Path(__file__).with_name("ingest_child.py")


def state(path):
    """Return everything that answers depend on, in one order, without print ids, which differ between runs."""
    store = open_store(path, read_only=True)
    try:
        return [
            store._frame(f"SELECT COLUMNS(lambda c: c != 'print_id') FROM {view}").sort(pl.all())
            for view in ("prints", "minutes", "removals", "sources")
        ]
    finally:
        store.close()


def test_a_killed_and_resumed_ingest_equals_an_undisturbed_one(tmp_path):
    tape = tmp_path / "tape.parquet"
    write_tape(Market(seed=3), date(2026, 5, 12), tape, rows=60_000)
    whole = open_store(tmp_path / "whole.duckdb")
    for one in open_tapes([tape], options=Options()):
        Ingestor(whole).ingest(one)
    whole.close()

    chance = random.Random(SEED)
    store = tmp_path / "killed.duckdb"
    kills, held = 0, 0
    while kills < KILLS:
        child = subprocess.Popen(
            [sys.executable, CHILD, tape, store, "1500"], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        try:
            # A random instant, not a wait for a state.
            child.wait(timeout=chance.uniform(0, 0.6))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        code = child.wait()
        child.stdout.close()
        if code == 0:
            # The ingest ended before the kill: begin again, so that every kill hits a running ingest.
            assert_states(state(store), state(tmp_path / "whole.duckdb"))
            store.unlink()
            held = 0
            continue
        assert code == -signal.SIGKILL
        kills += 1
        kept = open_store(store)
        now = kept._frame("SELECT count(*) n FROM print_rows").item()
        kept.close()
        assert now >= held, "a commit that was there is gone"
        held = now
    done = subprocess.run(
        [sys.executable, CHILD, tape, store, "1500"], check=True, capture_output=True, text=True
    )
    assert done.stdout == "begun\n"
    assert_states(state(store), state(tmp_path / "whole.duckdb"))


def assert_states(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert_frame_equal(one, other)
