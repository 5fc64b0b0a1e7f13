"""The store that tests run over: DuckDB; chDB where FLOWTAPE_TEST_STORE is `chdb`; the ClickHouse server whose address
FLOWTAPE_TEST_CLICKHOUSE is."""

import atexit
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from flowtape.storage import open_store

ENGINE = os.environ.get("FLOWTAPE_TEST_CLICKHOUSE") or os.environ.get("FLOWTAPE_TEST_STORE", "duckdb")


@cache
def chdb_folder():
    """The folder of this process: the engine holds one at a time."""
    folder = tempfile.mkdtemp(prefix="flowtape-chdb-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def name_of(path, engine=ENGINE):
    """A store's name for a test's own path: a file, or a database named after it."""
    if engine == "duckdb":
        return str(path)
    database = "t" + hashlib.sha256(os.fsencode(Path(path).resolve())).hexdigest()[:24]
    if engine == "chdb":
        return f"chdb://{chdb_folder()}?database={database}"
    return f"{engine.rstrip('/')}/{database}"


def make_store(path, engine=ENGINE, **options):
    """The store of a path, made where there is none."""
    return open_store(name_of(path, engine), **options)


def examples(many):
    """How many examples a property is given: a store of the other engine takes a second to make."""
    return many if ENGINE == "duckdb" else max(2, many // 10)


OWN_NUMBERS = ("series", "symbol_id", "print_id")
"""Columns of `every_print` that each store numbers in its own way."""


def every_print(store):
    """All prints of a store with `removed_at`, in order of what makes each itself, prices in 1/10,000 USD."""
    store.point()  # its series are in the catalog then
    series = store.catalog.series["series"]
    return store.catalog.decode(store.prints(series, 0, 2**62)).sort(
        "seq", "ts", "venue", "symbol", "expiry", "right", "strike"
    )


@contextmanager
def http_engine(folder, port=0, shards=0):
    """chDB in a folder behind ClickHouse's HTTP interface: a process of its own, killed at the end, and its port. With
    `shards` it has a cluster `desk` of so many."""
    command = [sys.executable, Path(__file__).with_name("http_engine.py"), folder, str(port), str(shards)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as made:
        try:
            yield made, int(made.stdout.readline())
        finally:
            made.kill()


@contextmanager
def over_http(folder, shards=0):
    """The address of such an engine."""
    with http_engine(folder, shards=shards) as (_, port):
        yield f"clickhouse://127.0.0.1:{port}"


def until(question, seconds=90):
    """Ask until the answer is true."""
    end = time.monotonic() + seconds
    while not (found := question()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return found
