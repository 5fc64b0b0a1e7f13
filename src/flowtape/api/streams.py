"""Answers as they change, as server-sent events: the window first, then each change of it.

All who ask for the same share a hub, which makes each event once. The format of the events is in docs/streams.md.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

import msgspec

from flowtape.api import errors
from flowtape.api.errors import ErrorBody, Headers, Refusal
from flowtape.api.queries import FORMAT, SYMBOL
from flowtape.api.routes import ROUTES, FlowAnswers, Route
from flowtape.api.wire import Wire
from flowtape.errors import FeedError, Loading, StoreError
from flowtape.query import Query

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Streaming = Callable[[Receive, Send], Awaitable[None]]
Body = dict[str, Any]

LOOK_EVERY = 0.05
"""Seconds between looks for a change."""
KEPT_EVENTS = 512
"""Events a hub keeps; a client further behind is dropped, and begins with a new window when it comes back."""
HEARTBEAT = 15.0
"""Seconds without an event after which a comment is sent, and the client's key looked at."""
SEND_WITHIN = 10.0
"""Seconds a client is given to take what is sent."""
LINGER = 30.0
"""Seconds a hub lives on without clients, so that one that reconnects goes on where it was."""
MOST = 10_000
"""Clients at a time."""
SUFFIX = "/stream"
LAST_EVENT_ID = "lastEventId"
"""For clients that cannot send the header `Last-Event-ID`."""
RETRY = b"retry: 1000\n"
"""Milliseconds after which a client that lost its stream comes back. It is a line of a client's first event, since
clients deliver a block of its own as an event without data."""
_COMMENT = b": still here\n\n"
STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Proxies that gather answers before they pass them on would hold events back.
    (b"x-accel-buffering", b"no"),
]

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
"""What a stream's path shows the changes of."""
STREAMS = tuple(_stream_of(route) for route in ANSWERS.values())


def query_names(route: Route) -> tuple[str, ...]:
    """The names that the query of a route or stream may have, the key's aside."""
    names = tuple(param.name for param in route.params if param.where == "query")
    return (*names, LAST_EVENT_ID) if route.path in ANSWERS else names


class Hub:
    """One stream: its events, and who listens."""

    def __init__(self, flow: FlowAnswers, route: Route, query: Query) -> None:
        self._flow, self._route, self._query = flow, route, query
        self._token = secrets.token_hex(4)
        self._events: deque[bytes] = deque(maxlen=KEPT_EVENTS)
        self._wire: Wire | None = None
        self._body: Body | None = None
        self._trouble = b""
        self.number = 0
        self.listeners: set[asyncio.Event] = set()
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Look for changes until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY if SYMBOL in self._route.params else 1.0)

    async def look(self) -> None:
        """Make the event of what has changed since the last look."""
        try:
            self._flow.check(self._route.asset)
            wire = self._flow.answer(self._route, self._query, "json")
            if not isinstance(wire, Wire):
                wire = await wire
        except (StoreError, FeedError, Loading) as error:
            refused = msgspec.json.encode(errors.upstream(error).body)
            # Of a window that is being loaded, each whole percent is told.
            if refused != self._trouble:
                self._publish(b"unavailable", refused)
            self._trouble, self._wire, self._body = refused, None, None
            return
        self._trouble = b""
        if wire is not self._wire:
            self._tell(wire)

    def _tell(self, wire: Wire) -> None:
        before, self._wire = self._body, wire
        self._body = msgspec.json.decode(wire.body)
        if SYMBOL not in self._route.params:
            if before is None or _without_time(before) != _without_time(self._body):
                self._publish(b"leaderboard", wire.body)
        elif before is None:
            self._publish(b"window", wire.body)
        elif before != self._body:
            self._publish(b"change", msgspec.json.encode(change(before, self._body)))

    def _publish(self, kind: bytes, data: bytes) -> None:
        self.number += 1
        self._events.append(self._event(kind, data))
        for listener in self.listeners:
            listener.set()

    def _event(self, kind: bytes, data: bytes) -> bytes:
        return b"event: %s\nid: %s-%d\ndata: %s\n\n" % (kind, self._token.encode(), self.number, data)

    def whole(self) -> bytes:
        """The event that a client begins with."""
        if self._wire is None:
            return self._events[-1]
        return self._event(b"window" if SYMBOL in self._route.params else b"leaderboard", self._wire.body)

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


def change(before: Body, now: Body) -> Body:
    """What makes one cumulative body of another: drop the points before `first`, add `shift` to `cumulative` of the
    rest, put `points` in their places by `ts`."""
    points = now["points"]
    first = points[0]["ts"] if points else None
    kept = {point["ts"]: point for point in before["points"] if first is not None and point["ts"] >= first}
    shift = 0
    for point in points:
        if point["ts"] in kept:
            shift = point["cumulative"] - kept[point["ts"]]["cumulative"]
            # Sums of floats would not meet to the last digit.
            shift = shift if isinstance(shift, int) else 0
            break
    told = [
        point
        for point in points
        if (old := kept.get(point["ts"])) is None or {**old, "cumulative": old["cumulative"] + shift} != point
    ]
    gone = sorted(kept.keys() - {point["ts"] for point in points})
    made = {"symbol": now["symbol"], "minutes": now["minutes"], "count": now["count"], "first": first,
            "shift": shift, "points": told}  # fmt: skip
    return made | ({"gone": gone} if gone else {})


def _without_time(body: Body) -> Body:
    return {name: value for name, value in body.items() if name != "generatedUtc"}


class Streams:
    """All hubs and their clients. Used from the event loop only."""

    def __init__(self, flow: FlowAnswers) -> None:
        self._flow = flow
        self._hubs: dict[tuple[str, Query], Hub] = {}
        self._closing = False
        self.clients = 0
        self.most = MOST

    def admit(self) -> None:
        """Raise a 503 where there is no room for one more client."""
        if self.clients >= self.most or self._closing:
            body = ErrorBody(
                "too_many_streams", f"There are {self.most} streams open, the most this server has."
            )
            raise Refusal(503, body, [(b"retry-after", b"10")])

    async def open(self, route: Route, query: Query) -> Hub:
        """The hub of a stream, with something to begin with."""
        key = (route.path, query)
        hub = self._hubs.get(key)
        if hub is None:
            hub = Hub(self._flow, ANSWERS[route.path], query)
            await hub.look()
            hub = self._hubs.setdefault(key, hub)
            if hub.task is None:
                hub.task = asyncio.create_task(hub.run())
                self._linger(key, hub)
        return hub

    async def serve(
        self, hub: Hub, last_id: str, valid: Callable[[], bool], receive: Receive, send: Send
    ) -> None:
        """Send a client its events until it goes, falls too far behind, its key is revoked or the server ends."""
        wake = asyncio.Event()
        hub.listeners.add(wake)
        self.clients += 1
        gone = asyncio.ensure_future(_gone(receive, wake))
        try:
            await self._feed(hub, hub.place_of(last_id), wake, gone, send, valid)
        finally:
            gone.cancel()
            self.clients -= 1
            hub.listeners.discard(wake)
            self._linger_if_left(hub)

    async def _feed(
        self, hub: Hub, place: int, wake: asyncio.Event, gone: asyncio.Future[None], send: Send,
        valid: Callable[[], bool],
    ) -> None:  # fmt: skip
        events = hub.since(place) if place >= 0 else None
        body, retry = hub.whole() if events is None else b"".join(events) or _COMMENT, RETRY
        place = hub.number
        while True:
            if retry and body is not _COMMENT:
                body, retry = retry + body, b""
            try:
                await asyncio.wait_for(send(_part(body)), SEND_WITHIN)
            except (TimeoutError, OSError, RuntimeError):
                return
            if not hub.number > place:
                wake.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), HEARTBEAT)
            if gone.done() or self._closing or not valid():
                break
            events = hub.since(place)
            if events is None:
                break
            body = b"".join(events) or _COMMENT
            place = hub.number
        with suppress(OSError, RuntimeError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _linger_if_left(self, hub: Hub) -> None:
        for key, other in self._hubs.items():
            if other is hub and not hub.listeners:
                self._linger(key, hub)

    def _linger(self, key: tuple[str, Query], hub: Hub) -> None:
        def end() -> None:
            if not hub.listeners and hub.task is not None:
                hub.task.cancel()
                self._hubs.pop(key, None)

        asyncio.get_running_loop().call_later(LINGER, end)

    def close(self) -> None:
        """End all streams."""
        self._closing = True
        for hub in self._hubs.values():
            if hub.task is not None:
                hub.task.cancel()
            for listener in hub.listeners:
                listener.set()


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _gone(receive: Receive, wake: asyncio.Event) -> None:
    """Ends when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    wake.set()
