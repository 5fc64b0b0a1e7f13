"""The ASGI application: who asks, what for, and the answer.

A request is checked in this order, and the first that fails answers it: path (404), method (405), key (401),
plan (403), parameters (400), store and feed (502), quota (429). The quota is looked at before an answer is
made, and spent only when there is one, so a refused request costs nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from typing import Any, TypeVar

import msgspec

from flowtape.errors import FeedError, Loading, StoreError
from flowtape.model.query import Query
from flowtape.queries import Made
from flowtape.server import errors
from flowtape.server.account import ACCOUNT, SYMBOLS, account
from flowtape.server.auth.keys import Key, Keys
from flowtape.server.auth.quotas import Quotas
from flowtape.server.auth.usage import Usage
from flowtape.server.connections import Connections
from flowtape.server.encoded import COMMON, ENDPOINT_VERSION, EXPOSE, JSON, Reply, Wire, reply, wire_of
from flowtape.server.errors import Headers, Refusal, UnhealthyBody
from flowtape.server.formats import Format, accepted
from flowtape.server.hosts import Hosts
from flowtape.server.logs import event, redact
from flowtape.server.metrics import Metrics
from flowtape.server.names import Names, plain
from flowtape.server.pages import ALWAYS, GUARDED, Pages
from flowtape.server.params import KEY_PARAMETER, MOST_QUERY, check_query, is_named, key_in, query_pairs
from flowtape.server.queries import read_request
from flowtape.server.routes import ROUTES, FlowAnswers, Route, Router, bare
from flowtape.server.streams import (
    ANSWERS,
    LAST_EVENT_ID,
    STREAM_HEADERS,
    STREAMS,
    Stream,
    Streams,
    query_names,
)
from flowtape.settings import PLANS, Plan, Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_ALLOW = b"GET, HEAD, OPTIONS"
_PREFLIGHT: Headers = [
    *COMMON,
    (b"allow", _ALLOW),
    (b"access-control-allow-methods", b"GET, HEAD"),
    (
        b"access-control-allow-headers",
        b"X-Api-Key, X-Source, Content-Type, Authorization, Accept, Cache-Control, If-None-Match, Last-Event-ID",
    ),
    (b"access-control-max-age", b"86400"),
]
_API = "/v1/"
T = TypeVar("T")
Service = Callable[[Key, int], Awaitable[Wire]]
"""Gives what it has for a key at an instant (ns)."""
_REMEMBERED = 4096
"""Request targets whose meaning is remembered."""
_REMEMBERED_BYTES = 512
"""Bytes of the longest target that is remembered."""

_log = logging.getLogger(__name__)


class Asked(msgspec.Struct, frozen=True):
    """What a request target means: its route and either its query or the 400 that it earned."""

    route: Route
    query: Query = Query()
    format: Format | None = None
    refusal: Refusal | None = None


class Application:
    """The ASGI callable. `clock` gives ns since 1970, UTC, and decides which day a request counts for."""

    def __init__(
        self,
        flow: FlowAnswers,
        keys: Keys,
        usage: Usage,
        settings: Settings,
        clock: Callable[[], int] = time.time_ns,
        routes: Iterable[Route] = ROUTES,
        metrics: Metrics | None = None,
    ) -> None:
        self.flow = flow
        self.keys = keys
        self.usage = usage
        self.settings = settings
        self._clock = clock
        self._quotas = Quotas(usage, settings)
        self._json: Format = "envelope" if settings.envelope else "json"
        self._required: Plan = settings.flow_plan
        self._permitted = frozenset(PLANS[PLANS.index(settings.flow_plan) :])
        self.streams = Streams(flow, settings.streams_per_key)
        self.connections = Connections(settings)
        self._hosts = Hosts(settings)
        self.metrics = metrics or Metrics()
        self.metrics.count_streams(lambda: self.streams.clients)
        self.metrics.watch_connections(self.connections)
        self._router = Router((*routes, *STREAMS))
        self._names = Names((param for route in routes for param in route.params), (LAST_EVENT_ID,))
        self._pages = Pages(self._health, self.flow.detail, self.metrics.page, tuple(routes), settings)
        self._asked: dict[tuple[bytes, bytes], Asked] = {}
        self._services: dict[str, Service] = {ACCOUNT: self._account, SYMBOLS: self._symbols}
        self._trouble = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        started = time.perf_counter()
        try:
            visit = self.connections.enter(
                scope.get("client"),
                (value for name, value in scope["headers"] if name == b"x-forwarded-for"),
                limited=scope["path"] not in ALWAYS,
            )
        except Refusal as refusal:
            status, headers, body = _refused(refusal)
            await self._send(scope, receive, send, status, headers, body)
            return
        try:
            await self._answer(scope, receive, send, started)
        finally:
            self.connections.leave(visit)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, started: float) -> None:
        try:
            status, headers, body = await self._reply(scope)
        except Refusal as refusal:
            status, headers, body = _refused(refusal)
        except Exception as error:
            event(_log, logging.ERROR, "request failed", path=scope["path"], error=repr(error))
            status, headers, body = _refused(errors.internal())
        await self._send(scope, receive, send, status, headers, body)
        if self.settings.access_log:
            took = round((time.perf_counter() - started) * 1000, 3)
            target = _target(scope["path"], scope["query_string"])
            event(
                _log, logging.INFO, "request", method=scope["method"], target=target, status=status, ms=took
            )

    async def _send(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        status: int,
        headers: Headers,
        body: bytes | Stream,
    ) -> None:
        try:
            await send({"type": "http.response.start", "status": status, "headers": headers})
            self.metrics.request(self._route_of(scope), status)
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
            elif isinstance(body, bytes):
                await send({"type": "http.response.body", "body": body})
            else:
                await body.serve(receive, send)
        finally:
            if isinstance(body, Stream):
                body.release()

    async def _reply(self, scope: Scope) -> tuple[int, Headers, bytes | Stream]:
        target = scope["raw_path"], scope["query_string"]
        path, method = bare(scope["path"]), scope["method"]
        if method == "OPTIONS" and scope["path"].startswith(_API):
            # A browser shows the answer to its script only where the preflight succeeds, also when that is a 404.
            return 204, _PREFLIGHT, b""
        # Neither is parsed before the key is known, so that whoever has none costs next to nothing.
        found = page = service = None
        asked = self._asked.get(target) if sum(map(len, target)) <= _REMEMBERED_BYTES else None
        if asked is None:
            page, service = self._pages.find(path), self._services.get(path)
            found = None if page or service else self._router.find(target[0])
            if not (page or service or found):
                raise errors.not_found(scope["path"])
        if method not in ("GET", "HEAD"):
            if method == "OPTIONS":
                return 204, _PREFLIGHT, b""
            raise errors.method_not_allowed(method, _ALLOW)
        headers = dict(scope["headers"])
        if page is not None:
            if path.startswith(GUARDED):
                self._hosts.check(headers.get(b"host"))
            return await page(headers)
        given = headers.get(b"x-api-key") or key_in(target[1])
        key = self.keys.find(given)
        if key is None:
            raise errors.unauthorized()
        if service is not None:
            return await self._keyed_reply(path, key, headers, partial(self._served, service, target[1]))
        if asked is None:
            assert found is not None  # noqa: S101 - for the type checker: one of the three was found
            asked = self._read(*found, target)
        if asked.route.path in ANSWERS:
            return await self._stream(scope, asked, key, given, headers)
        return await self._keyed_reply(path, key, headers, partial(self._flow, asked, headers))

    def _route_of(self, scope: Scope) -> str:
        """The template of a request's route: paths themselves would be labels without end."""
        asked = self._asked.get((scope["raw_path"], scope["query_string"]))
        if asked is not None:
            return asked.route.path
        path = bare(scope["path"])
        if path in self._services or self._pages.find(path):
            return path
        found = self._router.find(scope["raw_path"])
        return found[0].path if found else "other"

    def _read(self, route: Route, path: dict[str, str], target: tuple[bytes, bytes]) -> Asked:
        """What the target of a flow route means; short ones are remembered."""
        query = target[1]
        try:
            check_query(query)
            pairs = query_pairs(query)
            self._names.check(query_names(route), pairs)
            request = read_request(route.asset, route.params, path, pairs)
        except Refusal as refusal:
            return Asked(route, refusal=refusal)
        asked = Asked(route, request.query, request.format)
        # A target with a key in it is not remembered: keys do not stay in memory.
        with_key = any(is_named(name, KEY_PARAMETER) for name, _ in pairs)
        if not with_key and sum(map(len, target)) <= _REMEMBERED_BYTES:
            if len(self._asked) >= _REMEMBERED:
                self._asked.clear()
            self._asked[target] = asked
        return asked

    async def _keyed_reply(self, path: str, key: Key, headers: dict[bytes, bytes], service: Service) -> Reply:
        """The reply of a service to the holder of a key."""
        wire, rate = await self._keyed(path, key, service)
        return await reply(wire, headers, rate)

    async def _keyed(
        self, path: str, key: Key, service: Callable[[Key, int], Awaitable[T]]
    ) -> tuple[T, Headers]:
        """What a service has for a key, and the headers of the key's quota."""
        now = self._clock()
        try:
            found = await service(key, now)
        except Refusal as refusal:
            raise self._with_rate(refusal, key, now) from None
        except (StoreError, FeedError, Loading) as error:
            self._note(error)
            raise self._with_rate(errors.upstream(error), key, now) from None
        except Exception as error:
            event(_log, logging.ERROR, "answer failed", path=path, error=repr(error))
            raise self._with_rate(errors.internal(), key, now) from None
        return found, self._quotas.headers(key, now)

    async def _stream(
        self, scope: Scope, asked: Asked, key: Key, given: bytes, headers: dict[bytes, bytes]
    ) -> tuple[int, Headers, Stream]:
        """The beginning of a stream, and what sends the rest. `given` is the key as it was sent."""
        pairs = query_pairs(scope["query_string"])
        named = next((value for name, value in pairs if is_named(name, LAST_EVENT_ID)), "")
        last_id = headers.get(b"last-event-id", named.encode()).decode("latin-1")

        async def begin(key: Key, now: int) -> Stream:
            self._allow(asked, key, now)
            stream = await self.streams.open(key.id, asked.route, asked.query)
            try:
                self._quotas.spend(key, now)
            except BaseException:
                stream.release()
                raise
            return stream

        about = [EXPOSE, ENDPOINT_VERSION, *self.flow.source(asked.query)]
        stream, rate = await self._keyed(scope["path"], key, begin)
        stream.last_id, stream.valid = last_id, lambda: self.keys.find(given) is not None
        return 200, [*STREAM_HEADERS, *COMMON, *about, *rate], stream

    def _allow(self, asked: Asked, key: Key, now: int) -> None:
        """Raise what keeps a key from an answer: its plan, the parameters, store and feed, the quota."""
        if key.plan not in self._permitted:
            raise errors.tier_restricted(key.plan, self._required)
        if asked.refusal:
            raise asked.refusal
        self.flow.check(asked.route.asset)
        self._quotas.check(key, now)

    async def _flow(self, asked: Asked, headers: dict[bytes, bytes], key: Key, now: int) -> Wire:
        self._allow(asked, key, now)
        wanted = asked.format or accepted(headers.get(b"accept", b""))
        wire = self.flow.answer(asked.route, asked.query, self._json if wanted == "json" else wanted)
        if not isinstance(wire, Wire):
            wire = await wire
        self._restored()
        self._quotas.spend(key, now)
        return wire

    async def _served(self, service: Service, query: bytes, key: Key, now: int) -> Wire:
        """What a service without parameters has for a key."""
        check_query(query)
        self._names.check((), query_pairs(query))
        return await service(key, now)

    async def _symbols(self, key: Key, now: int) -> Wire:
        self.flow.check()
        self._quotas.check(key, now)
        wire = await self.flow.symbols(self._json)
        self._restored()
        self._quotas.spend(key, now)
        return wire

    async def _account(self, key: Key, now: int) -> Wire:
        body = account(key, self.settings.limit(key.plan), *self._quotas.today(key, now))
        return wire_of(Made(body, None), simulated=False, format=self._json)

    def _with_rate(self, refusal: Refusal, key: Key, now: int) -> Refusal:
        refusal.headers = [*refusal.headers, *self._quotas.headers(key, now)]
        return refusal

    def _health(self) -> UnhealthyBody | None:
        """Why answers may not be trusted now; None when they may."""
        try:
            self.flow.check()
        except (StoreError, FeedError, Loading) as error:
            self._note(error)
            return errors.unhealthy(error)
        self._restored()
        return None

    def _note(self, error: StoreError | FeedError | Loading) -> None:
        """Log a failure once, not at every request it fails. Loading is no failure."""
        if not isinstance(error, Loading) and str(error) != self._trouble:
            self._trouble = str(error)
            event(_log, logging.WARNING, "upstream failed", error=str(error))

    def _restored(self) -> None:
        if self._trouble:
            self._trouble = ""
            event(_log, logging.INFO, "upstream restored")


def create_app(
    flow: FlowAnswers, keys: Keys, usage: Usage, settings: Settings, clock: Callable[[], int] = time.time_ns
) -> Application:
    """The application over a flow, keys and their counts, to be given to `flowtape.server.server.run`."""
    return Application(flow, keys, usage, settings, clock)


def _refused(refusal: Refusal) -> Reply:
    body = msgspec.json.encode(refusal.body)
    fixed = [JSON, (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store"), *COMMON, EXPOSE]
    return refusal.status, [*fixed, *refusal.headers], body


def _target(path: str, query: bytes) -> str:
    pairs = [
        (name, "" if plain(name) == plain(KEY_PARAMETER) else value)
        for name, value in query_pairs(query[:MOST_QUERY])
    ]
    shown = "&".join(f"{name}={redact(value) if value else '(redacted)'}" for name, value in pairs)
    return f"{path}?{shown}" if shown else path
