"""The server as a process: its signals, its port, and keys made by another process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flowtape.server.auth.keyfile import FileLedger
from flowtape.server.auth.keys import Keys

from .conftest import PATH

PROGRAM = """
import asyncio, sys
from pathlib import Path
import uvloop
sys.path.insert(0, sys.argv[1])
from api.conftest import MemoryFlow
from flowtape.server.app import Application
from flowtape.server.auth.keyfile import FileLedger
from flowtape.server.auth.keys import Keys
from flowtape.server.logs import configure
from flowtape.server.server import run
from flowtape.server.auth.usage import Usage
from flowtape.settings import Settings

settings = Settings()
configure(settings)
keys = Keys(FileLedger(Path(sys.argv[2])))
app = Application(MemoryFlow(), keys, Usage(), settings)
uvloop.run(run(app, "127.0.0.1", 0, lambda _, port: print(port, flush=True)))
keys.close()
print("closed", flush=True)
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    tests = str(Path(__file__).resolve().parents[1])
    arguments = [sys.executable, "-c", PROGRAM, tests, str(tmp_path / "keys")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        yield running
        running.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_cleanly(process: subprocess.Popen[str], number: int) -> None:
    assert process.stdout
    port = int(process.stdout.readline())
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/health").status_code == 200
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert out == "closed\n"
    assert [line.split(" ", 2)[2].split(" ")[0] for line in err.splitlines()] == ["serving", "stopped"]


def test_a_key_made_by_another_process_counts_within_a_second(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert process.stdout
    url = f"http://127.0.0.1:{int(process.stdout.readline())}"
    keys = Keys(FileLedger(tmp_path / "keys"))

    def within_a_second(status: int, raw: str) -> bool:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            if httpx.get(url + PATH, headers={"X-Api-Key": raw}).status_code == status:
                return True
        return False

    raw = keys.create("alpha", "new")
    assert within_a_second(200, raw)
    keys.revoke("new")
    assert within_a_second(401, raw)
    keys.close()
