"""A server that is told to end while its store cannot be written ends soon, and says what it could not keep."""

import signal
import time

from processes import FLOWTAPE, Served

LIMIT = 30


def small_files(kib, *words):
    """A command whose files may not grow beyond a size, as on a disk that is full. Python ignores the signal of it."""
    # The shells differ in the unit of `ulimit -f`, so prlimit sets it, in bytes.
    return ("prlimit", f"--fsize={kib * 1024}", FLOWTAPE, *words)


def test_a_server_with_an_unwritable_store_ends_in_bounded_time(tmp_path):
    store = tmp_path / "x.duckdb"
    words = ("serve", "--simulate", "--port", "0", "--log-format", "json")
    with Served("--store", store, program=small_files(3000, *words)) as served:
        served.await_log("live prints cannot be stored, retrying")
        began = time.monotonic()
        code = served.end(signal.SIGTERM)
        assert time.monotonic() - began < LIMIT
        assert code == 5
        last = served.log[-1]
        assert last.startswith("error: ")
        assert "live prints could not be stored" in last
        assert "fetch them again from the last commit" in last
