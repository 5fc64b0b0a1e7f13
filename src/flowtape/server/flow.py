"""The answers of the routes: computed on reader threads, and cached while nothing that they depend on has changed."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import msgspec

from flowtape.cache.cache import MINUTES, Cache
from flowtape.errors import FeedError, StoreError
from flowtape.feeds.backlog import Backlogs
from flowtape.feeds.replay import Replay
from flowtape.model.clock import Clock
from flowtape.model.query import Query
from flowtape.model.symbols import meant
from flowtape.orderflow.minute_bars import NS_PER_MINUTE
from flowtape.pipeline.ingestor import Ingestor
from flowtape.queries import Made
from flowtape.queries.flow_data import FlowData
from flowtape.server.account import symbols
from flowtape.server.encoded import EncodedResponse, encoded_response, source
from flowtape.server.errors import Headers
from flowtape.server.formats import Format
from flowtape.server.logs import event
from flowtape.server.routes import Route

KEPT = 256 * 2**20
"""Bytes of bodies, plain and compressed, that are cached."""
KEPT_FOR = 60.0
"""Seconds that a cached answer stays without being requested."""
FAILED_FOR = 30.0
"""Seconds that the server is unhealthy after an answer could not be read from the store."""
READERS = 4
LOOK_EVERY = 1.0
"""Seconds between two checks of the store and the clock."""
CLOCK_JUMP_NS = 5 * 10**9
"""The difference between wall clock and monotonic clock, in one check, from which the clock counts as set."""
Key = tuple[str, Query, Format]
State = tuple[int, int]
T = TypeVar("T")

_NO_FILE_NAME = re.compile(r"[^A-Z0-9.=+_-]")
_log = logging.getLogger(__name__)


class FeedState(Protocol):
    """The state of the live feeds. `failing` is the reason why their prints cannot be stored, None while they are."""

    failing: str | None

    def silent_for(self, asset: str | None, now_ns: int) -> float | None:
        """Return the seconds since the quietest feed of an asset (None: of any) sent a message while its market is
        open.

        None while all of their markets are closed.
        """


class _Kept:
    """A cached answer, the state it depends on, and the time of its last use (monotonic seconds)."""

    __slots__ = ("response", "state", "used")

    def __init__(self, state: State | None, response: EncodedResponse) -> None:
        self.state, self.response = state, response
        self.used = time.monotonic()


class _Making:
    """An answer that is being computed. `state` is what it depends on, None until a thread begins to read."""

    __slots__ = ("done", "state")

    def __init__(self) -> None:
        self.state: State | None = None
        self.done: asyncio.Future[EncodedResponse]


class Flow:
    """The answers of the API. Used on the event loop only, except `made`."""

    def __init__(
        self,
        ingestor: Ingestor,
        window: Cache,
        clock: Clock,
        feed: FeedState | None = None,
        silence_limit: float = 30.0,
        behind: Callable[[], float] = lambda: 0.0,
        backlogs: Backlogs | None = None,
        replay: Replay | None = None,
        simulates: bool = False,
    ) -> None:
        self._ingestor = ingestor
        self._window = window
        self._clock = clock
        self._feed = feed
        self._silence_limit = silence_limit
        self._behind = behind
        self._backlogs = backlogs or Backlogs()
        self._replay = "" if replay is None else str(replay)
        self._simulates = simulates
        self._unreadable: str | None = None
        self._failed = (float("-inf"), "")
        self._last_look: tuple[int, int] | None = None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._bytes = 0
        self._making: dict[Key, _Making] = {}

    def detail(self) -> str:
        """Return the text that `/health` shows beside the status: days classified under other settings; empty for
        none."""
        days = self._ingestor.classifications.outdated
        if not days:
            return ""
        span = str(days[0]) if len(days) == 1 else f"{len(days)} days from {days[0]} to {days[-1]}"
        return f"Classified under other settings: {span}. `flowtape rebuild --outdated` classifies again."

    def check(self, asset: str | None = None) -> None:
        """Raise `StoreError` or `FeedError` while answers of an asset (None: of any asset) cannot be trusted.

        With None, also raise `Loading` while anything is being loaded.
        """
        if self._unreadable is not None:
            raise StoreError(self._unreadable)
        behind = self._behind()
        if behind > self._silence_limit:
            raise StoreError(f"this server is {behind:.0f} s behind the store")
        if self._feed is not None:
            if self._feed.failing is not None:
                raise StoreError(self._feed.failing)
            silent = self._feed.silent_for(asset, self._clock.now_ns())
            if silent is not None and silent > self._silence_limit:
                raise FeedError(f"a live feed has delivered nothing for {silent:.0f} s")
        if asset is None:
            # A store may be damaged in a place that not every answer reads.
            at, reason = self._failed
            if time.monotonic() - at < FAILED_FOR:
                raise StoreError(reason)
            self._backlogs.check()

    async def watch(self) -> None:
        """Check every second that the store can be read and that the clock was not set, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._unreadable = await loop.run_in_executor(None, self._look)
            await loop.run_in_executor(None, self.check_clock)
            self._drop_unused()
            await asyncio.sleep(LOOK_EVERY)

    def check_clock(self) -> None:
        """Log a change of the clock; load the cache again if the clock was set back behind the window's end.

        The clock of a replay has its own speed and is never set.
        """
        wall, steady = self._clock.now_ns(), time.monotonic_ns()
        jumped = self._last_look is not None and abs(
            (wall - self._last_look[0]) - (steady - self._last_look[1])
        )
        self._last_look = wall, steady
        if jumped and jumped > CLOCK_JUMP_NS and not self._replay:
            event(_log, logging.WARNING, "the clock was set", seconds=round(jumped / 1e9, 1))
        if wall // NS_PER_MINUTE + 1 < self._window.oldest + MINUTES - 1:
            self._ingestor.reload(wall // NS_PER_MINUTE)

    def _look(self) -> str | None:
        try:
            self._ingestor.store.check()
        except StoreError as error:
            return str(error)
        return None

    def answer(
        self, route: Route, query: Query, format: Format
    ) -> EncodedResponse | Awaitable[EncodedResponse]:
        """Return the answer of a route: from the cache, or an awaitable that computes it."""
        now = self._clock.now_ns()
        self._window.advance(now // NS_PER_MINUTE)
        query = self.meant(query)
        key = (route.path, query, format)
        state = self._state(route, query, now)
        kept = self._kept.get(key)
        if kept is not None and kept.state == state:
            kept.used = time.monotonic()
            self._kept.move_to_end(key)
            return kept.response
        return self._shared(route, key, state)

    def state(self, route: Route, query: Query) -> State:
        """Return the state that a route's answer depends on: the answer is unchanged while the state is."""
        now = self._clock.now_ns()
        self._window.advance(now // NS_PER_MINUTE)
        return self._state(route, self.meant(query), now)

    def _state(self, route: Route, query: Query, now: int) -> State:
        """Return the state that an answer depends on: the answer is unchanged while the state is."""
        if query.symbol:
            version = self._window.version(query.asset, query.symbol)
            if version < 0:
                # Minutes outside the cache may change with any commit.
                version -= self._ingestor.generation
        else:
            version = self._window.of(query.asset).version
            if query.at is not None:
                # Both numbers only rise. The cross-section does not count commits older than the window.
                version += self._ingestor.generation
        return version, -1 if query.at is not None else now // route.every

    def listen(self, told: Callable[[str, frozenset[str]], None]) -> None:
        """Call `told` from any thread with the asset and the symbols whose minutes changed (none: any may have)."""
        self._window.listen(told)

    async def _shared(self, route: Route, key: Key, state: State) -> EncodedResponse:
        """Wait for an answer together with all others that ask for it."""
        making = self._making.get(key)
        # An answer that no thread has begun will see the current state.
        if making is None or making.state not in (None, state):
            making = self._begin(route, key)
        # A client that hangs up must not cancel the answer of the others.
        return await asyncio.shield(making.done)

    def _begin(self, route: Route, key: Key) -> _Making:
        making = self._making[key] = _Making()

        def read() -> EncodedResponse:
            now = self._clock.now_ns()
            making.state = self._state(route, key[1], now)
            return self._make(route, key[1], key[2], now)

        def settle(done: asyncio.Future[EncodedResponse]) -> None:
            failed = done.cancelled() or done.exception() is not None
            if failed and not done.cancelled() and isinstance(error := done.exception(), StoreError):
                self._failed = time.monotonic(), str(error)
            # If another answer was begun since, the state of this one has changed.
            if self._making.get(key) is making:
                del self._making[key]
                if not failed:
                    self._keep(key, making.state, done.result())

        making.done = asyncio.get_running_loop().run_in_executor(self._readers, read)
        making.done.add_done_callback(settle)
        return making

    def made(self, route: Route, query: Query) -> Made:
        """Return the body of a route's answer, computed in the calling thread."""
        return self._body(route, self.meant(query), self._clock.now_ns())

    async def follow(
        self, route: Route, query: Query, use: Callable[[Made, Callable[[], EncodedResponse]], T]
    ) -> tuple[State, T]:
        """Compute the answer of a route in a reader thread, and call `use` there with its body and a function that
        renders it.

        Returns the state that the answer depends on, and the result of `use`. A rendered answer is cached.
        """
        query = self.meant(query)
        responses: list[EncodedResponse] = []

        def read() -> tuple[State, T]:
            now = self._clock.now_ns()
            state = self._state(route, query, now)
            made = self._body(route, query, now)

            def render() -> EncodedResponse:
                responses.append(self._render(route, query, "json", made))
                return responses[0]

            return state, use(made, render)

        self._window.advance(self._clock.now_ns() // NS_PER_MINUTE)
        state, used = await asyncio.get_running_loop().run_in_executor(self._readers, read)
        if responses:
            self._keep((route.path, query, "json"), state, responses[0])
        return state, used

    def meant(self, query: Query) -> Query:
        """Return the query with the stored spelling of its symbol, such as `BRK.B` for `BRKB`."""
        if not query.symbol or self._window.version(query.asset, query.symbol) >= 0:
            return query
        symbol = meant(query.symbol, self._ingestor.store.catalog.symbols(query.asset))
        return query if symbol == query.symbol else msgspec.structs.replace(query, symbol=symbol)

    def _make(self, route: Route, query: Query, format: Format, now: int) -> EncodedResponse:
        return self._render(route, query, format, self._body(route, query, now))

    def _body(self, route: Route, query: Query, now: int) -> Made:
        # Taken before the snapshot begins: missing prints can only be in later states of the store.
        missing = self._backlogs.missing()
        data = FlowData(self._ingestor.store, self._window, now, self._ingestor.max_quote_age, missing)
        with self._ingestor.store.snapshot():
            return route.answer(data, query)

    def _render(self, route: Route, query: Query, format: Format, made: Made) -> EncodedResponse:
        return encoded_response(made, self._simulated(query), format, _file_name(route, query), self._replay)

    def _simulated(self, query: Query) -> bool:
        if query.symbol:
            return self._ingestor.simulated(query.asset, query.symbol)
        return self._ingestor.simulated_any(query.asset)

    def source(self, query: Query) -> Headers:
        """Return the header that marks the prints of a query's answers as simulated or replayed.

        While a simulated market is loading, every symbol may be simulated.
        """
        loading = self._simulates and self._backlogs.missing() is not None
        return source(loading or self._simulated(self.meant(query)), self._replay)

    async def symbols(self, format: Format = "json") -> EncodedResponse:
        """Return all symbols with stored prints."""
        made = await asyncio.get_running_loop().run_in_executor(self._readers, symbols, self._ingestor.store)
        simulated = any(map(self._ingestor.simulated_any, ("option", "stock")))
        return encoded_response(made, simulated, format, replay=self._replay)

    def _keep(self, key: Key, state: State | None, response: EncodedResponse) -> None:
        before = self._kept.pop(key, None)
        if before is not None:
            self._bytes -= before.response.weight
        self._kept[key] = _Kept(state, response)
        self._bytes += response.weight
        while self._bytes > KEPT and len(self._kept) > 1:
            self._drop_oldest()

    def _drop_unused(self) -> None:
        """Drop answers that were not requested during `KEPT_FOR`, to free the memory of a busy hour."""
        while self._kept and next(iter(self._kept.values())).used < time.monotonic() - KEPT_FOR:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._bytes -= self._kept.popitem(last=False)[1].response.weight

    def close(self) -> None:
        """Stop the reader threads."""
        self._readers.shutdown(wait=True)


def _file_name(route: Route, query: Query) -> str:
    """Return the file name of a download, without suffix, with characters that every file system accepts."""
    name = route.path.rpartition("/")[2]
    return f"{_NO_FILE_NAME.sub('-', query.symbol) or query.asset + 's'}-{name}"
