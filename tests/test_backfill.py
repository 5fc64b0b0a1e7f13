"""Many files by many workers: planned, carried out, killed, ingested once."""

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import date, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from flowtape.cli import commands
from flowtape.errors import StoreError, TapeError, UsageError
from flowtape.pipeline.backfill import backfill, plan
from flowtape.pipeline.backfill.files import File, Reading, find, units_of
from flowtape.pipeline.backfill.pools import Dask, Failed, Here, Processes
from flowtape.pipeline.backfill.tasks import Place
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.rebuild import wrong_minutes
from flowtape.readers import open_tapes
from flowtape.simulation.tape import Market, write_tape
from flowtape.storage import open_store
from stores import OWN_NUMBERS, every_print, over_http, until
from test_ingestor import from_store

FIRST = date(2026, 4, 13)
DAYS = [FIRST + timedelta(days=7 * week + day) for week in range(4) for day in range(5)]
ROWS = 250


@pytest.fixture(scope="module")
def month(tmp_path_factory):
    """Twenty simulated days, one file each and two for the last, and the store of one process that ingested them."""
    folder = tmp_path_factory.mktemp("month")
    for seed, day in enumerate(DAYS):
        write_tape(
            Market(seed=seed, underlyings=4), [day], folder / f"{day}.parquet", assets="both", rows=ROWS
        )
    again = Market(seed=99, underlyings=4)
    write_tape(again, DAYS[-2:], folder / "more.csv.gz", assets="both", rows=ROWS)
    embedded = open_store(folder / "one.duckdb")
    ingestor = Ingestor(embedded)
    for tape in open_tapes(
        [file.url for file in find([str(folder / "*.parquet"), str(folder / "more.csv.gz")])]
    ):
        ingestor.ingest(tape)
    yield folder, embedded
    embedded.close()


@pytest.fixture
def address(tmp_path):
    with over_http(tmp_path / "engine") as address:
        yield f"{address}/flow"


def sources(folder):
    return [str(folder / "*.parquet"), str(folder / "more.csv.gz")]


def same(store, embedded):
    """Return whether two stores have the same prints, minutes and sources, and give the same answers."""
    ours, theirs = (every_print(each).drop(*OWN_NUMBERS) for each in (store, embedded))
    assert ours.equals(theirs)
    assert (
        store.sources()
        .sort("asset", "symbol", "day")
        .equals(embedded.sources().sort("asset", "symbol", "day"))
    )
    at = embedded.span()[1] + 1
    for symbol in sorted(set(theirs["symbol"].cast(str))):
        assert from_store(store, symbol, at) == from_store(embedded, symbol, at)
    for day in (DAYS[0], *DAYS[-2:]):
        assert wrong_minutes(store, day) == (0, wrong_minutes(embedded, day)[1])


def unit(number):
    return (File(f"/{number}", 1, ""),)


@given(st.lists(st.sets(st.sampled_from(DAYS), max_size=3), max_size=12))
def test_no_two_tasks_share_a_day(asked):
    days = {unit(number): tuple(sorted(found)) for number, found in enumerate(asked)}
    tasks = plan(list(days), days)
    units = [one for task in tasks for one in task.units]
    assert (len(units), set(units)) == (len(days), set(days))
    told = [day for task in tasks for day in task.days]
    assert len(told) == len(set(told))
    for task in tasks:
        assert set(task.days) == {day for one in task.units for day in days[one]}
        assert task.units == sorted(task.units, key=list(days).index)
        # Tasks are no larger than necessary.
        left = list(task.units)
        seen, met = set(days[left[0]]), [left.pop(0)]
        while touching := [one for one in left if seen & set(days[one])]:
            met += touching
            left = [one for one in left if one not in touching]
            seen |= {day for one in touching for day in days[one]}
        assert not left
        assert len(met) == len(task.units)


def test_sources_name_files_urls_and_globs(tmp_path):
    for name in ("b.csv", "a.csv"):
        (tmp_path / name).write_text("x")
    (tmp_path / "c").mkdir()
    names = [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    assert [file.url for file in find([str(tmp_path / "*"), names[0]])] == names
    assert [file.url for file in find([f"file://{tmp_path}/*.csv"])] == [f"file://{name}" for name in names]
    for source, error, told in (
        (str(tmp_path / "d.csv"), TapeError, "d.csv: no such file"),
        (str(tmp_path / "c"), TapeError, "a folder"),
        (str(tmp_path / "*.x"), TapeError, "no file matches"),
        (f"file://{tmp_path}/*.x", TapeError, "no file matches"),
        (f"file://{tmp_path}/x.csv", TapeError, "no file matches"),
        ("nowhere://x/y", UsageError, "nowhere"),
        ("s3://desk/*.csv", UsageError, r"flowtape\[s3\]"),
    ):
        with pytest.raises(error, match=told):
            find([source])


def test_files_in_object_stores_are_grouped_by_date():
    files = [File(f"s3://desk/{name}", 1, "") for name in
             ("trades/2026-05-12.csv.gz", "trades/20260513.csv.gz", "x.csv", "quotes/2026-05-12.csv.gz")]  # fmt: skip
    found = units_of(files, Reading())
    assert [[file.url[10:] for file in one] for one in found] == [
        ["trades/2026-05-12.csv.gz", "quotes/2026-05-12.csv.gz"], ["trades/20260513.csv.gz"], ["x.csv"],
    ]  # fmt: skip


def test_a_second_run_ingests_missing_and_changed_files(tmp_path):
    tapes = [tmp_path / f"{day}.parquet" for day in DAYS[:2]]
    for tape, day in zip(tapes, DAYS, strict=False):
        write_tape(Market(seed=1, underlyings=2), [day], tape, rows=100)
    place, everything = Place(str(tmp_path / "flow.duckdb")), [f"file://{tmp_path}/*.parquet"]
    first = backfill(place, everything, Reading(), Here())
    assert [one.outcomes[0].added for one in first.done] == [100, 100]
    assert backfill(place, everything, Reading(), Here()).before == 2
    write_tape(Market(seed=2, underlyings=2), [DAYS[1]], tapes[1], rows=150)
    second = backfill(place, everything, Reading(), Here())
    assert (second.before, [one.outcomes[0].added for one in second.done]) == (1, [150])
    assert backfill(place, everything, Reading(source="another"), Here()).before == 0


def test_an_unreadable_file_does_not_stop_the_others(tmp_path):
    for seed, name in enumerate(("a.csv", "b.csv.gz", "c.csv")):
        write_tape(
            Market(seed=seed, underlyings=2),
            [DAYS[seed]],
            tmp_path / name,
            rows=60_000 if name == "b.csv.gz" else 100,
        )
    broken = tmp_path / "b.csv.gz"
    broken.write_bytes(broken.read_bytes()[:-5000])
    command = ["backfill", str(tmp_path / "*.csv*"), "--store", str(tmp_path / "flow.duckdb")]
    done = CliRunner().invoke(commands, command)
    assert isinstance(done.exception, TapeError)
    assert "b.csv.gz" in str(done.exception)
    assert "2 taken, 1 failed, 0 done before" in done.output
    broken.unlink()
    assert "0 taken, 0 failed, 2 done before" in CliRunner().invoke(commands, command).output
    # A file that is no tape by its beginning may hold another file's quotes, so nothing is ingested without it.
    (tmp_path / "d.csv").write_text("what is this?")
    done = CliRunner().invoke(commands, command)
    assert isinstance(done.exception, TapeError)
    assert "d.csv" in str(done.exception)


def test_a_store_of_one_process_has_one_worker(tmp_path):
    for more in (["--workers", "2"], ["--on", "dask://127.0.0.1:1"]):
        done = CliRunner().invoke(commands, ["backfill", "x", "--store", str(tmp_path / "a.duckdb"), *more])
        assert isinstance(done.exception, UsageError)
        assert more[0] in str(done.exception)


def fail_once(folder, number):
    """Fail at the first attempt."""
    try:
        Path(folder, str(number)).open("x").close()
    except FileExistsError:
        return number
    raise StoreError("cut")


def always_fail(number):
    raise StoreError("cut")


def kill_once(folder, number):
    """Kill the own process at the first attempt."""
    try:
        Path(folder, str(number)).open("x").close()
    except FileExistsError:
        return number
    os.kill(os.getpid(), signal.SIGKILL)
    return None


@pytest.mark.parametrize("pool", [Here, lambda: Processes(2)])
def test_a_failed_task_is_retried(pool, tmp_path):
    assert sorted(pool().run(fail_once, [(str(tmp_path), 1), (str(tmp_path), 2)])) == [(0, 1), (1, 2)]


@pytest.mark.parametrize("pool", [Here(1), Processes(1, 1)])
def test_a_task_that_always_fails_is_reported(pool):
    assert list(pool.run(always_fail, [(1,)])) == [(0, Failed("cut"))]


def test_a_pool_continues_after_a_worker_is_killed(tmp_path):
    assert sorted(Processes(2).run(kill_once, [(str(tmp_path), 1), (str(tmp_path), 2), (str(tmp_path), 3)])) == [
        (0, 1), (1, 2), (2, 3),
    ]  # fmt: skip


def test_a_pool_with_a_killed_worker_equals_one_process(month, address, tmp_path):
    folder, embedded = month
    store = open_store(address)
    command = [
        sys.executable,
        "-m",
        "flowtape",
        "backfill",
        *sources(folder),
        "--store",
        address,
        "--workers",
        "2",
    ]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as running:
        until(store.span)
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        workers = [pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(int(workers[-1]), signal.SIGKILL)
        summary = json.loads(running.communicate()[0])
        assert running.returncode == 0
    assert len(summary["done"]) == 21
    same(store, embedded)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == "0 taken, 0 failed, 21 done before\n"
    store.close()


def test_a_dask_cluster_with_a_killed_worker_equals_one_process(month, address):
    from distributed import Client, LocalCluster

    folder, embedded = month
    store = open_store(address)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
        victim = min(client.run(os.getpid).values())
        killed = []

        def kill():
            until(store.span)
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

        killer = threading.Thread(target=kill)
        killer.start()
        pool = Dask(cluster.scheduler_address)
        summary = backfill(Place(address), sources(folder), Reading(), pool)
        pool.close()
        killer.join()
    assert killed
    assert (len(summary.done), summary.failed) == (21, [])
    same(store, embedded)
    store.close()


def test_a_missing_scheduler_is_named():
    with pytest.raises(UsageError, match=r"127[.]0[.]0[.]1:1"):
        Dask("tcp://127.0.0.1:1", timeout=1)
