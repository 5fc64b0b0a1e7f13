"""Hubs: each follows one answer, and makes the events of its changes once for all who listen.

A hub keeps no body. Of a cumulative body it keeps a `Line`, 24 bytes a point, from which the next change is told; of a
leaderboard a digest. The whole is asked again when somebody needs it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections import deque
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from flowtape.errors import FeedError, Loading, StoreError
from flowtape.model.query import Query
from flowtape.server import errors
from flowtape.server.encoded import Wire
from flowtape.server.logs import event
from flowtape.server.queries import SYMBOL
from flowtape.server.routes import FlowAnswers, Route

Body = dict[str, Any]
Numbers = npt.NDArray[Any]

LOOK_EVERY = 0.05
"""Seconds between looks for a change."""
KEPT_EVENTS = 512
"""Events a hub keeps at most."""
KEPT_OF_ONE = 2**20
"""Bytes of events a hub keeps at most."""
KEPT_EVENT_BYTES = 64 * 2**20
"""Bytes of events that all hubs keep together: each its equal share, and no more than `KEPT_OF_ONE`."""
WIDE = 65_536
"""Bytes of body from which it is taken apart aside, and one hub at a time."""

_log = logging.getLogger(__name__)


class Line(NamedTuple):
    """The points of a cumulative answer as arrays of one length.

    `ts` is in seconds since 1970 and rises. `rest` is a hash of each point's fields other than `cumulative`.
    `cumulative` holds whole numbers or floats.
    """

    ts: Numbers
    rest: Numbers
    cumulative: Numbers

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(int(column.nbytes) for column in self)


NO_LINE = Line(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))


def line_of(body: Body) -> Line:
    """The line of a cumulative body."""
    points = body["points"]
    if not points:
        return NO_LINE
    running = np.array([point["cumulative"] for point in points])
    times = np.array([point["ts"][:-1] for point in points], "datetime64[s]")
    # Each process hashes in its own way, so nobody can make two points that hash alike.
    rest = [hash(msgspec.msgpack.encode({**point, "cumulative": 0})) for point in points]
    return Line(times.astype(np.int64), np.array(rest, np.int64), running)


def change(before: Line, now: Line, body: Body) -> Body:
    """What makes `body`, whose line is `now`, of the body before: drop the points before `first`, add `shift` to
    `cumulative` of the rest, put `points` in their places by `ts`."""
    points = body["points"]
    start = np.searchsorted(before.ts, now.ts[0]) if points else len(before.ts)
    kept = Line(*(column[start:] for column in before))
    _, mine, theirs = np.intersect1d(kept.ts, now.ts, assume_unique=True, return_indices=True)
    whole = kept.cumulative.dtype.kind == now.cumulative.dtype.kind == "i"
    # Sums of floats would not meet to the last digit.
    shift = int(now.cumulative[theirs[0]] - kept.cumulative[mine[0]]) if whole and len(mine) else 0
    same = np.zeros(len(points), bool)
    same[theirs] = (kept.rest[mine] == now.rest[theirs]) & (
        kept.cumulative[mine] + shift == now.cumulative[theirs]
    )
    made = {
        "symbol": body["symbol"],
        "minutes": body["minutes"],
        "count": body["count"],
        "first": points[0]["ts"] if points else None,
        "shift": shift,
        "points": [points[place] for place in np.flatnonzero(~same)],
    }
    gone = np.setdiff1d(kept.ts, now.ts, assume_unique=True)
    texts = [f"{text}Z" for text in np.datetime_as_string(gone.astype("datetime64[s]"))]
    return made | ({"gone": texts} if texts else {})


@dataclass
class Room:
    """What all hubs hold together: how many there are, and bytes of their lines. `lane` lets one wide body at a time be
    made, so that many wide streams leave the readers to others."""

    hubs: int = 0
    lines: int = 0
    lane: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    @property
    def share(self) -> int:
        """Bytes of events that a hub may keep."""
        return min(KEPT_OF_ONE, KEPT_EVENT_BYTES // max(1, self.hubs))


class Hub:
    """One stream: its events, and who listens."""

    def __init__(self, flow: FlowAnswers, route: Route, query: Query, room: Room) -> None:
        self._flow, self._route, self._query, self._room = flow, route, query, room
        self._token = secrets.token_hex(4)
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._seen: object = None
        self._etag = b""
        self._told: Line | bytes | None = None
        self._trouble = b""
        self._wide = False
        self._looking = asyncio.Lock()
        self.number = 0
        self.listeners: set[asyncio.Event] = set()
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Look for changes until cancelled."""
        while True:
            began = time.monotonic()
            try:
                await self.look()
            except Exception as error:
                if not self._trouble:
                    event(_log, logging.ERROR, "stream failed", path=self._route.path, error=repr(error))
                self._fail(errors.internal())
            took = time.monotonic() - began
            # Who takes long leaves as long to others.
            await asyncio.sleep(max(took, LOOK_EVERY if SYMBOL in self._route.params else 1.0))

    async def look(self) -> None:
        """Make the event of what has changed since the last look."""
        async with self._looking:
            state = None if self._trouble else self._flow.state(self._route, self._query)
            if state is None or state != self._seen or self._cannot():
                await self._take()
            self._forget()

    async def whole(self) -> tuple[bytes, int]:
        """The event that a client begins with, and its number."""
        async with self._looking:
            wire = await self._take()
            if wire is None:
                return self._event(b"unavailable", self._trouble), self.number
            return self._event(
                b"window" if SYMBOL in self._route.params else b"leaderboard", wire.body
            ), self.number

    def _cannot(self) -> bool:
        try:
            self._flow.check(self._route.asset)
        except (StoreError, FeedError, Loading):
            return True
        return False

    async def _take(self) -> Wire | None:
        """The answer as it is now, once its change is told; None where there is none."""
        try:
            self._flow.check(self._route.asset)
            self._seen = self._flow.state(self._route, self._query)
            async with self._lane():
                wire = self._flow.answer(self._route, self._query, "json")
                if not isinstance(wire, Wire):
                    wire = await wire
                if wire.etag != self._etag:
                    await self._tell(wire)
        except (StoreError, FeedError, Loading) as error:
            self._fail(errors.upstream(error))
            return None
        self._trouble = b""
        return wire

    def _lane(self) -> AbstractAsyncContextManager[Any]:
        return self._room.lane if self._wide else nullcontext()

    def _fail(self, refusal: errors.Refusal) -> None:
        """Tell that there is no answer, once for each reason; the next answer is told whole."""
        data = msgspec.json.encode(refusal.body)
        if data != self._trouble:
            self._publish(b"unavailable", data)
        self._trouble, self._seen, self._etag = data, None, b""
        self._keep(None)

    async def _tell(self, wire: Wire) -> None:
        self._wide = len(wire.body) > WIDE
        kind, data, told = await asyncio.to_thread(self._read, wire) if self._wide else self._read(wire)
        self._keep(told)
        self._etag = wire.etag
        if kind:
            self._publish(kind, data)

    def _read(self, wire: Wire) -> tuple[bytes, bytes, Line | bytes]:
        """The event of an answer, without a kind where nothing changed, and what is to be kept of the answer."""
        before = self._told
        body: Body = msgspec.json.decode(wire.body)
        if SYMBOL not in self._route.params:
            body.pop("generatedUtc", None)
            digest = hashlib.blake2b(msgspec.msgpack.encode(body)).digest()
            return b"" if digest == before else b"leaderboard", wire.body, digest
        now = line_of(body)
        if not isinstance(before, Line):
            return b"window", wire.body, now
        return b"change", msgspec.json.encode(change(before, now, body)), now

    def _keep(self, told: Line | bytes | None) -> None:
        self._room.lines += _weight(told) - _weight(self._told)
        self._told = told

    def _publish(self, kind: bytes, data: bytes) -> None:
        self.number += 1
        made = self._event(kind, data)
        self._events.append(made)
        self._bytes += len(made)
        self._forget()
        for listener in self.listeners:
            listener.set()

    def _forget(self) -> None:
        """Drop the oldest events until the rest fit. None may be left: then who listens is sent the whole."""
        share = self._room.share
        while self._events and (len(self._events) > KEPT_EVENTS or self._bytes > share):
            self._bytes -= len(self._events.popleft())

    def _event(self, kind: bytes, data: bytes) -> bytes:
        return b"event: %s\nid: %s-%d\ndata: %s\n\n" % (kind, self._token.encode(), self.number, data)

    def since(self, number: int) -> list[bytes] | None:
        """The events after one; None where not all of them are kept."""
        missing = self.number - number
        if not 0 <= missing <= len(self._events):
            return None
        return [self._events[place] for place in range(len(self._events) - missing, len(self._events))]

    def place_of(self, last_id: str) -> int:
        """The number of an event by its id; −1 where it is none of this hub."""
        token, _, number = last_id.partition("-")
        return int(number) if token == self._token and number.isdecimal() and len(number) < 19 else -1

    def end(self) -> None:
        """Stop looking, and give back what is kept."""
        if self.task is not None:
            self.task.cancel()
        self._keep(None)


def _weight(told: Line | bytes | None) -> int:
    return told.nbytes if isinstance(told, Line) else len(told or b"")
