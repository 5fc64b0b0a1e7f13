"""Many connections at a time: idle ones, slow ones, streams and those of one address, beside users who keep asking."""

import asyncio
import contextlib
import os
import resource
import socket
import time

import httpx
import pytest

from flowtape.errors import UsageError
from flowtape.server.connections import Connections, client_of, parse_networks, subject
from flowtape.settings import Settings
from processes import FLOWTAPE, LIMIT, Served, command
from serving import kept, serving
from stores import until
from tapes import T0

ACCOUNT = "/v1/account"
STREAM = "/v1/flow/options/SPY/cumulative/stream?minutes=60"
PATIENCE = 5
"""Seconds within which a user must have an answer, on a machine that does much else."""


def needs_files(number):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    few = hard != resource.RLIM_INFINITY and hard < number + 1000
    return pytest.mark.skipif(few, reason=f"needs {number + 1000} open files, may have {hard}")


@pytest.fixture(autouse=True)
def _many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    goal = 16_384 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, goal), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def request(path, key=None):
    given = f"X-Api-Key: {key}\r\n" if key else ""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{given}\r\n".encode()


@contextlib.contextmanager
def connected(address, count, first=b""):
    """Open connections, on each of which something is sent."""
    lines = []
    try:
        for _ in range(count):
            lines.append(socket.create_connection(address, LIMIT))
            if first:
                lines[-1].sendall(first)
        yield lines
    finally:
        for line in lines:
            line.close()


def has_ended(line):
    """Whether the server has closed a connection; what it sent before is read."""
    line.setblocking(False)
    try:
        while line.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def keeps_answering(url, key, times=20):
    """The slowest of some answers to a user, each on a new connection, in seconds."""
    slowest = 0.0
    for _ in range(times):
        began = time.monotonic()
        assert httpx.get(url + ACCOUNT, headers={"X-Api-Key": key}, timeout=PATIENCE).status_code == 200
        assert httpx.get(url + "/health", timeout=PATIENCE).status_code == 200
        assert httpx.get(url + "/metrics", timeout=PATIENCE).status_code == 200
        slowest = max(slowest, time.monotonic() - began)
    return slowest


@needs_files(1500)
def test_1500_idle_connections_do_not_delay_a_user(tmp_path):
    store = tmp_path / "x.duckdb"
    key = command("keys", "create", "--plan", "alpha", "--store", store).strip()
    with Served("--store", store) as served:
        address = ("127.0.0.1", int(served.url.rpartition(":")[2]))
        with connected(address, 750), connected(address, 750, request("/health")):
            assert keeps_answering(served.url, key) < PATIENCE
        assert served.end() == 0


@needs_files(2000)
def test_2000_streams_do_not_delay_a_user(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWTAPE_STREAMS_PER_KEY", "none")
    store = tmp_path / "x.duckdb"
    key = command("keys", "create", "--plan", "alpha", "--store", store).strip()
    with Served("--store", store) as served:
        port = int(served.url.rpartition(":")[2])

        async def opened():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(STREAM, key))
            await asyncio.wait_for(reader.readuntil(b"event: window"), LIMIT)
            return writer

        async def main():
            writers = []
            for _ in range(20):
                writers += await asyncio.gather(*(opened() for _ in range(100)))
            assert await asyncio.to_thread(keeps_answering, served.url, key) < PATIENCE
            shown = (await asyncio.to_thread(httpx.get, served.url + "/metrics")).text
            assert "flowtape_stream_clients 2000.0" in shown
            for writer in writers:
                writer.close()

        asyncio.run(main())
        assert served.end() == 0


@pytest.mark.parametrize("sent", [b"", request("/health"), b"GET /health HTTP/1.1\r\nHost: x\r\n"])
def test_idle_and_slow_connections_are_closed(tmp_path, sent):
    with contextlib.ExitStack() as stack:
        app = stack.enter_context(kept(tmp_path, T0)).app
        app.connections.idle = 1.0
        url = stack.enter_context(serving(app))
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        lines = stack.enter_context(connected(address, 3, sent))
        began = time.monotonic()

        def all_ended():
            for line in lines:
                if sent and not sent.endswith(b"\r\n\r\n"):
                    # A header a moment: each is small, and the last never comes.
                    with contextlib.suppress(OSError):
                        line.send(b"X-A: b\r\n")
            return len(lines) == sum(map(has_ended, lines))

        until(all_ended, 10)
        assert time.monotonic() - began < 8


def test_a_low_file_limit_is_logged_and_idle_connections_close(tmp_path):
    store = tmp_path / "x.duckdb"
    key = command("keys", "create", "--plan", "alpha", "--store", store).strip()
    shell = ("/bin/sh", "-c", 'ulimit -n 900; exec "$0" "$@"', FLOWTAPE, "serve", "--port", "0")
    with Served("--store", store, program=shell) as served:
        served.await_log("few files may be open")
        (said,) = [line for line in served.log if "few files" in line]
        assert "limit=900" in said
        assert "connections=450" in said
        address = ("127.0.0.1", int(served.url.rpartition(":")[2]))
        with connected(address, 440) as lines:
            until(lambda: sum(has_ended(line) for line in lines) >= 50, 10)
            assert keeps_answering(served.url, key, 5) < PATIENCE
            assert sum(has_ended(line) for line in lines) < 200
        served.await_log("connections closed: too many")
        assert served.end() == 0


def own_address():
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.77", 9))
        except OSError:
            pytest.skip("no address but loopback here")
        return probe.getsockname()[0]


def test_connections_of_an_address_are_limited(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWTAPE_CONNECTIONS_PER_ADDRESS", "20")
    host, store = own_address(), tmp_path / "x.duckdb"
    key = command("keys", "create", "--plan", "alpha", "--store", store).strip()
    with Served("--store", store, "--host", "0.0.0.0") as served:
        port = int(served.url.rpartition(":")[2])
        with connected((host, port), 60) as lines:
            until(lambda: sum(has_ended(line) for line in lines) == 40, 10)
            # Loopback is not counted, and does not suffer.
            assert keeps_answering(f"http://127.0.0.1:{port}", key, 3) < PATIENCE
        with connected(("127.0.0.1", port), 60) as lines:
            until(lambda: "flowtape_connections 61.0" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
                  or sum(has_ended(line) for line in lines), 10)  # fmt: skip
            assert not any(has_ended(line) for line in lines)
        assert served.end() == 0


def test_requests_through_a_proxy_count_for_the_client(tmp_path):
    proxies = parse_networks("proxies", "127.0.0.1, 10.0.0.0/8, fd00::/8")
    cases = {
        "203.0.113.7": "203.0.113.7",
        "1.1.1.1, 203.0.113.7": "203.0.113.7",
        "1.1.1.1, 203.0.113.7, 10.1.2.3": "203.0.113.7",
        "203.0.113.7:5511": "203.0.113.7",
        "[2001:db8::5]:443": "2001:db8::/64",
        "2001:db8::6": "2001:db8::/64",
        "junk, no address": "unknown",
        "": "",
        "10.0.0.2": "",
    }
    assert {forwarded: client_of(forwarded.encode(), proxies) for forwarded in cases} == cases
    assert subject("2001:db8:0:1::1") == subject("2001:db8:0:1:ffff::2")
    assert subject("::1") == subject("127.0.0.1") == ""
    assert subject("::ffff:198.51.100.2") == subject("198.51.100.2") == "198.51.100.2"


def test_too_many_requests_of_one_address_are_503(tmp_path):
    settings = Settings(connections_per_address=2, proxies="127.0.0.1")
    with kept(tmp_path, T0, settings) as made, serving(made.app) as url, contextlib.ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=url, headers={"X-Api-Key": made.keys["alpha"]}))
        of = {"X-Forwarded-For": "203.0.113.7"}
        for _ in range(2):
            assert stack.enter_context(client.stream("GET", STREAM, headers=of)).status_code == 200
        refused = client.get(ACCOUNT, headers=of)
        assert refused.status_code == 503
        assert refused.json()["error"] == "too_many_connections"
        assert refused.headers["retry-after"] == "1"
        assert client.get("/health", headers=of).status_code == 200
        assert client.get("/metrics", headers=of).status_code == 200
        assert client.get(ACCOUNT, headers={"X-Forwarded-For": "203.0.113.8"}).status_code == 200
        both = [("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-For", "127.0.0.1")]
        assert client.get(ACCOUNT, headers=both).status_code == 503


def test_an_invalid_proxy_address_is_named(tmp_path):
    env = os.environ | {"FLOWTAPE_PROXIES": "10.0.0.1, nginx"}
    said = command("serve", "--store", tmp_path / "x.duckdb", "--port", "0", code=2, env=env)
    assert "setting proxies: 'nginx' is no address or network" in said
    with pytest.raises(UsageError, match=r"10\.0\.0\.1/8"):
        Connections(Settings(proxies="10.0.0.1/8"))
