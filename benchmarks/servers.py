"""HTTP servers that send the same prepared bytes and nothing else, and flowtape's answer against its server alone."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.endpoint import CONNECTIONS, live_server, program
from benchmarks.measure import in_turn, ratio, say
from benchmarks.processes import HOST, free_port, running, wait_for
from benchmarks.report import Aim, Section
from benchmarks.scale import Scale

OWN = "flowtape's own, httptools and uvloop"
SERVERS = {
    "granian-asgi-1": "Granian ASGI, 1 runtime thread",
    "granian-asgi-2": "Granian ASGI, 2 runtime threads",
    "granian-rsgi-1": "Granian RSGI, 1 runtime thread",
    "granian-rsgi-2": "Granian RSGI, 2 runtime threads",
    "uvicorn": "uvicorn, httptools and uvloop",
    "own": OWN,
}
ANSWER, LIMITED = "flowtape: key, plan and count", "flowtape: a key with a daily limit"
IDLE = 2_000
"""Open connections, each of which was answered once, in which the memory of one is measured."""
HEADERS = [(b"x-header-%d" % number, b"a value of it") for number in range(10)]


class Load(NamedTuple):
    """What a load saw: answers a second, CPU microseconds of the server an answer, and the 99th percentile in ms."""

    rate: float
    micros: float
    p99: float


def run(scale: Scale) -> list[Section]:
    """Two tables: servers alone, and the answer against the server alone."""
    if program("wrk") is None:
        say("  not measured: wrk not found (apt-get install wrk)")
        return [_answers_section(scale, {}, 0)]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with live_server(scale, work) as (url, (key, limited), body, process):
            (work / "body").write_bytes(body)
            loads = in_turn(
                scale.rounds,
                {
                    **{name: partial(_alone, kind, work, scale.seconds) for kind, name in SERVERS.items()},
                    ANSWER: partial(_load, url, process.pid, scale.seconds, key),
                    LIMITED: partial(_load, url, process.pid, scale.seconds, limited),
                },
            )
        memory = {name: _memory(kind, work) for kind, name in SERVERS.items()}
    alone = {name: loads[name] for name in SERVERS.values()}
    answers = {name: loads[name] for name in (OWN, ANSWER, LIMITED)}
    return [_servers_section(scale, alone, memory, len(body)), _answers_section(scale, answers, len(body))]


def _alone(kind: str, work: Path, seconds: int) -> Load:
    with _serving(kind, work) as (url, process):
        return _load(url, process.pid, seconds)


@contextmanager
def _serving(kind: str, work: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port, log = free_port(), work / "server.log"
    command = [sys.executable, "-m", "benchmarks.servers", kind, port, work / "body"]
    with running(command, log) as process:
        url = f"http://{HOST}:{port}/"
        wait_for(url, process, log)
        yield url, process


def _load(url: str, pid: int, seconds: int, key: str = "") -> Load:
    """Load a server with wrk, which uses less of a processor than any of them."""
    began = _cpu(pid)
    command = [program("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    header = ["-H", f"X-Api-Key: {key}"] if key else []
    done = subprocess.run([*map(str, command), *header, url], stdout=subprocess.PIPE, text=True, check=True)
    used = _cpu(pid) - began
    told = done.stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(f"not all were answered:\n{told}")
    (count,) = _find(r"(\d+) requests in", told)
    (rate,) = _find(r"Requests/sec:\s+([\d.]+)", told)
    number, unit = _find(r"99%\s+([\d.]+)(us|ms|s)", told)
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]
    return Load(float(rate), used / int(count) * 1e6, float(number) * scale)


def _find(pattern: str, told: str) -> tuple[str, ...]:
    found = re.search(pattern, told)
    if found is None:
        raise RuntimeError(f"wrk said something else:\n{told}")
    return found.groups()


def _cpu(pid: int) -> float:
    """Seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    (kilobytes,) = _find(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) * 1024


def _memory(kind: str, work: Path) -> float:
    """Bytes of memory of a connection that was answered once and stays open."""
    with _serving(kind, work) as (url, process):
        before = _resident(process.pid)

        async def main() -> int:
            port = int(url.rpartition(":")[2].strip("/"))
            writers = []
            for _ in range(IDLE // 100):
                writers += await asyncio.gather(*(_asked_once(port) for _ in range(100)))
            after = _resident(process.pid)
            for writer in writers:
                writer.close()
            return after

        return (asyncio.run(main()) - before) / IDLE


async def _asked_once(port: int) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = _find(r"content-length: (\d+)", head.decode().lower())
    await reader.readexactly(int(length))
    return writer


def _servers_section(
    scale: Scale, loads: dict[str, list[Load]], memory: dict[str, float], size: int
) -> Section:
    rows = [
        [
            name, f"{median(one.rate for one in of):,.0f}", f"{median(one.micros for one in of):.1f}",
            f"{median(one.p99 for one in of):.2f}", f"{memory[name] / 1024:.1f}",
        ]
        for name, of in loads.items()
    ]  # fmt: skip
    return Section(
        "HTTP servers that send the same bytes",
        ["server", "requests/s", "CPU µs a request", "p99 ms", "KiB a connection"],
        rows,
        notes=[
            f"Each sends the same prepared body of {size:,} bytes with {len(HEADERS) + 2} headers, in a process of its "
            f"own; wrk, one thread, {CONNECTIONS} connections, {scale.seconds} s a round, median of {scale.rounds} "
            "rounds. Processor time is the server's, user and system.",
            f"Memory is the growth of the process by {IDLE:,} connections that were answered once and stay open.",
        ],
    )


def _answers_section(scale: Scale, loads: dict[str, list[Load]], size: int) -> Section:
    rates = {name: [load.rate for load in of] for name, of in loads.items()}
    rows = [
        [
            name, f"{median(rates[name]):,.0f}", f"{ratio(rates[name], rates[OWN]):.0%}",
            f"{median(one.micros for one in of):.1f}", f"{median(one.p99 for one in of):.2f}",
        ]
        for name, of in loads.items()
    ]  # fmt: skip
    aims = [_aim(name, least, rates) for name, least in ((ANSWER, 0.65), (LIMITED, 0.5))]
    return Section(
        "240 minutes of SPY against the same server sending the same bytes",
        ["what", "requests/s", "share", "CPU µs a request", "p99 ms"],
        rows,
        aims,
        [
            f"The body has {size:,} bytes. While it is asked, flowtape's server takes in and commits a simulated tape; "
            "that work is in its processor time. The server alone has nothing else to do.",
        ],
    )


def _aim(name: str, least: float, rates: dict[str, list[float]]) -> Aim:
    share = ratio(rates[name], rates[OWN]) if rates else None
    measured = "not measured" if share is None else f"{share:.0%}"
    return Aim(f"{name}, against the same bytes", f"at least {least:.0%}", measured, (share or 0) >= least)


def main(kind: str, port: int, body: bytes) -> None:
    """Serve a body by one of the servers until ended."""
    length = (b"content-length", b"%d" % len(body))
    headers = [(b"content-type", b"application/json"), length, *HEADERS]
    if kind == "own":
        _own(port, headers, body)
    elif kind == "uvicorn":
        import uvicorn

        uvicorn.run(_asgi(headers, body), host=HOST, port=port, http="httptools", loop="uvloop",
                    log_level="warning", access_log=False, lifespan="off")  # fmt: skip
    else:
        _, interface, threads = kind.split("-")
        _granian(port, interface, int(threads), headers, body)


def _asgi(headers: list[tuple[bytes, bytes]], body: bytes) -> Callable[..., Awaitable[None]]:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


def _granian(
    port: int, interface: str, threads: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    import uvloop
    from granian.constants import HTTPModes, Interfaces
    from granian.log import LogLevels
    from granian.server.embed import Server

    texts = [(name.decode(), value.decode()) for name, value in headers]

    async def answer(scope: Any, proto: Any) -> None:
        proto.response_bytes(200, texts, body)

    kinds = {"asgi": (Interfaces.ASGINL, _asgi(headers, body)), "rsgi": (Interfaces.RSGI, answer)}
    chosen, target = kinds[interface]
    server = Server(
        target, address=HOST, port=port, interface=chosen, runtime_threads=threads, http=HTTPModes.http1,
        websockets=False, backlog=1024, backpressure=16_384, log_level=LogLevels.error,
    )  # fmt: skip
    uvloop.run(server.serve())


def _own(port: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    import uvloop

    from flowtape.server.connections import Connections
    from flowtape.server.protocol import Connection, Reply, lines
    from flowtape.settings import Settings

    reply = Reply(200, lines(headers), body)

    async def serve() -> None:
        connections = Connections(Settings())
        connections.start(lambda request: reply, 16_384)
        await connections.loop.create_server(partial(Connection, connections), HOST, port, backlog=1024)
        await connections.watch()

    uvloop.run(serve())


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]).read_bytes())
