"""Freshness and throughput while serving a full week, a hundred filtered streams, a thousand plain ones."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import msgspec
import numpy as np

from benchmarks.measure import say
from benchmarks.processes import HOST, free_port
from benchmarks.report import Aim, Section
from benchmarks.scale import ROOT, Scale
from benchmarks.startup import key_of, server_of
from benchmarks.week import Week, busiest, resident, week_of

RATE, HELD, BURST = 20_000, 300, 200_000
FILTERED_SECONDS = 60
STREAMS, STREAM_SECONDS, STREAM_RATE = 1000, 60, 200
PATH = "/v1/flow/options/U000/cumulative"


class Child:
    """The server under load."""

    def __init__(self, folder: str, rate: int, seconds: float, burst: int) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "benchmarks.live_child", self.port, folder, rate, seconds, burst]
        self.process = subprocess.Popen(
            [*map(str, command)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.key = self._line()["key"]
        self.url = f"http://{HOST}:{self.port}"

    def _line(self) -> dict:
        return json.loads(self.process.stdout.readline())

    def result(self) -> dict:
        return self._line()

    def stat(self) -> tuple[float, int]:
        """Seconds of processor and bytes of memory so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        return (int(fields[11]) + int(fields[12])) / 100, resident * 1024

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def run(scale: Scale) -> list[Section]:
    week = week_of(scale)
    held = HELD if scale.full else 10
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "week.duckdb"
        shutil.copyfile(week.path, store)
        throughput = _throughput(week, store, held)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "week.duckdb"
        shutil.copyfile(week.path, store)
        filtered = asyncio.run(_filtered(week, store, FILTERED_SECONDS if scale.full else 10))
    with tempfile.TemporaryDirectory() as folder:
        streams = asyncio.run(_streams(folder, STREAM_SECONDS if scale.full else 10))
    return [throughput, filtered, streams]


def _throughput(week: Week, store: Path, held: int) -> Section:
    say(f"  {RATE} prints/s for {held} s, then {BURST} in a second, on the full week")
    key = key_of(store)
    (symbol,) = busiest(store, 1)
    arrivals = store.with_name("arrivals.npz")
    with server_of(store, RATE, held, BURST, arrivals) as (process, url):
        asked: list[float] = []
        with httpx.Client(base_url=url, headers={"X-Api-Key": key}) as client:
            while not arrivals.exists():
                began = time.perf_counter()
                client.get(_path(symbol), params={"minutes": 240}).raise_for_status()
                asked.append(time.perf_counter() - began)
                time.sleep(0.05)
        peak = resident(process.pid, "VmHWM")
    told = _last_line(store)
    milliseconds = np.array(asked) * 1000
    p50, p99 = (float(np.percentile(milliseconds, share)) for share in (50, 99))
    shown, burst = told["shown"], told["burst"]
    rows = [
        ["arrival to answer, p50", f"{shown['p50']:.0f} ms"],
        ["arrival to answer, p99", f"{shown['p99']:.0f} ms"],
        ["arrival to answer, longest", f"{shown['max']:.0f} ms"],
        ["arrival to answer, p50 of the first and of the last fifth",
         f"{told['first']['p50']:.0f} and {told['last']['p50']:.0f} ms"],
        ["in the burst, p50", f"{burst['p50']:.0f} ms"],
        ["in the burst, longest", f"{burst['max']:.0f} ms"],
        ["commit, p50", f"{told['commit']['p50']:.0f} ms"],
        ["commit, p99", f"{told['commit']['p99']:.0f} ms"],
        ["most prints that waited, of 500,000 that may", f"{told['deepest']:,}"],
        ["API while it lasts, p50", f"{p50:.1f} ms"],
        ["API while it lasts, p99", f"{p99:.1f} ms"],
        ["peak memory", f"{peak / 2**30:.2f} GiB"],
        ["processor, the feed's own work among it", f"{told['cpu'] / (held + 1):.2f} cores"],
    ]  # fmt: skip
    return Section(
        title=f"Live: {RATE:,} prints/s for {held} s on the full week, then {BURST:,} in a second",
        columns=["figure", "measured"],
        rows=rows,
        aims=[
            Aim("live: arrival to answer, median", "40 ms", f"{shown['p50']:.0f} ms", shown["p50"] <= 40),
            Aim("live: arrival to answer, p99", "200 ms", f"{shown['p99']:.0f} ms", shown["p99"] <= 200),
            Aim("live: burst of 200,000, longest", "500 ms", f"{burst['max']:.0f} ms", burst["max"] <= 500),
            Aim("live: API meanwhile, p99", "10 ms", f"{p99:.1f} ms", p99 <= 10),
        ],
        notes=[
            week.note,
            "The feed is a loop in the server's process, which makes the prints; no vendor's decoding is in it.",
            "Arrival to answer: from when the feed hands a print over until it is committed and in the cache.",
            f"The API is asked 20 times a second for 240 minutes of {symbol}.",
        ],
    )


def _path(symbol: str) -> str:
    return f"/v1/flow/options/{symbol}/cumulative"


def _last_line(store: Path) -> dict:
    lines = [
        line for line in store.with_suffix(".log").read_text().splitlines() if line.startswith('{"shown')
    ]
    return json.loads(lines[-1])


class _Watcher:
    """One filtered stream: when each count of prints of each minute was first seen."""

    def __init__(self, symbol: str, place: int, query: str, passes: Callable[..., np.ndarray]) -> None:
        self.symbol, self.place, self.query, self.passes = symbol, place, query, passes
        self.seen: dict[int, list[tuple[float, int]]] = {}
        self.events = 0

    async def follow(self, port: int, key: str) -> None:
        """Read until cancelled."""
        reader, writer = await asyncio.open_connection(HOST, port, limit=2**24)
        target = f"{_path(self.symbol)}/stream?minutes=240&{self.query}"
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n\r\n".encode())
        try:
            while line := await reader.readline():
                if line.startswith(b"data: "):
                    now = time.monotonic()
                    self.events += 1
                    for point in msgspec.json.decode(line[6:])["points"]:
                        minute = int(np.datetime64(point["ts"].rstrip("Z"), "m").astype(np.int64))
                        self.seen.setdefault(minute, []).append((now, point["tradeCount"]))
        finally:
            writer.close()

    def waits(self, arrived: Mapping[str, np.ndarray]) -> np.ndarray:
        """Seconds from the arrival of each print that passes to the event that has it; infinite where none had."""
        mine = np.flatnonzero((arrived["symbol"] == self.place) & self.passes(arrived))
        found = []
        for minute in np.unique(arrived["minute"][mine]):
            rows = mine[arrived["minute"][mine] == minute]
            times, counts = np.array(self.seen.get(int(minute), [(np.inf, 0)])).T
            place = np.searchsorted(np.maximum.accumulate(counts), np.arange(1, len(rows) + 1))
            found.append(np.append(times, np.inf)[place] - arrived["at"][rows])
        return np.concatenate(found) if found else np.empty(0)


def _watchers(names: list[str]) -> list[_Watcher]:
    """Five filters of each symbol: 0DTE, calls, two ranges of strikes, 0DTE puts."""
    kinds: list[tuple[str, Callable[..., np.ndarray]]] = [
        ("dte=0", lambda a: a["expiry"] == 0),
        ("right=C", lambda a: a["right"] == 0),
        ("strike=250..400", lambda a: (a["strike"] >= 50) & (a["strike"] <= 80)),
        ("strike=400..750", lambda a: (a["strike"] >= 80) & (a["strike"] <= 150)),
        ("dte=0&right=P", lambda a: (a["expiry"] == 0) & (a["right"] == 1)),
    ]
    return [_Watcher(name, place, *kind) for place, name in enumerate(names) for kind in kinds]


async def _filtered(week: Week, store: Path, seconds: int) -> Section:
    say(f"  100 filtered streams at {RATE} prints/s for {seconds} s, on the full week")
    key, watchers = key_of(store), _watchers(busiest(store, 20))
    arrivals = store.with_name("arrivals.npz")
    with server_of(store, RATE, seconds, 0, arrivals) as (process, url):
        port = int(url.rpartition(":")[2])
        tasks = [asyncio.create_task(one.follow(port, key)) for one in watchers]
        while not all(one.events for one in watchers):
            await asyncio.sleep(0.1)
        began, before = time.monotonic(), cpu_of(process.pid)
        while not arrivals.exists():
            await asyncio.sleep(0.5)
        cores = (cpu_of(process.pid) - before) / (time.monotonic() - began)
        await asyncio.sleep(2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    with np.load(arrivals) as file:
        arrived = dict(file)
    # Prints that came before the streams had begun are not theirs.
    late = {name: values[arrived["at"] > began] for name, values in arrived.items()}
    first = {name: len(values) - len(late[name]) for name, values in arrived.items()}["at"]
    waits = np.concatenate(
        [one.waits(arrived)[-_passing(one, late) :] for one in watchers if _passing(one, late)]
    )
    p50, p99 = (float(np.percentile(waits, share)) * 1000 for share in (50, 99))
    rows = [
        ["arrival to event, p50", f"{p50:.0f} ms"],
        ["arrival to event, p99", f"{p99:.0f} ms"],
        ["prints that no event had", f"{int(np.isinf(waits).sum()):,} of {len(waits):,}"],
        ["events a second, all streams", f"{sum(one.events for one in watchers) / seconds:,.0f}"],
        ["processor of the server, the feed's own work among it", f"{cores:.2f} cores"],
    ]
    return Section(
        title=f"100 filtered streams at {RATE:,} prints/s for {seconds} s on the full week",
        columns=["figure", "measured"],
        rows=rows,
        aims=[
            Aim("100 filtered streams: each change seen, p99", "500 ms", f"{p99:.0f} ms", p99 <= 500),
            Aim("100 filtered streams: processor of the server", "1.5 cores", f"{cores:.2f}", cores <= 1.5),
        ],
        notes=[
            week.note,
            "Filters of each of the 20 busiest symbols: 0DTE, calls, two ranges of strikes, 0DTE puts; 240 minutes.",
            f"Prints that arrived before every stream had begun are left out ({first:,}); clients run on the same "
            "machine.",
        ],
    )


def _passing(one: _Watcher, arrived: Mapping[str, np.ndarray]) -> int:
    return int(((arrived["symbol"] == one.place) & one.passes(arrived)).sum())


def cpu_of(pid: int) -> float:
    """Seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


class _Reader:
    """One stream, read and kept applied."""

    def __init__(self) -> None:
        self.points: dict[str, dict] = {}
        self.events = 0

    def take(self, kind: bytes, data: bytes) -> None:
        self.events += 1
        body = msgspec.json.decode(data)
        if kind == b"window":
            self.points = {point["ts"]: point for point in body["points"]}
        elif kind == b"change":
            kept = {}
            for ts, point in self.points.items():
                if body["first"] is not None and ts >= body["first"] and ts not in body.get("gone", ()):
                    kept[ts] = {**point, "cumulative": point["cumulative"] + body["shift"]}
            self.points = kept | {point["ts"]: point for point in body["points"]}

    async def follow(self, port: int, key: str) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(f"GET {PATH}/stream HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n\r\n".encode())
        kind = b""
        try:
            while line := await reader.readline():
                name, _, value = line.rstrip().partition(b": ")
                if name == b"event":
                    kind = value
                elif name == b"data":
                    self.take(kind, value)
        except asyncio.CancelledError:
            writer.close()
            raise


async def _streams(folder: str, seconds: int) -> Section:
    say(f"{STREAMS} streams for {seconds} s")
    child = Child(folder, STREAM_RATE, seconds + 15, 0)
    await asyncio.sleep(3)
    before = child.stat()
    readers = [_Reader() for _ in range(STREAMS)]
    tasks = [asyncio.create_task(reader.follow(child.port, child.key)) for reader in readers]
    while not all(reader.events for reader in readers):
        await asyncio.sleep(0.1)
    opened = child.stat()
    began = time.monotonic()
    await asyncio.sleep(seconds)
    after, passed = child.stat(), time.monotonic() - began
    await asyncio.to_thread(child.result)
    await asyncio.sleep(2)
    answer = httpx.get(child.url + PATH, headers={"X-Api-Key": child.key}).json()
    whole = sum(list(reader.points.values()) == answer["points"] for reader in readers)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(child.end)
    events = sorted(reader.events for reader in readers)
    rows = [
        ["streams that end with the API's points", f"{whole} of {STREAMS}"],
        ["events each, fewest and most", f"{events[0]:,} and {events[-1]:,}"],
        ["events sent a second", f"{sum(events) / passed:,.0f}"],
        ["processor of the server", f"{(after[0] - opened[0]) / passed:.2f} cores"],
        ["memory of the streams", f"{(after[1] - before[1]) / 2**20:.0f} MiB"],
    ]
    return Section(
        title=f"{STREAMS:,} streams on one worker for {seconds} s",
        columns=["figure", "measured"],
        rows=rows,
        aims=[Aim("streams that missed no point", f"{STREAMS}", f"{whole}", whole == STREAMS)],
        notes=[f"{STREAM_RATE} prints a second come in meanwhile; clients run on the same machine"],
    )
