"""Who is connected: how many connections there may be, in all and of one address, and which are closed for room.

Granian accepts connections and closes idle and slow ones by itself, but has no limit per address. So the server looks
at the sockets of its own process, and shuts down those that are too many.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import resource
import socket
import stat
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from flowtape.errors import UsageError
from flowtape.server.errors import ErrorBody, Refusal
from flowtape.server.logs import event
from flowtape.settings import Settings

WANTED = 16_384
"""Connections that a server holds where it may open enough files."""
RESERVED = 512
"""Files that are left for stores, feeds, keys and logs."""
FULL, ROOM = 0.9, 0.8
"""Shares of all connections: at the first, idle ones are closed until the second is left."""
LOOK_EVERY = 0.5
"""Seconds between looks at the open connections."""
_TOLD_EVERY = 60.0
"""Seconds between lines in the log about closed connections."""
_MOST_FILES = 65_536
"""Files to ask for where the system sets no bound."""

Peer = tuple[str, int]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_log = logging.getLogger(__name__)


def most_connections() -> int:
    """How many connections this process may hold: raises its soft limit of open files to the hard one, and warns in the
    log where that is too low for `WANTED`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    goal = _MOST_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < goal:
        resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))
        soft = goal
    if soft == resource.RLIM_INFINITY:
        return WANTED
    # Even a very low limit leaves some for connections.
    most = min(WANTED, max(soft - RESERVED, soft // 2))
    if most < WANTED:
        event(
            _log, logging.WARNING, "few files may be open: raise the hard limit (ulimit -Hn, LimitNOFILE)",
            limit=soft, needed=WANTED + RESERVED, connections=most,
        )  # fmt: skip
    return most


class Visit(NamedTuple):
    """A request under way: its connection, and the address it is counted for (empty: none)."""

    peer: Peer | None
    address: str


class _Line(NamedTuple):
    """A socket of this process: its inode, and its peer where it is a client's connection."""

    inode: int
    peer: Peer | None


class Connections:
    """The connections and the requests under way. `look` runs in any thread, the rest on the event loop.

    Raises `UsageError` where the setting `proxies` is no list of addresses and networks.
    """

    def __init__(self, settings: Settings) -> None:
        self.limit = settings.connections_per_address
        self.proxies = parse_networks("proxies", settings.proxies)
        self.most = WANTED
        self.open = 0
        """Connections found by the last look."""
        self.closed: Counter[str] = Counter()
        """Connections that were closed, by why: `address` or `room`."""
        self._port = 0
        self._busy: set[Peer] = set()
        self._requests: Counter[str] = Counter()
        self._lines: dict[int, _Line] = {}
        self._told = float("-inf")

    def enter(self, peer: Peer | None, forwarded: Iterable[bytes], *, limited: bool) -> Visit:
        """Count a request; `forwarded` are its `X-Forwarded-For` headers, read only from a named proxy.

        Raises a 503 where the request is `limited` and its address has too many under way. Each visit needs a `leave`.
        """
        if peer is None:
            return Visit(None, "")
        address = self._counted(peer[0], forwarded)
        if address and limited and self.limit is not None and self._requests[address] >= self.limit:
            raise _too_many(self.limit)
        if address:
            self._requests[address] += 1
        self._busy.add(peer)
        return Visit(peer, address)

    def leave(self, visit: Visit) -> None:
        """A request has ended."""
        if visit.peer is not None:
            self._busy.discard(visit.peer)
        if visit.address:
            self._requests[visit.address] -= 1
            if not self._requests[visit.address]:
                del self._requests[visit.address]

    def _counted(self, host: str, forwarded: Iterable[bytes]) -> str:
        """The address that a request is counted for; empty for this machine and for a proxy that names none."""
        if self.proxies and _within(host, self.proxies):
            return _client_of(b",".join(forwarded)[-_LONGEST_FORWARDED:], self.proxies)
        return subject(host)

    async def watch(self, port: int, most: int) -> None:
        """Look at the connections of a port again and again, until cancelled; there may be `most`."""
        self._port, self.most = port, most
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                await asyncio.to_thread(self.look)
            except Exception as error:
                event(_log, logging.ERROR, "connections cannot be looked at", error=repr(error))

    def look(self) -> None:
        """Close the connections that are too many: of one address, and idle ones where there is little room."""
        self._lines = _sockets(self._lines, self._port)
        clients = {fd: line for fd, line in self._lines.items() if line.peer is not None}
        self.open = len(clients)
        busy = set(self._busy)
        excess = [] if self.limit is None else self._excess(clients, busy, self.limit)
        self._close("address", excess, clients)
        left = {fd: line for fd, line in clients.items() if fd not in excess}
        if len(left) > self.most * FULL:
            idle = [fd for fd, line in left.items() if line.peer not in busy]
            self._close("room", idle[: int(len(left) - self.most * ROOM)], left)

    def _excess(self, clients: Mapping[int, _Line], busy: set[Peer], limit: int) -> list[int]:
        """The connections beyond the limit of their address: idle ones before busy ones, younger before older."""
        by_address: dict[str, list[int]] = {}
        for fd, line in clients.items():
            host = line.peer[0] if line.peer else ""
            address = "" if self.proxies and _within(host, self.proxies) else subject(host)
            if address:
                by_address.setdefault(address, []).append(fd)
        excess: list[int] = []
        for found in by_address.values():
            if len(found) > limit:
                excess += sorted(found, key=lambda fd: clients[fd].peer not in busy)[limit:]
        return excess

    def _close(self, why: str, found: list[int], clients: Mapping[int, _Line]) -> None:
        for fd in found:
            _shut_down(fd, clients[fd].inode)
        if not found:
            return
        self.closed[why] += len(found)
        if time.monotonic() - self._told > _TOLD_EVERY:
            self._told = time.monotonic()
            peer = clients[found[0]].peer
            event(_log, logging.WARNING, "connections closed: too many", why=why, count=len(found),
                  open=self.open, one=peer[0] if peer else "")  # fmt: skip


def parse_networks(setting: str, text: str) -> tuple[Network, ...]:
    """Addresses and networks of a setting, a list with commas. Raises `UsageError` naming the one that is none."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ipaddress.ip_network(part))
        except ValueError as error:
            raise UsageError(f"setting {setting}: {part!r} is no address or network: {error}") from None
    return tuple(found)


_LONGEST_FORWARDED = 1024


@lru_cache(maxsize=4096)
def subject(host: str) -> str:
    """What connections from a host are counted for: its address, of IPv6 its network of 64 bits, since that is what one
    customer is given; empty for this machine, whose connections are not counted."""
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
def _client_of(forwarded: bytes, proxies: tuple[Network, ...]) -> str:
    """What the last address of `X-Forwarded-For` that is no named proxy's is counted for.

    Each proxy adds the address that it was asked from at the end, so what stands before the first stranger from the end
    may be invented. What is no address is counted as one.
    """
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


def _sockets(known: Mapping[int, _Line], port: int) -> dict[int, _Line]:
    """The sockets of this process, those known before first. A peer is told of connections to `port` alone."""
    now = dict(_inodes())
    lines = {fd: line for fd, line in known.items() if now.get(fd) == line.inode}
    for fd, inode in now.items():
        if fd not in lines:
            lines[fd] = _Line(inode, _peer(fd, port))
    return lines


def _inodes() -> Iterable[tuple[int, int]]:
    for name in os.listdir("/dev/fd"):
        try:
            status = os.fstat(int(name))
        except (OSError, ValueError):
            continue
        if stat.S_ISSOCK(status.st_mode):
            yield int(name), status.st_ino


# A descriptor may be closed and its number be another file's a moment later. So none is closed here, nor copied:
# closing a copy of a database's file would drop its locks (see `files.Held`).
def _peer(fd: int, port: int) -> Peer | None:
    try:
        line = socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        if line.family not in (socket.AF_INET, socket.AF_INET6) or line.getsockname()[1] != port:
            return None
        name: tuple[Any, ...] = line.getpeername()
        return str(name[0]), int(name[1])
    except OSError:
        return None
    finally:
        line.detach()


def _shut_down(fd: int, inode: int) -> None:
    try:
        line = socket.socket(fileno=fd)
    except OSError:
        return
    try:
        if os.fstat(fd).st_ino == inode:
            line.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    finally:
        line.detach()
