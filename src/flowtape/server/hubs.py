"""Hubs: each one follows one answer and makes the events of its changes once for all its clients.

A hub stores no body. For a cumulative body it stores a `Line`, 24 bytes per point, from which the next change is
computed; for a leaderboard a digest. The whole body is rendered when a client needs it. A hub sleeps until `wake`
says that its answer may have changed.
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
"""The least seconds between two changes of one symbol."""
LOOK_AT_ALL_EVERY = 1.0
"""The least seconds between two leaderboards."""
KEPT_EVENTS = 512
"""The most events of a hub."""
KEPT_OF_ONE = 2**20
"""The most bytes of events of a hub."""
KEPT_EVENT_BYTES = 64 * 2**20
"""Bytes of events of all hubs together. Each has an equal share, at most `KEPT_OF_ONE`."""
WIDE = 16_384
"""Bytes of a line from which answers are computed for one hub at a time."""

_log = logging.getLogger(__name__)


class Told(NamedTuple):
    """The result of comparing an answer with the previous one: the stored form, the event of the change, and the
    whole response if it is needed. The event is empty if nothing changed, or if there was no previous answer."""

    kept: Line | bytes
    change: bytes
    response: EncodedResponse | None


def compare(
    before: Line | bytes | None, whole: bool, made: Made, render: Callable[[], EncodedResponse]
) -> Told:
    """Return the change from the stored form `before` to an answer. `render` returns the whole response."""
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
    """The limits that all hubs share: the number of hubs, and the bytes of their lines. `wide` allows one large
    body at a time to be computed, so that many large streams leave reader threads to other requests."""

    hubs: int = 0
    lines: int = 0
    wide: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    @property
    def share(self) -> int:
        """Bytes of events that each hub may keep."""
        return min(KEPT_OF_ONE, KEPT_EVENT_BYTES // max(1, self.hubs))


class Hub:
    """The events of one stream, and its clients."""

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
        """The body of the last error that was sent; empty while there are answers."""
        self._looking = asyncio.Lock()
        self._changed = asyncio.Event()
        self.number = 0
        self.listeners: set[asyncio.Event] = set()
        self.task: asyncio.Task[None] | None = None

    @property
    def of_all(self) -> bool:
        """Whether the answer is a cross-section."""
        return SYMBOL not in self.route.params

    def wake(self) -> None:
        """Note that the answer may have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Make an event for each change, until cancelled."""
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
            # A slow answer is followed by a pause of the same length, for other streams.
            await asyncio.sleep(max(time.monotonic() - began, pause))

    async def look(self) -> None:
        """Make the event of what has changed since the last call."""
        async with self._looking:
            await self._take(whole=False)
            self._forget()

    async def whole(self) -> tuple[bytes, int]:
        """Return the event with the whole answer, and its number."""
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
        """Compute the current answer and make the event of its change. Return the response if `whole` is set and
        there is one."""
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
        """Make an event that there is no answer, once per reason. The next answer is sent whole."""
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
        """Drop the oldest events until the rest fit. If none is left, clients are sent the whole answer."""
        share = self._shared.share
        while self._events and (len(self._events) > KEPT_EVENTS or self._bytes > share):
            self._bytes -= len(self._events.popleft())

    def _event(self, kind: bytes, data: bytes) -> bytes:
        return b"event: %s\nid: %s-%d\ndata: %s\n\n" % (kind, self._token.encode(), self.number, data)

    def since(self, number: int) -> list[bytes] | None:
        """Return the events after one; None if some of them are dropped."""
        missing = self.number - number
        if not 0 <= missing <= len(self._events):
            return None
        return [self._events[place] for place in range(len(self._events) - missing, len(self._events))]

    def place_of(self, last_id: str) -> int:
        """Return the number of an event by its id; −1 if it is not of this hub."""
        token, _, number = last_id.partition("-")
        return int(number) if token == self._token and number.isdecimal() and len(number) < 19 else -1

    def end(self) -> None:
        """Stop the hub and free its memory."""
        if self.task is not None:
            self.task.cancel()
        self._keep(None)


def _weight(told: Line | bytes | None) -> int:
    return told.nbytes if isinstance(told, Line) else len(told or b"")
