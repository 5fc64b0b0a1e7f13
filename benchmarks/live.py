"""Freshness and throughput while serving, and a thousand streams on one worker."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import msgspec
import numpy as np

from benchmarks.measure import say
from benchmarks.processes import HOST, free_port
from benchmarks.report import Aim, Section
from benchmarks.scale import ROOT, Scale

RATE, HELD, BURST = 20_000, 300, 200_000
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
    held = HELD if scale.full else 10
    with tempfile.TemporaryDirectory() as folder:
        throughput = _throughput(folder, held)
    with tempfile.TemporaryDirectory() as folder:
        streams = asyncio.run(_streams(folder, STREAM_SECONDS if scale.full else 10))
    return [throughput, streams]


def _throughput(folder: str, held: int) -> Section:
    say(f"{RATE} prints/s for {held} s, then {BURST} in a second")
    child = Child(folder, RATE, held, BURST)
    asked: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=child.url, headers={"X-Api-Key": child.key}) as client:
            while not done.wait(0.05):
                began = time.perf_counter()
                try:
                    client.get(PATH, params={"minutes": 240}).raise_for_status()
                except httpx.ConnectError:
                    continue
                asked.append(time.perf_counter() - began)

    asker = threading.Thread(target=ask)
    asker.start()
    told = child.result()
    done.set()
    asker.join()
    child.end()
    milliseconds = np.array(asked) * 1000
    p50, p99 = (float(np.percentile(milliseconds, share)) for share in (50, 99))
    rows = [
        ["arrival to answer, p50", f"{told['shown']['p50']:.0f} ms"],
        ["arrival to answer, p99", f"{told['shown']['p99']:.0f} ms"],
        ["arrival to answer, longest", f"{told['shown']['max']:.0f} ms"],
        ["in the burst, p50", f"{told['burst']['p50']:.0f} ms"],
        ["in the burst, longest", f"{told['burst']['max']:.0f} ms"],
        ["commit, p50", f"{told['commit']['p50']:.0f} ms"],
        ["commit, p99", f"{told['commit']['p99']:.0f} ms"],
        ["most prints that waited, of 500,000 that may", f"{told['deepest']:,}"],
        ["API while it lasts, p50", f"{p50:.1f} ms"],
        ["API while it lasts, p99", f"{p99:.1f} ms"],
        ["peak memory", f"{told['peak'] / 2**20:.0f} MiB"],
        ["processor", f"{told['cpu'] / (held + 1):.2f} cores"],
    ]
    fresh = told["shown"]["p50"]
    return Section(
        title=f"Live: {RATE:,} prints/s for {held} s, then {BURST:,} in a second",
        columns=["figure", "measured"],
        rows=rows,
        aims=[
            Aim("arrival to answer, median", "100 ms", f"{fresh:.0f} ms", fresh <= 100),
            Aim("prints waiting", "500,000", f"{told['deepest']:,}", told["deepest"] <= 500_000),
        ],
        notes=["the feed is a loop in the server's process, which makes the prints; no vendor's decoding is in it",
               "arrival to answer: from when the feed hands a print over to when the API's window has it",
               "the API is asked 20 times a second for 240 "
               "minutes of the busiest of 500 underlyings"],
    )  # fmt: skip


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
