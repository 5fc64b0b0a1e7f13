"""The cumulative endpoint under load while a tape comes in, against nginx with the same bytes and against
FastAPI with a DuckDB query a request."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import in_turn, ratio, say
from benchmarks.processes import HOST, free_port, get, running, wait_for
from benchmarks.report import Aim, Section
from benchmarks.scale import ROOT, Scale

TARGET = "/v1/flow/options/SPY/cumulative?minutes=240"
HOURS = 5
UNDERLYINGS = 40
CONNECTIONS = 16
OURS, LIMITED = "flowtape", "flowtape, a key with a daily limit"
FILE, USUAL = "nginx, the same bytes from a file (the limit)", "FastAPI + DuckDB query"
NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off; default_type application/json; sendfile on; tcp_nopush on;
    open_file_cache max=100; keepalive_requests 100000000;
    client_body_temp_path {folder}/temp; proxy_temp_path {folder}/temp; fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp; scgi_temp_path {folder}/temp;
    server {{ listen {host}:{port}; root {folder}/www; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw: answers a second, and latency in milliseconds."""

    rate: float
    p50: float
    p99: float


def run(scale: Scale) -> list[Section]:
    """One table; an empty one that says so where wrk or nginx is missing."""
    missing = [name for name in ("wrk", "nginx") if program(name) is None]
    if missing:
        why = f"not measured: {' and '.join(missing)} not found (apt-get install wrk nginx-light)"
        say(f"  {why}")
        return [_section([], [_against_nginx(None), _against_usual(None)], [why.capitalize() + "."])]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        work = Path(folder)
        # nginx's worker may run as another user, which must be able to look into the folder.
        work.chmod(0o755)
        url, (key, limited), body, _ = stack.enter_context(live_server(scale, work))
        say(f"  the server has caught up; an answer has {len(body):,} bytes")
        nginx = stack.enter_context(_nginx(work, body))
        usual = stack.enter_context(_fastapi(scale, work, key))
        _check_alike(body, get(usual, {"X-Api-Key": key})[0])
        started = time.time()
        loads = in_turn(
            scale.rounds,
            {
                OURS: partial(_load, url, key, scale.seconds),
                LIMITED: partial(_load, url, limited, scale.seconds),
                FILE: partial(_load, nginx, key, scale.seconds),
                USUAL: partial(_load, usual, key, scale.seconds),
            },
        )
        stopped = time.time()
        # The store can be looked into once its server has let go of it.
        stack.close()
        arrived = _arrived(work / "live.duckdb", started, stopped)
    rates = {name: [load.rate for load in of] for name, of in loads.items()}
    aims = [
        _against_nginx(ratio(rates[OURS], rates[FILE])),
        _against_usual(ratio(rates[OURS], rates[USUAL])),
    ]
    return [_section(_rows(loads, rates), aims, _notes(scale, len(body), arrived))]


def program(name: str) -> str | None:
    """Where a program is, or None."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


@contextmanager
def live_server(
    scale: Scale, work: Path
) -> Iterator[tuple[str, tuple[str, str], bytes, subprocess.Popen[bytes]]]:
    """A server whose simulated market has caught up with the clock: its address, a key without and one with a
    daily limit, an answer, and its process."""
    store, log = work / "live.duckdb", work / "live.log"
    _begin_recently(store)
    port = free_port()
    command = [
        Path(sys.executable).with_name("flowtape"), "serve", "--simulate", "--store", store, "--port", port,
        "--underlyings", UNDERLYINGS, "--prints-per-day", prints_per_day(scale),
    ]  # fmt: skip
    with running(command, log, {"FLOWTAPE_LIMIT_ENTERPRISE": 10**9}) as process:
        base = f"http://{HOST}:{port}"
        wait_for(f"{base}/health", process, log)
        keys = _key(store, "alpha"), _key(store, "enterprise")
        url = base + TARGET
        yield url, keys, _caught_up(url, keys[0]), process


def _caught_up(url: str, key: str, limit: float = 600.0) -> bytes:
    """An answer, once its newest print is of the last minute or so."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        with suppress(OSError):
            body, headers = get(url, {"X-Api-Key": key})
            if _age(headers.get("x-data-as-of")) < 90:
                return body
        time.sleep(0.5)
    raise RuntimeError(f"the server did not catch up within {limit:.0f} s")


def prints_per_day(scale: Scale) -> int:
    """Twice the day that is measured elsewhere, but enough that 240 minutes of SPY all have a print."""
    return max(2 * scale.prints, 2_000_000)


def _begin_recently(store: Path) -> None:
    """A store whose simulated tape was left some hours ago: the server takes it up there, not a week back."""
    from flowtape.storage import open_store

    opened = open_store(store)
    with opened.transaction():
        opened.set_cursor("simulated", str(time.time_ns() - HOURS * 3600 * 10**9))
    opened.close()


def _key(store: Path, plan: str) -> str:
    """A key kept in the store's file of keys, as a customer has one; the server learns of it within a second."""
    command = [Path(sys.executable).with_name("flowtape"), "keys", "create", "--plan", plan, "--store", store]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def _age(instant: str | None) -> float:
    if instant is None:
        return float("inf")
    return (datetime.now(UTC) - datetime.fromisoformat(instant)).total_seconds()


@contextmanager
def _nginx(work: Path, body: bytes) -> Iterator[str]:
    for name in ("www", "temp"):
        (work / name).mkdir(mode=0o755)
    (work / "www" / "answer.json").write_bytes(body)
    port, config, log = free_port(), work / "nginx.conf", work / "nginx.log"
    config.write_text(NGINX.format(folder=work, host=HOST, port=port))
    with running([program("nginx"), "-p", work, "-c", config, "-e", work / "error.log"], log) as process:
        url = f"http://{HOST}:{port}/answer.json"
        wait_for(url, process, log)
        yield url


@contextmanager
def _fastapi(scale: Scale, work: Path, key: str) -> Iterator[str]:
    """The usual service over a table of the same prints, which does not grow while it is asked."""
    now, store, log = datetime.now(UTC), work / "usual.duckdb", work / "usual.log"
    _sided_prints(scale, store, now)
    port = free_port()
    settings = {"PEER_KEY": key, "PEER_NOW": now.isoformat(), "PEER_STORE": store}
    command = [
        sys.executable, "-m", "uvicorn", "benchmarks.endpoint_fastapi:app", "--host", HOST, "--port", port,
        "--log-level", "warning", "--no-access-log",
    ]  # fmt: skip
    with running(command, log, settings) as process:
        wait_for(f"http://{HOST}:{port}/openapi.json", process, log)
        yield f"http://{HOST}:{port}{TARGET}"


def _sided_prints(scale: Scale, store: Path, now: datetime) -> None:
    """A DuckDB file with the same hours of the same market, signed, ordered as such a table would be."""
    import duckdb
    import polars as pl

    from flowtape.model.prints import PRICE_SCALE, conform
    from flowtape.orderflow.classify import sign
    from flowtape.simulation.tape import Market

    market = Market(1, UNDERLYINGS, prints_per_day(scale), hours="always")
    with duckdb.connect(str(store)) as db:
        db.execute(
            "CREATE TABLE prints (ts TIMESTAMP, symbol VARCHAR, price DOUBLE, size BIGINT, side VARCHAR)"
        )
        for batch in market.prints(now - timedelta(hours=HOURS), now):
            rows = sign(conform(batch)).select(
                pl.col("ts").dt.replace_time_zone(None).cast(pl.Datetime("us")), pl.col("symbol").cast(pl.String),
                pl.col("price") / PRICE_SCALE, "size", pl.col("side").cast(pl.String),
            ).to_arrow()  # fmt: skip
            db.register("fresh", rows)
            db.execute("INSERT INTO prints SELECT * FROM fresh")
            db.unregister("fresh")
        # Sorted, so that a query reads the row groups of its symbol and no others.
        db.execute("CREATE TABLE sorted AS SELECT * FROM prints ORDER BY symbol, ts")
        db.execute("DROP TABLE prints; ALTER TABLE sorted RENAME TO prints")


def _load(url: str, key: str, seconds: int) -> Load:
    command = [
        program("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-H", f"X-Api-Key: {key}", url,
    ]  # fmt: skip
    get(url, {"X-Api-Key": key})
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(f"answers that are no answers:\n{told}")
    return Load(
        float(_find(r"Requests/sec:\s+([\d.]+)", told)[0]), _latency("50", told), _latency("99", told)
    )


def _latency(share: str, told: str) -> float:
    number, unit = _find(rf"{share}%\s+([\d.]+)(us|ms|s|m)\b", told)
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[unit]


def _find(pattern: str, told: str) -> tuple[str, ...]:
    found = re.search(pattern, told)
    if found is None:
        raise RuntimeError(f"wrk said something else:\n{told}")
    return found.groups()


def _arrived(store: Path, started: float, stopped: float) -> float:
    """Prints a second that the server committed while it was measured."""
    import duckdb

    with duckdb.connect(str(store), read_only=True) as db:
        bounds = [int(started * 1e9), int(stopped * 1e9)]
        sql = "SELECT count(*) FROM print_rows WHERE ts >= make_timestamp_ns(?) AND ts < make_timestamp_ns(?)"
        (count,) = db.execute(sql, bounds).fetchall()[0]
    return count / (stopped - started)


def _check_alike(ours: bytes, usual: bytes) -> None:
    """Both must answer the same question: the same points, but for the minute that may turn in between, and but
    for the cancels, which the usual service does not resolve."""
    mine, theirs = json.loads(ours), json.loads(usual)
    if abs(mine["count"] - theirs["count"]) > 1 or list(mine["points"][0]) != list(theirs["points"][0]):
        raise RuntimeError(f"answers differ: {str(mine)[:200]} … {str(theirs)[:200]}")


def _rows(loads: dict[str, list[Load]], rates: dict[str, list[float]]) -> list[list[str]]:
    return [
        [
            name, f"{median(rates[name]):,.0f}", f"{ratio(rates[name], rates[OURS]):.3f}×",
            f"{median(load.p50 for load in of):.2f}", f"{median(load.p99 for load in of):.2f}",
        ]
        for name, of in loads.items()
    ]  # fmt: skip


def _against_nginx(share: float | None) -> Aim:
    measured = "not measured" if share is None else f"{share:.0%}"
    return Aim("endpoint, against nginx", "at least 40 % of its requests/s", measured, (share or 0) >= 0.4)


def _against_usual(times: float | None) -> Aim:
    measured = "not measured" if times is None else f"{times:.0f}×"
    return Aim(
        "endpoint, against FastAPI + DuckDB", "at least 10× its requests/s", measured, (times or 0) >= 10
    )


def _notes(scale: Scale, size: int, arrived: float) -> list[str]:
    return [
        f"wrk, one thread, {CONNECTIONS} connections, {scale.seconds} s a round, median of {scale.rounds} rounds; "
        f"one worker each; the body has {size:,} bytes.",
        "Every answer of flowtape has its key, plan and quota checked and its request counted: on the Alpha plan, "
        "which has no limit, and on a plan with one, where each count is in the file of keys before the answer goes "
        "out.",
        f"All the while, also during the others' rounds, flowtape's server took in and committed {arrived:,.0f} "
        f"simulated prints a second over {UNDERLYINGS} underlyings.",
        f"FastAPI's table holds the last {HOURS} hours of the same prints, sorted by symbol, and does not grow; "
        "cancels stay in it; its key is looked up in a dict.",
    ]


def _section(rows: list[list[str]], aims: list[Aim], notes: list[str]) -> Section:
    return Section(
        "The endpoint: 240 minutes of SPY while a tape comes in",
        ["server", "requests/s", "against flowtape", "p50 ms", "p99 ms"],
        rows,
        aims,
        notes,
    )
