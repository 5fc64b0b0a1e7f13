"""The connections of a server: limits in all and per address, and on waiting."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
import time
from collections import Counter
from collections.abc import Awaitable
from email.utils import formatdate
from functools import lru_cache
from itertools import islice

from flowtape.errors import UsageError
from flowtape.server.errors import ErrorBody, Refusal
from flowtape.server.logs import event
from flowtape.server.protocol import LONGEST_FORWARDED, Answerer, Connection, Reply, Request
from flowtape.settings import Settings

WANTED = 16_384
"""Connections that a server holds if it may open enough files."""
RESERVED = 512
"""Files that are left for stores, feeds, keys and logs."""
FULL, ROOM = 0.9, 0.8
"""Shares of all connections: at the first, idle ones are closed until the second is left."""
IDLE = 30.0
"""Seconds that a connection may wait: for a request, for the rest of one, or for its client to read."""
LOOK_EVERY = 0.25
"""Seconds between two checks of the open connections."""
_TURNS = 10
"""Turns of the event loop from accepting a connection to closing it, with a margin."""
_TOLD_EVERY = 60.0
"""Seconds between two log lines about closed connections."""
_MOST_FILES = 65_536
"""Files to ask for if the system has no limit."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_log = logging.getLogger(__name__)


def most_connections() -> int:
    """Return how many connections this process may hold.

    It raises the soft limit of open files to the hard limit, and logs a warning if that is too low for `WANTED`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    goal = _MOST_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < goal:
        resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))
        soft = goal
    if soft == resource.RLIM_INFINITY:
        return WANTED
    # A very low limit still leaves some for connections.
    most = min(WANTED, max(soft - RESERVED, soft // 2))
    if most < WANTED:
        event(
            _log, logging.WARNING, "few files may be open: raise the hard limit (ulimit -Hn, LimitNOFILE)",
            limit=soft, needed=WANTED + RESERVED, connections=most,
        )  # fmt: skip
    return most


class Connections:
    """The connections of a server and the requests in progress. Used on the event loop only.

    Raises `UsageError` if the setting `proxies` is no list of addresses and networks.
    """

    def __init__(self, settings: Settings) -> None:
        self.limit = settings.connections_per_address
        self.proxies = parse_networks("proxies", settings.proxies)
        self.most = WANTED
        self.idle = IDLE
        """Seconds that a connection may wait."""
        self.closed: Counter[str] = Counter()
        """Closed connections by reason: `address` or `room`."""
        self.stopping = False
        self.now = time.monotonic()
        self.date = b""
        """The header `Date` of every answer."""
        self.loop: asyncio.AbstractEventLoop
        self.tasks: set[asyncio.Task[None]] = set()
        """Answers in progress."""
        self._answer: Answerer
        self._connections: dict[Connection, None] = {}
        self._of_address: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._told = float("-inf")
        self._emptied: asyncio.Future[None] | None = None

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def start(self, answer: Answerer, most: int) -> None:
        """Begin to serve: `answer` answers a request, `most` limits the connections."""
        self.loop = asyncio.get_running_loop()
        self._answer, self.most, self.stopping = answer, most, False
        self._tick()

    def add(self, connection: Connection, host: str) -> bool:
        """Add a connection from a host. Return False if its address, or the server, has too many."""
        if self.stopping:
            return False
        connection.proxied = bool(self.proxies) and _within(host, self.proxies)
        address = "" if connection.proxied else subject(host)
        if address and self.limit is not None and self._of_address[address] >= self.limit:
            self._tell("address", 1, host)
            return False
        if len(self._connections) >= self.most:
            self._tell("room", 1, host)
            return False
        connection.address = address
        self._connections[connection] = None
        _add(self._of_address, address, 1)
        return True

    def discard(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        if connection in self._connections:
            del self._connections[connection]
            _add(self._of_address, connection.address, -1)
        if self._emptied is not None and not self._connections and not self._emptied.done():
            self._emptied.set_result(None)

    def answer(self, request: Request) -> Reply | Awaitable[Reply]:
        """Answer a request, at once or later."""
        return self._answer(request)

    def check(self, address: str) -> None:
        """Raise a 503 if an address has as many requests in progress as it may."""
        if address and self.limit is not None and self._requests[address] >= self.limit:
            raise _too_many(self.limit)

    def enter(self, address: str) -> None:
        """Count a request of an address that begins."""
        _add(self._requests, address, 1)

    def leave(self, address: str) -> None:
        """Count a request of an address that ended."""
        _add(self._requests, address, -1)

    def forwarded(self, header: bytes) -> str:
        """Return the address that a request from a named proxy with this `X-Forwarded-For` is counted for."""
        return client_of(header, self.proxies)

    async def watch(self) -> None:
        """Close connections that wait too long, and idle ones when there are too many, until cancelled."""
        while True:
            self._tick()
            for connection in [one for one in self._connections if self._waits_too_long(one)]:
                connection.transport.abort()
            if len(self._connections) > self.most * FULL:
                self._make_room()
            await asyncio.sleep(LOOK_EVERY)

    async def finish(self, seconds: float) -> bool:
        """Close each connection after its answers in progress are sent. Return whether all were closed in this
        time."""
        self.stopping = True
        for connection in [one for one in self._connections if not one.busy]:
            connection.transport.close()
        if self._connections:
            self._emptied = self.loop.create_future()
            await asyncio.wait([self._emptied], timeout=seconds)
        return not self._connections

    async def end(self) -> None:
        """Close all connections at once, and wait until they are closed."""
        for connection in list(self._connections):
            connection.transport.abort()
        # Connections that the loop has just accepted reach `add` some turns later, where they are refused and
        # closed.
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        while self._connections:
            await asyncio.sleep(0)

    def _tick(self) -> None:
        self.now = time.monotonic()
        self.date = b"date: %s\r\n" % formatdate(usegmt=True).encode()

    def _waits_too_long(self, one: Connection) -> bool:
        if (one.busy and not one.paused) or self.now - one.since <= self.idle:
            return False
        before, one.unsent = one.unsent, one.transport.get_write_buffer_size()
        if 0 < one.unsent < before:
            # The client reads slowly.
            one.since = self.now
            return False
        return True

    def _make_room(self) -> None:
        """Close idle connections, the oldest first, until enough are free."""
        many = int(len(self._connections) - self.most * ROOM)
        open_ones = (one for one in self._connections if not one.transport.is_closing())
        idle = list(islice((one for one in open_ones if not one.busy), many))
        for connection in idle:
            connection.transport.abort()
        if idle:
            self._tell("room", len(idle), "")

    def _tell(self, why: str, many: int, host: str) -> None:
        self.closed[why] += many
        if time.monotonic() - self._told > _TOLD_EVERY:
            self._told = time.monotonic()
            event(_log, logging.WARNING, "connections closed: too many", why=why, count=many,
                  open=self.open, one=host)  # fmt: skip


def _add(counts: Counter[str], address: str, many: int) -> None:
    """Add to the count of an address, if it has one; zero counts are deleted."""
    if address:
        counts[address] += many
        if not counts[address]:
            del counts[address]


def parse_networks(setting: str, text: str) -> tuple[Network, ...]:
    """Return the addresses and networks of a setting, a list with commas. Raises `UsageError` naming an invalid
    one."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ipaddress.ip_network(part))
        except ValueError as error:
            raise UsageError(f"setting {setting}: {part!r} is no address or network: {error}") from None
    return tuple(found)


@lru_cache(maxsize=4096)
def subject(host: str) -> str:
    """Return the address that a host's connections are counted for; for IPv6 its /64 network, which is what one
    customer has.

    Empty for this machine, whose connections are not counted.
    """
    address = _parsed(host)
    if address is None or address.is_loopback:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


@lru_cache(maxsize=4096)
def _within(host: str, networks: tuple[Network, ...]) -> bool:
    address = _parsed(host)
    return address is not None and any(address in network for network in networks)


@lru_cache(maxsize=4096)
def client_of(forwarded: bytes, proxies: tuple[Network, ...]) -> str:
    """Return the last address of `X-Forwarded-For` that is no named proxy's.

    Each proxy appends the address of its client, so anything before the last unknown address may be invented. Texts
    that are no address are counted as one.
    """
    forwarded = forwarded[-LONGEST_FORWARDED:]
    if not forwarded:
        return ""
    hops = [hop.strip() for hop in forwarded.decode("latin-1").split(",")]
    for hop in reversed(hops):
        host = hop[1:].partition("]")[0] if hop.startswith("[") else hop
        if host.count(":") == 1:
            host = host.partition(":")[0]
        if not _within(host, proxies):
            return subject(host) if _parsed(host) is not None else "unknown"
    return ""


@lru_cache(maxsize=4096)
def _parsed(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _too_many(limit: int) -> Refusal:
    message = f"There are {limit} requests of your address under way, the most that this server takes of one."
    return Refusal(503, ErrorBody("too_many_connections", message), [(b"retry-after", b"1")])
