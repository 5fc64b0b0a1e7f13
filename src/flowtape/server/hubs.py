"""Hubs: each follows one answer, and makes the events of its changes once for all who listen.

A hub keeps no body. Of a cumulative body it keeps a `Line`, 24 bytes a point, from which the next change is told; of a
leaderboard a digest. The whole is rendered when somebody needs it. A hub sleeps until `wake` says that its answer may
have changed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import msgspec

from flowtape.errors import FeedError, Loading, StoreError
from flowtape.model.query import Query
from flowtape.queries import Cumulative, Leaderboard, Made
from flowtape.queries.render.changes import Line, change, digest, line_of
from flowtape.server import errors
from flowtape.server.encoded import EncodedResponse
from flowtape.server.logs import event
from flowtape.server.queries import SYMBOL
from flowtape.server.routes import FlowAnswers, Route

LOOK_EVERY = 0.05
"""Least seconds between two changes that are told of one symbol."""
LOOK_AT_ALL_EVERY = 1.0
"""Least seconds between two leaderboards."""
KEPT_EVENTS = 512
"""Events a hub keeps at most."""
KEPT_OF_ONE = 2**20
"""Bytes of events a hub keeps at most."""
KEPT_EVENT_BYTES = 64 * 2**20
"""Bytes of events that all hubs keep together: each its equal share, and no more than `KEPT_OF_ONE`."""
WIDE = 16_384
"""Bytes of a line from which one hub at a time is made an answer."""

_log = logging.getLogger(__name__)


class Told(NamedTuple):
    """What a hub makes of an answer: what it keeps of it, the event of its change, and the whole answer where it is
    needed. The event is empty where nothing changed, or where nothing was told before."""

    kept: Line | bytes
    change: bytes
    response: EncodedResponse | None


def compare(
    before: Line | bytes | None, whole: bool, made: Made, render: Callable[[], EncodedResponse]
) -> Told:
    """What is to be told of an answer after what was kept of the one before. `render` gives it whole."""
    body = made.body
    if isinstance(body, Cumulative):
        now = line_of(body)
        told = isinstance(before, Line) and not before.same(now)
        data = msgspec.json.encode(change(before, now, body)) if isinstance(before, Line) and told else b""
        return Told(now, data, render() if whole or before is None else None)
    assert isinstance(body, Leaderboard)  # noqa: S101 - for the type checker: no other route has a stream
    seen = digest(body)
    response = render() if whole or seen != before else None
    return Told(seen, response.body if response is not None and seen != before else b"", response)


@dataclass
class SharedLimits:
    """What all hubs hold together: how many there are, and bytes of their lines. `wide` lets one wide body at a time be
    made, so that many wide streams leave the readers to others."""

    hubs: int = 0
    lines: int = 0
    wide: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    @property
    def share(self) -> int:
        """Bytes of events that a hub may keep."""
        return min(KEPT_OF_ONE, KEPT_EVENT_BYTES // max(1, self.hubs))


class Hub:
    """One stream: its events, and who listens."""

    def __init__(self, flow: FlowAnswers, route: Route, query: Query, shared: SharedLimits) -> None:
        self._flow, self.route, self.query, self._shared = flow, route, query, shared
        self.asset = route.asset
        self.place = route.path, query.symbol
        self._token = secrets.token_hex(4)
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._seen: object = None
        self._told: Line | bytes | None = None
        self._whole: weakref.ref[EncodedResponse] | None = None
        self.trouble = b""
        """The body of the refusal that was told last; empty while there are answers."""
        self._looking = asyncio.Lock()
        self._changed = asyncio.Event()
        self.number = 0
        self.listeners: set[asyncio.Event] = set()
        self.task: asyncio.Task[None] | None = None

    @property
    def of_all(self) -> bool:
        """Whether the answer compares all symbols."""
        return SYMBOL not in self.route.params

    def wake(self) -> None:
        """The answer may have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Tell each change until cancelled."""
        pause = LOOK_AT_ALL_EVERY if self.of_all else LOOK_EVERY
        while True:
            await self._changed.wait()
            self._changed.clear()
            began = time.monotonic()
            try:
                await self.look()
            except Exception as error:
                if not self.trouble:
                    event(_log, logging.ERROR, "stream failed", path=self.route.path, error=repr(error))
                self._fail(errors.internal())
            # Who takes long leaves as long to others.
            await asyncio.sleep(max(time.monotonic() - began, pause))

    async def look(self) -> None:
        """Make the event of what has changed since the last look."""
        async with self._looking:
            await self._take(whole=False)
            self._forget()

    async def whole(self) -> tuple[bytes, int]:
        """The event that a client begins with, and its number."""
        async with self._looking:
            response = None if self._whole is None or self.trouble else self._whole()
            if response is None or self._flow.state(self.route, self.query) != self._seen or self._cannot():
                response = await self._take(whole=True)
            if response is None:
                return self._event(b"unavailable", self.trouble), self.number
            return self._event(b"leaderboard" if self.of_all else b"window", response.body), self.number

    def _cannot(self) -> bool:
        try:
            self._flow.check(self.route.asset)
        except (StoreError, FeedError, Loading):
            return True
        return False

    async def _take(self, *, whole: bool) -> EncodedResponse | None:
        """Make the answer as it is now and tell its change. Returns it where the `whole` is needed and there is one."""
        try:
            self._flow.check(self.route.asset)
            async with self._lane():
                use = partial(compare, self._told, whole)
                self._seen, told = await self._flow.follow(self.route, self.query, use)
        except (StoreError, FeedError, Loading) as error:
            self._fail(errors.upstream(error))
            return None
        self.trouble = b""
        first, kept = self._told is None, told.kept
        if told.change or told.response is not None:
            self._whole = None if told.response is None else weakref.ref(told.response)
        self._keep(kept)
        if self.of_all:
            if told.change:
                self._publish(b"leaderboard", told.change)
        elif first and told.response is not None:
            self._publish(b"window", told.response.body)
        elif told.change:
            self._publish(b"change", told.change)
        return told.response

    def _lane(self) -> AbstractAsyncContextManager[Any]:
        return self._shared.wide if _weight(self._told) > WIDE else nullcontext()

    def _fail(self, refusal: errors.Refusal) -> None:
        """Tell that there is no answer, once for each reason; the next answer is told whole."""
        data = msgspec.json.encode(refusal.body)
        if data != self.trouble:
            self._publish(b"unavailable", data)
        self.trouble, self._seen, self._whole = data, None, None
        self._keep(None)

    def _keep(self, told: Line | bytes | None) -> None:
        self._shared.lines += _weight(told) - _weight(self._told)
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
        share = self._shared.share
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
