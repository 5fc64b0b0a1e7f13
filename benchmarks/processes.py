"""Servers as child processes: start, wait until they answer, end by their own id."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.scale import ROOT

HOST = "127.0.0.1"


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[object], log: Path, variables: Mapping[str, object] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives as long as the block; what it says goes to `log`. `variables` join the environment."""
    env = {**os.environ, **{name: str(value) for name, value in (variables or {}).items()}}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*map(str, command)], cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def get(url: str, headers: dict[str, str] | None = None) -> tuple[bytes, dict[str, str]]:
    """Body and headers (names in lower case) of a 200 answer; anything else raises `OSError`."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=60) as reply:
        return reply.read(), {name.lower(): value for name, value in reply.headers.items()}


def wait_for(
    url: str, process: subprocess.Popen[bytes], log: Path, pause: float = 0.005, limit: float = 120.0
) -> None:
    """Return as soon as `url` answers 200. Raises `RuntimeError` with the log's end if it does not."""
    until = time.monotonic() + limit
    while time.monotonic() < until and process.poll() is None:
        try:
            get(url)
        except OSError:
            time.sleep(pause)
        else:
            return
    raise RuntimeError(f"no answer from {url}:\n{log.read_text()[-2000:]}")
