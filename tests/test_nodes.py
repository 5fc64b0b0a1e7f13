"""Three servers on one store: one shared limit in a real Redis that stops and restarts, and a server killed under
load behind nginx."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import date

import httpx
import pytest

from flowtape.errors import StoreError, UsageError
from flowtape.server.auth.counts import SharedCounts
from flowtape.server.auth.keyfile import FileLedger
from flowtape.server.auth.keys import CHECK_EVERY, Keys
from flowtape.server.auth.keystore import StoreLedger
from flowtape.simulation.tape import Market, write_tape
from flowtape.storage.clickhouse.connection import parse
from stores import http_engine, over_http, until

REDIS, NGINX = shutil.which("redis-server"), shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
needs_redis = pytest.mark.skipif(not REDIS, reason="no redis-server here")
LIMIT = 60
PATH = "/v1/flow/options/SPY/cumulative?minutes=400&at=2026-05-12T19:00:00Z"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def ended(process):
    """Yield a process, and end it after the block."""
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def redis(port, folder):
    command = [
        REDIS,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        folder,
        "--save",
        "",
        "--requirepass",
        "hush",
    ]
    with ended(subprocess.Popen(command, stdout=subprocess.DEVNULL)) as process:
        until(lambda: listens(port))
        yield process


class Node:
    """A server and its log."""

    def __init__(self, address, folder, variables):
        folder.mkdir()
        self.log = folder / "log"
        env = os.environ | {"FLOWTAPE_KEYS": str(folder / "keys")} | variables
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flowtape", "serve", "--store", address, "--port", "0"],
                cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self.said = self.process.stdout.readline()
        self.base = re.search(r" at (\S+)", self.said).group(1)

    def end(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Return the address of a shared store with one day."""
    folder = tmp_path_factory.mktemp("store")
    write_tape(Market(seed=3, underlyings=3), date(2026, 5, 12), folder / "day.parquet", rows=3000)
    with over_http(folder / "engine") as address:
        command = [
            sys.executable,
            "-m",
            "flowtape",
            "ingest",
            folder / "day.parquet",
            "--store",
            f"{address}/flow",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        yield f"{address}/flow"


@contextmanager
def nodes(store, folder, variables):
    """Return three loaded servers, each with its own copy of the keys, and two keys."""
    book = Keys(FileLedger(folder / "keys"))
    made = [book.create("alpha", label) for label in ("one", "two")]
    book.close()
    with ExitStack() as stack:
        found = []
        for number in range(3):
            own = folder / f"keys{number}"
            shutil.copy(folder / "keys", own)
            node = Node(store, folder / f"node{number}", {**variables, "FLOWTAPE_KEYS": str(own)})
            stack.callback(node.end)
            found.append(node)
        for node in found:
            until(lambda node=node: httpx.get(node.base + "/health").status_code == 200)
        yield found, made


def ask(base, key):
    return httpx.get(base + PATH, headers={"X-Api-Key": key}, timeout=30)


def spend(found, key, many):
    """Return the statuses of `many` concurrent requests to each node."""
    with ThreadPoolExecutor(12) as pool:
        return [answer.status_code for answer in pool.map(lambda n: ask(found[n % 3].base, key), range(many))]


def used(node, key):
    return httpx.get(f"{node.base}/v1/account", headers={"X-Api-Key": key}).json()["usage_today"]


def told(found, text):
    return [node.log.read_text().count(text) for node in found]


@needs_redis
def test_three_nodes_share_a_limit_and_survive_without_redis(store, tmp_path):
    port = free_port()
    variables = {"FLOWTAPE_QUOTAS": f"redis://:hush@127.0.0.1:{port}/0", "FLOWTAPE_LIMIT_ALPHA": str(LIMIT)}
    with ExitStack() as stack:
        first = stack.enter_context(redis(port, tmp_path))
        found, (one, two) = stack.enter_context(nodes(store, tmp_path, variables))
        assert sorted(spend(found, one, 2 * LIMIT)) == [200] * LIMIT + [429] * LIMIT
        assert [used(node, one) >= LIMIT for node in found] == [True] * 3
        assert spend(found, two, 9) == [200] * 9
        # A server's unused reservation counts for the others until it is returned.
        until(lambda: [used(node, two) for node in found] == [9] * 3)

        first.send_signal(signal.SIGKILL)
        first.wait()
        assert spend(found, two, 9) == [200] * 9
        assert [ask(node.base, one).status_code for node in found] == [429] * 3
        assert told(found, "shared counts cannot be reached") == [1, 1, 1]

        with redis(port, tmp_path):
            until(lambda: told(found, "shared counts are reached again") == [1, 1, 1])
            # Redis lost its counts. The first of each node's three requests may not be counted.
            until(lambda: used(found[0], two) >= 6 and len({used(node, two) for node in found}) == 1)
            kept = used(found[0], two)
            assert kept <= 9
            assert spend(found, two, 3) == [200] * 3
            until(lambda: [used(node, two) for node in found] == [kept + 3] * 3)
        assert not any("hush" in node.log.read_text() or two in node.log.read_text() for node in found)


def keys_command(address, folder, *words):
    """Return what `flowtape keys` prints, with the keys in the store."""
    return subprocess.run(
        [sys.executable, "-m", "flowtape", "keys", *words, "--store", address], cwd=folder,
        env=os.environ | {"FLOWTAPE_KEYS": "store:"}, stdout=subprocess.PIPE, text=True, check=True,
    ).stdout.strip()  # fmt: skip


def test_keys_in_the_store_work_on_every_server(tmp_path):
    with ExitStack() as stack:
        engine, port = stack.enter_context(http_engine(tmp_path / "engine"))
        address = f"clickhouse://flow:hush@127.0.0.1:{port}/flow"
        found = []
        for number in range(2):
            found.append(Node(address, tmp_path / f"node{number}", {"FLOWTAPE_KEYS": "store:"}))
            stack.callback(found[-1].end)
        # Before the servers, which would wait for a stopped one.
        stack.callback(engine.kill)
        book = Keys(StoreLedger(parse(address)))
        stack.callback(book.close)

        def answers(key, path=PATH):
            headers = {"X-Api-Key": key}
            return [httpx.get(node.base + path, headers=headers, timeout=5).status_code for node in found]

        one, two = (
            keys_command(address, tmp_path, "create", "--plan", "alpha", "--label", "one"),
            book.create("alpha", "two"),
        )
        until(lambda: answers(one) == answers(two) == [200, 200], seconds=1)
        assert answers("ft_" + "x" * 32) == answers(one[:-1]) == [401, 401]
        keys_command(address, tmp_path, "revoke", "one")
        until(lambda: answers(one) == [401, 401], seconds=1)

        engine.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        # The store does not answer: several checks for keys pass, and no request waits for them.
        while time.monotonic() < stopped + 4 * CHECK_EVERY:
            asked = time.monotonic()
            assert answers(two, "/v1/account") == [200, 200]
            assert time.monotonic() - asked < 1
        engine.kill()
        until(lambda: told(found, "keys cannot be read, known keys stay valid") == [1, 1])
        assert answers(two, "/v1/account") == [200, 200]
        assert set(answers(two)) <= {200, 502}
        assert answers(one) == [401, 401]
        with pytest.raises(StoreError) as caught:
            book.create("alpha")

        stack.enter_context(http_engine(tmp_path / "engine", port))
        until(lambda: told(found, "keys are read again") == [1, 1])
        book.revoke("two")
        until(lambda: answers(two) == [401, 401], seconds=1)
        for name, many in {
            "keys cannot be read": 1,
            "keys are read again": 1,
            "Retrying": 0,
            "Driver": 0,
        }.items():
            assert told(found, name) == [many, many], name
        said = str(caught.value) + "".join(node.said + node.log.read_text() for node in found)
        assert not any(secret in said for secret in ("hush", "query_id", one, two))
    assert {file.parent.name for file in tmp_path.glob("**/flowtape.counts")} == {"node0", "node1"}


def test_errors_show_the_redis_address_without_password():
    for address, what in {
        "http://:hush@h/0": "http://h:6379",
        "redis://": "redis://:6379",
        "redis://:hush@h:x/0": "port",
        "redis://:hush@h:1/x?socket_timeout=y": "understood",
    }.items():
        with pytest.raises(UsageError) as caught:
            SharedCounts(address)
        assert what in str(caught.value)
        assert "hush" not in str(caught.value)


CONFIGURATION = """
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream nodes {{ {servers} }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://nodes;
            proxy_http_version 1.1;
            proxy_next_upstream error timeout;
        }}
    }}
}}
"""


@pytest.mark.skipif(not NGINX, reason="no nginx here")
def test_a_killed_node_fails_no_request_of_others(store, tmp_path):
    with ExitStack() as stack:
        found, (key, _) = stack.enter_context(nodes(store, tmp_path, {}))
        port, folder = free_port(), tmp_path / "nginx"
        folder.mkdir()
        servers = " ".join(f"server {node.base.removeprefix('http://')};" for node in found)
        (folder / "conf").write_text(CONFIGURATION.format(folder=folder, servers=servers, port=port))
        command = [NGINX, "-p", folder, "-c", folder / "conf", "-e", folder / "error.log"]
        stack.enter_context(ended(subprocess.Popen(command)))
        until(lambda: listens(port))
        whole = ask(found[0].base, key).content
        answered, stop = [], threading.Event()

        def load():
            with httpx.Client(headers={"X-Api-Key": key}, timeout=30) as client:
                while not stop.is_set():
                    answer = client.get(f"http://127.0.0.1:{port}{PATH}")
                    answered.append((answer.status_code, answer.content == whole))

        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(load) for _ in range(4)]
            until(lambda: len(answered) > 200)
            found[1].process.send_signal(signal.SIGKILL)
            found[1].process.wait()
            before = len(answered)
            until(lambda: len(answered) > before + 400)
            stop.set()
            for one in loads:
                one.result()
        # nginx retries a GET on another node, so not even the killed node's own requests fail.
        assert set(answered) == {(200, True)}
