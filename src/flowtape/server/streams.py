"""Answers as server-sent events: first the whole window, then each change.

All clients of one answer share a hub, which makes each event once. docs/reference/streams.md defines the events.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import msgspec

from flowtape.model.query import Query
from flowtape.server.changes import Changes
from flowtape.server.errors import ErrorBody, Headers, Refusal
from flowtape.server.hubs import Hub, SharedLimits
from flowtape.server.protocol import Send
from flowtape.server.queries import FORMAT
from flowtape.server.routes import ROUTES, FlowAnswers, Route

KEPT_LINE_BYTES = 256 * 2**20
"""Bytes that all hubs may keep for their next change; beyond that no stream of another answer is opened."""
HEARTBEAT = 15.0
"""Seconds without an event after which a comment is sent, and the client's key is checked."""
SEND_WITHIN = 10.0
"""Seconds a client has to take what is sent."""
LINGER = 30.0
"""Seconds a hub lives on without clients, so that a client that reconnects continues where it was."""
MOST = 10_000
"""The most clients at a time."""
SUFFIX = "/stream"
LAST_EVENT_ID = "lastEventId"
"""The query parameter that replaces the header `Last-Event-ID` for clients that cannot send headers."""
RETRY = b"retry: 1000\n"
"""Milliseconds after which a client that lost its stream reconnects. It is a line of the first event, since clients
deliver a block of its own as an event without data."""
_COMMENT = b": still here\n\n"
STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Tells proxies not to buffer events.
    (b"x-accel-buffering", b"no"),
]

_LATER: Headers = [(b"retry-after", b"10")]
_OWN = ("at", "from", "to", "cursor", FORMAT.name)


def _stream_of(route: Route) -> Route:
    params = tuple(param for param in route.params if param.name not in _OWN)
    return msgspec.structs.replace(
        route,
        path=route.path + SUFFIX,
        params=params,
        summary=f"{route.summary}, as it changes",
        help=f"{route.help} Server-sent events: first the whole, then each change.",
    )


ANSWERS = {
    route.path + SUFFIX: route for route in ROUTES if route.path.endswith(("/cumulative", "/leaderboard"))
}
"""The route whose answer a stream's path follows."""
STREAMS = tuple(_stream_of(route) for route in ANSWERS.values())


def query_names(route: Route) -> tuple[str, ...]:
    """Return the names that the query of a route or stream may have, except the key's."""
    names = tuple(param.name for param in route.params if param.where == "query")
    return (*names, LAST_EVENT_ID) if route.path in ANSWERS else names


class Streams:
    """All hubs and their clients. Used on the event loop only.

    `per_key` limits the open streams of a key, None for no limit.
    """

    def __init__(self, flow: FlowAnswers, per_key: int | None = None) -> None:
        self._flow = flow
        self._per_key = per_key
        self._hubs: dict[tuple[str, Query], Hub] = {}
        self._shared = SharedLimits()
        self._changes = Changes(flow)
        self._of_key: Counter[str] = Counter()
        self.closing = False
        self.clients = 0
        self.most = MOST

    @property
    def kept_bytes(self) -> int:
        """Bytes that all hubs keep for their next change."""
        return self._shared.lines

    async def open(self, key: str, route: Route, query: Query) -> Stream:
        """Open a stream for a key (by its id), with a first event; the caller releases it.

        Raises a 429 if the key has as many as it may, a 503 if the server has, or if hubs keep as much as they may.
        """
        self._admit(key)
        place = (route.path, query)
        try:
            hub = await self._hub(place, ANSWERS[route.path])
        except BaseException:
            self._left(key)
            raise

        def release() -> None:
            self._left(key)
            if not hub.listeners:
                self._linger(place, hub)

        return Stream(self, hub, release)

    def _admit(self, key: str) -> None:
        if self._per_key is not None and self._of_key[key] >= self._per_key:
            message = f"This key has {self._per_key} streams open, the most that a key may have."
            raise Refusal(429, ErrorBody("too_many_streams", message), _LATER)
        if self.clients >= self.most or self.closing:
            message = f"There are {self.most} streams open, the most this server has."
            raise Refusal(503, ErrorBody("too_many_streams", message), _LATER)
        self.clients += 1
        self._of_key[key] += 1

    def _left(self, key: str) -> None:
        self.clients -= 1
        self._of_key[key] -= 1
        if not self._of_key[key]:
            del self._of_key[key]

    async def _hub(self, place: tuple[str, Query], route: Route) -> Hub:
        hub = self._hubs.get(place)
        if hub is not None:
            return hub
        if self._shared.lines >= KEPT_LINE_BYTES:
            message = "The streams that are open take all the memory that this server has for streams."
            raise Refusal(503, ErrorBody("too_many_streams", message), _LATER)
        made = Hub(self._flow, route, place[1], self._shared)
        try:
            await made.look()
        except BaseException:
            made.end()
            raise
        hub = self._hubs.setdefault(place, made)
        if hub is made:
            self._shared.hubs = len(self._hubs)
            self._changes.follow(hub)
            hub.task = asyncio.create_task(hub.run())
        else:
            made.end()
        return hub

    def _linger(self, place: tuple[str, Query], hub: Hub) -> None:
        def end() -> None:
            if not hub.listeners and self._hubs.get(place) is hub:
                del self._hubs[place]
                self._shared.hubs = len(self._hubs)
                self._changes.leave(hub)
                hub.end()

        asyncio.get_running_loop().call_later(LINGER, end)

    async def watch(self) -> None:
        """Wake the hubs whose answers may have changed, until cancelled."""
        await self._changes.watch()

    def close(self) -> None:
        """End all streams."""
        self.closing = True
        for hub in self._hubs.values():
            hub.end()
            for listener in hub.listeners:
                listener.set()


class Stream:
    """The stream of one client. `last_id` is the id of the last event that the client has; `valid` returns whether
    its key is still valid."""

    def __init__(self, streams: Streams, hub: Hub, release: Callable[[], None]) -> None:
        self._streams, self._hub = streams, hub
        self._release: Callable[[], None] | None = release
        self._wake = asyncio.Event()
        hub.listeners.add(self._wake)
        self._gone = False
        self.last_id = ""
        self.valid: Callable[[], bool] = lambda: True

    def release(self) -> None:
        """Remove the ended stream. May be called again."""
        self._hub.listeners.discard(self._wake)
        if self._release is not None:
            self._release()
        self._release = None

    def hang_up(self) -> None:
        """The client has gone."""
        self._gone = True
        self._wake.set()

    async def serve(self, send: Send) -> bool:
        """Send events until the client goes, its key is revoked or the server ends. Return False if the client
        takes nothing."""
        body, place = await self._next(self._hub.place_of(self.last_id))
        retry = RETRY
        while True:
            if retry and body is not _COMMENT:
                body, retry = retry + body, b""
            waits = send(body)
            if waits is not None:
                try:
                    await asyncio.wait_for(waits, SEND_WITHIN)
                except TimeoutError:
                    return False
            if self._hub.number <= place and not self._gone:
                await self._woken()
            if self._gone or self._streams.closing or not self.valid():
                return True
            body, place = await self._next(place)

    async def _woken(self) -> None:
        """Wait for an event, or until a heartbeat is due."""
        self._wake.clear()
        beat = asyncio.get_running_loop().call_later(HEARTBEAT, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            beat.cancel()

    async def _next(self, place: int) -> tuple[bytes, int]:
        """Return what to send to a client that has the events up to `place`, and the number it has then.

        The whole answer is sent if not all events since are kept.
        """
        events = self._hub.since(place) if place >= 0 else None
        if events is None:
            return await self._hub.whole()
        return b"".join(events) or _COMMENT, self._hub.number
