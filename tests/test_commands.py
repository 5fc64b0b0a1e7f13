"""The program as a user meets it: commands, exit codes, a server, and both at once."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta

import httpx
import polars as pl
import pytest

from flowtape.simulation.tape import Market, write_tape

DAY = date(2026, 5, 12)
AT = "2026-05-12T20:00:00Z"


def flowtape(*words, cwd, **more):
    return subprocess.run(
        [sys.executable, "-m", "flowtape", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        **more,
    )


@contextlib.contextmanager
def served(*words, cwd, env=None):
    """A server as a process of its own: yields the process, its address and its first lines."""
    command = [sys.executable, "-m", "flowtape", "serve", "--port", "0", *map(str, words)]
    server = subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        said = []
        for line in server.stdout:
            said.append(line)
            if line.startswith("curl"):
                break
        else:
            pytest.fail(f"the server did not start: {server.stderr.read()}")
        address = re.search(r"http://[\d.:]+", said[0]).group()
        yield server, address, said
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)


def until(what, seconds=60):
    """Ask again until it is true; the only waiting in these tests, and never for a fixed time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.02)
    return pytest.fail("it did not come true in time")


@pytest.fixture(scope="module")
def tape(tmp_path_factory):
    path = tmp_path_factory.mktemp("tape") / "day.parquet"
    write_tape(Market(seed=9, underlyings=5), DAY, path, rows=40_000)
    return path


def test_ingest_ask_and_rebuild(tape, tmp_path):
    done = flowtape("ingest", tape, "--store", "x.duckdb", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "simulated" in done.stdout
    assert "40,000 new" in done.stdout
    again = flowtape("ingest", tape, "--store", "x.duckdb", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)[0]["duplicates"] == 40_000
    as_json = flowtape(
        "cumulative",
        "spy",
        "--at",
        AT,
        "--minutes",
        "390",
        "--as",
        "json",
        "--store",
        "x.duckdb",
        cwd=tmp_path,
    )
    body = json.loads(as_json.stdout)
    assert body["symbol"] == "SPY"
    assert body["count"] > 300
    as_csv = flowtape(
        "cumulative", "SPY", "--at", AT, "--minutes", "390", "--store", "x.duckdb", cwd=tmp_path
    )
    assert len(as_csv.stdout.splitlines()) == body["count"] + 1
    of_tape = flowtape("cumulative", "SPY", "--at", AT, "--minutes", "390", "--tape", tape, cwd=tmp_path)
    assert of_tape.stdout == as_csv.stdout
    table = flowtape(
        "cumulative",
        "SPY",
        "--at",
        AT,
        "--minutes",
        "5",
        "--as",
        "table",
        "--store",
        "x.duckdb",
        cwd=tmp_path,
    )
    assert "(simulated)" in table.stdout
    rebuilt = flowtape("rebuild", DAY, "--store", "x.duckdb", cwd=tmp_path)
    assert rebuilt.returncode == 0
    after = flowtape("cumulative", "SPY", "--at", AT, "--minutes", "390", "--store", "x.duckdb", cwd=tmp_path)
    assert after.stdout == as_csv.stdout


def test_a_stacked_rule_needs_a_tape(tape, tmp_path):
    told = flowtape(
        "cumulative",
        "SPY",
        "--at",
        AT,
        "--minutes",
        "3",
        "--tape",
        tape,
        "--rule",
        "quote,tick",
        cwd=tmp_path,
    )
    assert told.returncode == 0
    assert len(told.stdout.splitlines()) == 4
    refused = flowtape("cumulative", "SPY", "--rule", "lr", cwd=tmp_path)
    assert refused.returncode == 2
    assert "'lr'" in refused.stderr


def test_a_tape_asked_alone_warns_in_plain_words(tmp_path):
    (tmp_path / "x.csv").write_text(
        "ts,symbol,price,size,bid,ask\n2026-05-12T14:00:00Z,A,1,1,,\n2026-05-12T14:00:01Z,A,1,1,1,1.1\n2026-05-12T14:00:02Z,A,x,1,,\n"
    )
    done = flowtape(
        "cumulative", "A", "--asset", "stock", "--at", AT, "--minutes", "600", "--tape", "x.csv", cwd=tmp_path
    )
    assert done.stdout.splitlines()[1:] == ["2026-05-12T14:00:00Z,-1,-1,1.0,2"]
    first, second = done.stderr.splitlines()
    assert first.startswith("warning: x.csv: 1 rows left out: ")
    assert first.endswith("; the first is x.csv, row 3: price is not a price in USD within bounds: 'x'")
    assert second.startswith("warning: x.csv: 1 of 2 prints (50%) have no quote in force")


@pytest.mark.parametrize(
    ("name", "content", "code", "says"),
    [
        ("empty.csv", b"", 3, "empty"),
        ("noise.bin", bytes(range(256)) * 40, 3, "noise.bin"),
        ("other.csv", b"a,b\n1,2\n", 3, "other.csv"),
        ("missing.csv", None, 3, "missing.csv"),
    ],
)
def test_what_is_no_tape_is_a_clear_error(tmp_path, name, content, code, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = flowtape("ingest", name, "--store", "x.duckdb", cwd=tmp_path)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_s_name_that_is_no_text_is_refused(tape, tmp_path):
    name = os.fsdecode(b"caf\xe9.parquet")
    shutil.copy(tape, tmp_path / name)
    for words in (
        ("ingest", name),
        ("ingest", name, "--json"),
        ("backfill", name),
        ("backfill", "caf*.parquet"),
    ):
        done = flowtape(*words, "--store", "y.duckdb", cwd=tmp_path)
        assert "Traceback" not in done.stderr
        assert "caf\\udce9.parquet" in done.stderr
        assert done.returncode == (3 if "caf*.parquet" in words else 2)
    assert not (tmp_path / "y.duckdb").exists()


def test_a_server_is_not_started_for_a_tape_that_is_not_there(tmp_path):
    done = flowtape(
        "serve", "--tape", "nope.csv", "--store", "y.duckdb", "--port", "0", cwd=tmp_path, timeout=30
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: nope.csv: cannot be read: there is no such file\n"


def test_strict_keeps_nothing_of_a_file_with_a_bad_row(tape, tmp_path):
    frame = pl.read_parquet(tape)
    bad = frame.with_columns(
        price=pl.when(pl.int_range(pl.len()) == 39_000).then(float("nan")).otherwise(pl.col("price"))
    )
    bad.write_parquet(tmp_path / "bad.parquet")
    strict = flowtape("ingest", "bad.parquet", "--strict", "--store", "x.duckdb", cwd=tmp_path)
    assert strict.returncode == 3
    assert "row 39001" in strict.stderr
    lenient = flowtape("ingest", "bad.parquet", "--store", "x.duckdb", "--json", cwd=tmp_path)
    (outcome,) = json.loads(lenient.stdout)
    assert (outcome["rejected"], outcome["duplicates"], outcome["added"]) == (1, 0, 39_999)
    assert outcome["first"][0]["row"] == 39_001


def test_a_second_source_is_refused_with_a_code_of_its_own(tape, tmp_path):
    assert flowtape("ingest", tape, "--store", "x.duckdb", cwd=tmp_path).returncode == 0
    pl.read_parquet(tape).drop("source").write_parquet(tmp_path / "other.parquet")
    refused = flowtape("ingest", "other.parquet", "--source", "mine", "--store", "x.duckdb", cwd=tmp_path)
    assert refused.returncode == 4
    assert "comes from simulated already" in refused.stderr
    replaced = flowtape(
        "ingest", "other.parquet", "--source", "mine", "--replace", "--store", "x.duckdb", cwd=tmp_path
    )
    assert replaced.returncode == 0


def test_keys_come_and_go_while_a_server_runs_and_its_store_is_fed(tape, tmp_path):
    with served("--store", "x.duckdb", cwd=tmp_path) as (_, address, said):
        assert "keys create" in "".join(said)
        made = flowtape(
            "keys", "create", "--plan", "alpha", "--label", "me", "--store", "x.duckdb", cwd=tmp_path
        )
        key = made.stdout.strip()
        assert made.stdout.count("\n") == 1
        url = f"{address}/v1/flow/options/SPY/cumulative?minutes=390&at={AT}"

        def ask():
            return httpx.get(url, headers={"X-Api-Key": key})

        start = time.monotonic()
        until(lambda: ask().status_code == 200, seconds=1.5)
        assert time.monotonic() - start < 1.5
        assert ask().json()["count"] == 0
        handed = flowtape("ingest", tape, "--store", "x.duckdb", cwd=tmp_path)
        assert handed.returncode == 0, handed.stderr
        body = ask()
        assert body.json()["count"] > 300
        assert body.headers["x-data-source"] == "simulated"
        told = flowtape(
            "cumulative",
            "SPY",
            "--at",
            AT,
            "--minutes",
            "390",
            "--as",
            "json",
            "--store",
            "x.duckdb",
            cwd=tmp_path,
        )
        assert told.stdout.strip() == body.text
        assert flowtape("rebuild", DAY, "--store", "x.duckdb", cwd=tmp_path).returncode == 0
        assert ask().text == body.text
        wrong = flowtape("ingest", "nothing.csv", "--store", "x.duckdb", cwd=tmp_path)
        assert (wrong.returncode, "nothing.csv" in wrong.stderr) == (3, True)
        listed = flowtape("keys", "list", "--store", "x.duckdb", cwd=tmp_path)
        assert "me" in listed.stdout
        assert key not in listed.stdout
        assert flowtape("keys", "revoke", "me", "--store", "x.duckdb", cwd=tmp_path).returncode == 0
        until(lambda: ask().status_code == 401, seconds=1.5)
    again = flowtape(
        "cumulative",
        "SPY",
        "--at",
        AT,
        "--minutes",
        "390",
        "--as",
        "json",
        "--store",
        "x.duckdb",
        cwd=tmp_path,
    )
    assert again.stdout.strip() == body.text


def test_a_store_held_by_another_ingest_is_named_busy(tape, tmp_path):
    code = "import sys, flowtape\ns = flowtape.open_store('x.duckdb')\nprint('held', flush=True)\nsys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    busy = flowtape("ingest", tape, "--store", "x.duckdb", cwd=tmp_path)
    holder.communicate("")
    assert busy.returncode == 5
    assert "another process holds this store" in busy.stderr


def test_a_corrupt_store_is_a_clear_error(tmp_path):
    (tmp_path / "x.duckdb").write_bytes(b"not a database" * 1000)
    for words in (("serve", "--store", "x.duckdb"), ("cumulative", "SPY", "--store", "x.duckdb")):
        done = flowtape(*words, cwd=tmp_path)
        assert done.returncode == 5
        assert "x.duckdb" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_simulated_market_goes_on_after_a_kill(tmp_path):
    """Prints keep coming, a kill -9 and a restart lose and repeat none, and the week is there."""
    # One underlying, so that it prints every few seconds.
    market = ("--underlyings", "1", "--prints-per-day", "30000", "--stock-prints-per-day", "0")
    words = ("--simulate", *market, "--store", "sim.duckdb")

    def line(address, said):
        key = re.search(r"ft_[\w-]+", said[-1]).group()
        return httpx.get(
            f"{address}/v1/flow/options/SPY/cumulative?minutes=10080", headers={"X-Api-Key": key}
        ).json()

    with served(*words, cwd=tmp_path) as (server, address, said):
        first = until(lambda: (body := line(address, said))["count"] > 1500 and body)
        server.send_signal(signal.SIGKILL)
        server.wait()
    with served(*words, cwd=tmp_path) as (server, address, said):
        again = until(
            lambda: (body := line(address, said))["points"][-1]["ts"] >= first["points"][-1]["ts"] and body
        )
        newest = until(lambda: (body := line(address, said)) != again and body)
        assert newest["points"][-1]["ts"] >= first["points"][-1]["ts"]
        kept = {point["ts"]: (point["netVolume"], point["tradeCount"]) for point in newest["points"]}
        shown = [(p["ts"], (p["netVolume"], p["tradeCount"])) for p in first["points"][:-10]]
        assert [kept[ts] == numbers for ts, numbers in shown if ts in kept] == [True] * sum(
            ts in kept for ts, _ in shown
        )


def test_what_a_simulated_server_prints_works_at_once(tmp_path):
    """The example of the original's page is run against it as it stands there, but for the address and the key."""
    with served("--simulate", "--prints-per-day", "20000", "--stock-prints-per-day", "0", cwd=tmp_path) as (
        _,
        address,
        said,
    ):
        key = re.search(r"ft_[\w-]+", said[-1]).group()
        done = subprocess.run(said[-1], shell=True, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["count"] > 200
        assert httpx.get(f"{address}/health").json() == {"status": "Healthy"}
        data = httpx.get(f"{address}/v1/flow/options/SPY/cumulative", headers={"X-Api-Key": key}).json()
        assert isinstance(data["points"][-1]["cumulative"], int)


def test_a_replay_of_real_data_is_labelled_a_replay(tmp_path):
    """Its day, its speed, a symbol it holds, its own clock; not a word of a simulation."""
    at = datetime(2016, 6, 1, 14, 30, tzinfo=UTC)
    rows = [
        {"ts": at + timedelta(seconds=second), "symbol": "VIX", "expiry": date(2016, 6, 15), "strike": 15.0,
         "right": "C", "price": 1.2, "size": 5, "bid": 1.1, "ask": 1.2, "seq": second}
        for second in range(600)
    ]  # fmt: skip
    pl.DataFrame(rows).write_parquet(tmp_path / "vix.parquet")
    words = ("--feed", "replay:vix.parquet?speed=60", "--store", "x.duckdb")
    with served(*words, cwd=tmp_path) as (server, address, said):
        text = "".join(said)
        assert "simulated" not in text
        assert "SPY" not in text
        assert "A replay of vix.parquet: 2016-06-01, 60 times as fast as it happened." in text
        done = subprocess.run(
            f"{said[-1].strip()} -si", shell=True, capture_output=True, text=True, check=True
        )
        assert "x-data-source: replay; day=2016-06-01; speed=60" in done.stdout
        assert json.loads(done.stdout.splitlines()[-1])["count"] >= 1
        key = re.search(r"ft_[\w-]+", said[-1]).group()
        url = f"{address}/v1/flow/options/VIX/cumulative"
        # Three looks at the clock, one a second, of which each would warn.
        until(lambda: httpx.get(url, headers={"X-Api-Key": key}).json()["count"] >= 5)
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=60)
    assert "the clock was set" not in log


def test_a_server_that_loads_says_how_far_it_is(tmp_path):
    command = [sys.executable, "-m", "flowtape", "serve", "--port", "0", "--simulate"]
    server = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        address = re.search(r"http://[\d.:]+", server.stdout.readline()).group()
        key = re.search(r"ft_[\w-]+", server.stdout.readline()).group()
        health = httpx.get(f"{address}/health")
        assert (health.status_code, health.json()["reason"][:9]) == (503, "Loading: ")
        assert 0 <= health.json()["loading"] < 1
        url = f"{address}/v1/flow/options/SPY/cumulative?minutes=10080"
        refused = httpx.get(url, headers={"X-Api-Key": key})
        assert (refused.status_code, refused.json()["error"]) == (502, "loading")
    finally:
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=60)
    assert server.returncode == 0
    assert "loading: until" in log


def test_a_store_taken_away_is_502_and_back_again_200(tape, tmp_path):
    assert flowtape("ingest", tape, "--store", "x.duckdb", cwd=tmp_path).returncode == 0
    key = flowtape("keys", "create", "--plan", "alpha", "--store", "x.duckdb", cwd=tmp_path).stdout.strip()
    with served("--store", "x.duckdb", cwd=tmp_path) as (_, address, _):

        def status():
            url = f"{address}/v1/flow/options/SPY/cumulative?minutes=5&at={AT}"
            found = httpx.get(url, headers={"X-Api-Key": key})
            return found.status_code, httpx.get(f"{address}/health").status_code, found.text

        assert status()[:2] == (200, 200)
        (tmp_path / "x.duckdb").rename(tmp_path / "away")
        refused = until(lambda: (found := status())[0] == 502 and found, seconds=10)
        assert refused[1] == 503
        assert "upstream_unavailable" in refused[2]
        (tmp_path / "away").rename(tmp_path / "x.duckdb")
        until(lambda: status()[:2] == (200, 200), seconds=10)


def test_help_is_told_and_nonsense_refused(tmp_path):
    # What each command's help says is held by its page (test_docs.py).
    told = flowtape("keys", "create", "--help", cwd=tmp_path)
    assert told.returncode == 0
    assert "Usage" in told.stdout
    assert flowtape("nonsense", cwd=tmp_path).returncode == 2


def test_a_full_disk_keeps_what_was_committed(tape, tmp_path):
    """A file-size limit stands for the full disk: the commit fails, the store stays whole and goes on later."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))\n"
        "from flowtape.cli import main\n"
        "sys.argv = ['flowtape', *sys.argv[2:]]\nmain()\n"
    )
    limited = subprocess.run(
        [sys.executable, "-c", code, str(900_000), "ingest", tape, "--store", "x.duckdb"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ,
    )  # fmt: skip
    assert limited.returncode == 5, limited.stderr
    assert "Traceback" not in limited.stderr
    done = flowtape("ingest", tape, "--store", "x.duckdb", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    clean = flowtape("ingest", tape, "--store", "y.duckdb", cwd=tmp_path)
    assert clean.returncode == 0
    answers = [
        flowtape("cumulative", "SPY", "--at", AT, "--minutes", "390", "--store", name, cwd=tmp_path).stdout
        for name in ("x.duckdb", "y.duckdb")
    ]
    assert answers[0] == answers[1] != ""
