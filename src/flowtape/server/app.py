"""The application: authenticates a request, finds its route, and answers it.

A request is checked in this order, and the first failing check answers it: path (404), method (405), key (401),
plan (403), parameters (400), store and feed (502), quota (429). The quota is checked before an answer is computed
and charged after it, so a refused request costs nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable

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
from flowtape.server.encoded import (
    COMMON,
    ENDPOINT_VERSION,
    EXPOSE,
    JSON,
    EncodedResponse,
    encoded_response,
    reply,
)
from flowtape.server.errors import Refusal, UnhealthyBody
from flowtape.server.formats import Format, accepted
from flowtape.server.hosts import Hosts
from flowtape.server.logs import event, redact
from flowtape.server.metrics import Metrics
from flowtape.server.names import Names, plain
from flowtape.server.pages import ALWAYS, GUARDED, Pages
from flowtape.server.params import KEY_PARAMETER, MOST_QUERY, check_query, is_named, key_in, query_pairs
from flowtape.server.protocol import Reply, Request, lines
from flowtape.server.queries import read_request
from flowtape.server.routes import ROUTES, FlowAnswers, Route, Router, bare
from flowtape.server.streams import (
    ANSWERS,
    LAST_EVENT_ID,
    STREAM_HEADERS,
    STREAMS,
    Streams,
    query_names,
)
from flowtape.settings import PLANS, Plan, Settings

_ALLOW = b"GET, HEAD, OPTIONS"
_ALLOWED_HEADERS = (
    b"X-Api-Key, X-Source, Content-Type, Authorization, Accept, Cache-Control, If-None-Match, Last-Event-ID"
)
_PREFLIGHT = Reply(
    204,
    lines(
        [
            *COMMON,
            (b"allow", _ALLOW),
            (b"access-control-allow-methods", b"GET, HEAD"),
            (b"access-control-allow-headers", _ALLOWED_HEADERS),
            (b"access-control-max-age", b"86400"),
        ]
    ),
    b"",
)
_API = "/v1/"
_REMEMBERED = 4096
"""Request targets whose meaning is cached."""
_REMEMBERED_BYTES = 512
"""Bytes of the longest target that is cached."""

Service = Callable[[Request, Key, int, "Asked | None"], Reply | Awaitable[Reply]]
"""Answers the request of a key at an instant (ns)."""
_log = logging.getLogger(__name__)


class Asked(msgspec.Struct, frozen=True):
    """The meaning of a request target: its route, the service that answers it, and either its query or its 400."""

    route: Route
    service: Service
    query: Query = Query()
    format: Format | None = None
    refusal: Refusal | None = None


class Application:
    """The application: it answers each HTTP request. `clock` returns ns since 1970 UTC; it gives the day of a quota."""

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
        self.remembered: dict[bytes, Asked] = {}
        """The meaning of targets that were requested before."""
        self._services = {ACCOUNT: self._account, SYMBOLS: self._symbols}
        self._trouble = ""

    def answer(self, request: Request) -> Reply | Awaitable[Reply]:
        """Answer a request, at once if everything it needs is in memory. Raises nothing."""
        started = time.perf_counter() if self.settings.access_log else 0.0
        try:
            found = self._find(request)
        except Exception as error:
            found = self._failed(request, error)
        if isinstance(found, Reply):
            return self._told(request, found, started)
        return self._answer_later(request, found, started)

    async def _answer_later(self, request: Request, later: Awaitable[Reply], started: float) -> Reply:
        try:
            found = await later
        except Exception as error:
            found = self._failed(request, error)
        return self._told(request, found, started)

    def _failed(self, request: Request, error: Exception) -> Reply:
        if isinstance(error, Refusal):
            return _refused(error)
        event(_log, logging.ERROR, "request failed", path=request.path, error=repr(error))
        return _refused(errors.internal())

    def _told(self, request: Request, reply: Reply, started: float) -> Reply:
        """Count an answer, and log it if the settings ask for it."""
        self.metrics.request(self._route_of(request), reply.status)
        if self.settings.access_log:
            took = round((time.perf_counter() - started) * 1000, 3)
            target = _target(request.path, request.query)
            event(
                _log, logging.INFO, "request",
                method=request.method, target=target, status=reply.status, ms=took,
            )  # fmt: skip
        return reply

    def _find(self, request: Request) -> Reply | Awaitable[Reply]:
        asked = self.remembered.get(request.target)
        if asked is None or request.method != "GET":
            return self._find_path(request)
        self.connections.check(request.address)
        key = self.keys.find(request.headers.get(b"x-api-key", b""))
        if key is None:
            raise errors.unauthorized()
        return self._keyed(request, key, asked.service, asked)

    def _find_path(self, request: Request) -> Reply | Awaitable[Reply]:
        """Return the answer to a request whose target is not cached, or that is no GET."""
        path, method = bare(request.path), request.method
        if path not in ALWAYS:
            self.connections.check(request.address)
        if method == "OPTIONS" and request.path.startswith(_API):
            # A browser shows the answer to its script only if the preflight succeeds, even for a 404.
            return _PREFLIGHT
        # Path and query are parsed after the key is known, so that requests without a key are cheap.
        page, service = self._pages.find(path), self._services.get(path)
        found = None if page or service else self._router.find(request.raw_path)
        if not (page or service or found):
            raise errors.not_found(request.path)
        if method not in ("GET", "HEAD"):
            if method == "OPTIONS":
                return _PREFLIGHT
            raise errors.method_not_allowed(method, _ALLOW)
        if page is not None:
            if path.startswith(GUARDED):
                self._hosts.check(request.headers.get(b"host"))
            return page(request.headers)
        key = self.keys.find(_key_of(request))
        if key is None:
            raise errors.unauthorized()
        if found is None:
            return self._keyed(request, key, self._served, None)
        asked = self._read(*found, request)
        return self._keyed(request, key, asked.service, asked)

    def _route_of(self, request: Request) -> str:
        """Return the template of a request's route; paths would be an unbounded set of labels."""
        asked = self.remembered.get(request.target)
        if asked is not None:
            return asked.route.path
        path = bare(request.path)
        if path in self._services or self._pages.find(path):
            return path
        found = self._router.find(request.raw_path)
        return found[0].path if found else "other"

    def _read(self, route: Route, path: dict[str, str], request: Request) -> Asked:
        """Return the meaning of a flow route's target; short targets are cached."""
        service = self._stream if route.path in ANSWERS else self._flow
        try:
            check_query(request.query)
            pairs = query_pairs(request.query)
            self._names.check(query_names(route), pairs)
            read = read_request(route.asset, route.params, path, pairs)
        except Refusal as refusal:
            return Asked(route, service, refusal=refusal)
        asked = Asked(route, service, read.query, read.format)
        # A target with a key is not cached: keys do not stay in memory.
        with_key = any(is_named(name, KEY_PARAMETER) for name, _ in pairs)
        if not with_key and len(request.target) <= _REMEMBERED_BYTES:
            if len(self.remembered) >= _REMEMBERED:
                self.remembered.clear()
            self.remembered[request.target] = asked
        return asked

    def _keyed(
        self, request: Request, key: Key, service: Service, asked: Asked | None
    ) -> Reply | Awaitable[Reply]:
        """Return a service's answer to a key's request; a refusal has the headers of the key's quota too."""
        now = self._clock()
        try:
            found = service(request, key, now, asked)
        except Exception as error:
            raise self._refusal(request, error, key, now) from None
        return found if isinstance(found, Reply) else self._keyed_later(request, key, now, found)

    async def _keyed_later(self, request: Request, key: Key, now: int, later: Awaitable[Reply]) -> Reply:
        try:
            return await later
        except Exception as error:
            raise self._refusal(request, error, key, now) from None

    def _refusal(self, request: Request, error: Exception, key: Key, now: int) -> Refusal:
        if isinstance(error, Refusal):
            refusal = error
        elif isinstance(error, StoreError | FeedError | Loading):
            self._note(error)
            refusal = errors.upstream(error)
        else:
            event(_log, logging.ERROR, "answer failed", path=request.path, error=repr(error))
            refusal = errors.internal()
        try:
            refusal.rate = self._quotas.lines(key, now)
        except StoreError as unknown:
            # Counts that cannot be read are left out.
            self._note(unknown)
        return refusal

    async def _stream(self, request: Request, key: Key, now: int, asked: Asked | None) -> Reply:
        """Return the beginning of a stream, and the body that sends the rest."""
        assert asked is not None  # noqa: S101 - for the type checker: a stream has a route
        self._allow(asked, key, now)
        stream = await self.streams.open(key.id, asked.route, asked.query)
        try:
            self._quotas.spend(key, now)
            pairs = query_pairs(request.query)
            named = next((value for name, value in pairs if is_named(name, LAST_EVENT_ID)), "")
            given = _key_of(request)
            stream.last_id = request.headers.get(b"last-event-id", named.encode()).decode("latin-1")
            stream.valid = lambda: self.keys.find(given) is not None
            about = [*STREAM_HEADERS, *COMMON, EXPOSE, ENDPOINT_VERSION, *self.flow.source(asked.query)]
            return Reply(200, lines(about) + self._quotas.lines(key, now), stream)
        except BaseException:
            stream.release()
            raise

    def _allow(self, asked: Asked, key: Key, now: int) -> None:
        """Raise the refusal of a key's request: plan, parameters, store and feed, quota."""
        if key.plan not in self._permitted:
            raise errors.tier_restricted(key.plan, self._required)
        if asked.refusal:
            raise asked.refusal
        self.flow.check(asked.route.asset)
        self._quotas.check(key, now)

    def _flow(self, request: Request, key: Key, now: int, asked: Asked | None) -> Reply | Awaitable[Reply]:
        assert asked is not None  # noqa: S101 - for the type checker: an answer has a route
        self._allow(asked, key, now)
        wanted = asked.format or accepted(request.headers.get(b"accept", b""))
        response = self.flow.answer(asked.route, asked.query, self._json if wanted == "json" else wanted)
        if isinstance(response, EncodedResponse):
            return self._spent(request, key, now, response)
        return self._spent_later(request, key, now, response)

    def _spent(
        self, request: Request, key: Key, now: int, response: EncodedResponse
    ) -> Reply | Awaitable[Reply]:
        """Return an answer after its request is counted."""
        self._restored()
        self._quotas.spend(key, now)
        return reply(response, request.headers, self._quotas.lines(key, now))

    async def _spent_later(
        self, request: Request, key: Key, now: int, response: Awaitable[EncodedResponse]
    ) -> Reply:
        found = self._spent(request, key, now, await response)
        return found if isinstance(found, Reply) else await found

    async def _served(self, request: Request, key: Key, now: int, asked: Asked | None) -> Reply:
        """Return the answer of a service without parameters."""
        check_query(request.query)
        self._names.check((), query_pairs(request.query))
        response = await self._services[bare(request.path)](key, now)
        found = reply(response, request.headers, self._quotas.lines(key, now))
        return found if isinstance(found, Reply) else await found

    async def _symbols(self, key: Key, now: int) -> EncodedResponse:
        self.flow.check()
        self._quotas.check(key, now)
        response = await self.flow.symbols(self._json)
        self._restored()
        self._quotas.spend(key, now)
        return response

    async def _account(self, key: Key, now: int) -> EncodedResponse:
        body = account(key, self.settings.limit(key.plan), *self._quotas.today(key, now))
        return encoded_response(Made(body, None), simulated=False, format=self._json)

    def _health(self) -> UnhealthyBody | None:
        """Return why answers cannot be given now; None when they can."""
        try:
            self.flow.check()
        except (StoreError, FeedError, Loading) as error:
            self._note(error)
            return errors.unhealthy(error)
        self._restored()
        return None

    def _note(self, error: StoreError | FeedError | Loading) -> None:
        """Log a failure once, not for every request that it fails. Loading is no failure."""
        if not isinstance(error, Loading) and str(error) != self._trouble:
            self._trouble = str(error)
            event(_log, logging.WARNING, "upstream failed", error=str(error))

    def _restored(self) -> None:
        if self._trouble:
            self._trouble = ""
            event(_log, logging.INFO, "upstream restored")


def _refused(refusal: Refusal) -> Reply:
    body = msgspec.json.encode(refusal.body)
    fixed = [JSON, (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store"), *COMMON, EXPOSE]
    return Reply(refusal.status, lines([*fixed, *refusal.headers]) + refusal.rate, body)


def _key_of(request: Request) -> bytes:
    """Return the key of a request, as it was sent."""
    return request.headers.get(b"x-api-key") or key_in(request.query)


def _target(path: str, query: bytes) -> str:
    pairs = [
        (name, "" if plain(name) == plain(KEY_PARAMETER) else value)
        for name, value in query_pairs(query[:MOST_QUERY])
    ]
    shown = "&".join(f"{name}={redact(value) if value else '(redacted)'}" for name, value in pairs)
    return f"{path}?{shown}" if shown else path
