"""What the routes ask for: answers out of the window, or out of the store for past instants."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Protocol

from flowtape import answers
from flowtape.answers import CUMULATIVE, Answer
from flowtape.engine import Engine
from flowtape.errors import FeedError, StoreError
from flowtape.minutes import NS_PER_MINUTE
from flowtape.past import totals_at
from flowtape.window import Window

CACHED = 4096
LOOK_EVERY = 1.0
"""Seconds between looks at the store."""
Key = tuple[object, ...]


class Clock(Protocol):
    """The one clock; passed in, so that a replay gives the same bytes."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970, UTC."""


class FeedState(Protocol):
    """What a live feed tells of itself. `failing` says why its prints cannot be committed, None while they are."""

    failing: str | None

    def silent_for(self, now_ns: int) -> float | None:
        """Seconds since the feed was last heard while its market is open; None when it need not speak."""


class Flow:
    """Answers for the API. Used from the event loop only; store reads run on threads of its own."""

    def __init__(
        self,
        engine: Engine,
        window: Window,
        clock: Clock,
        feed: FeedState | None = None,
        silence_limit: float = 30.0,
    ) -> None:
        self._engine = engine
        self._window = window
        self._clock = clock
        self._feed = feed
        self._silence_limit = silence_limit
        self._unreadable: str | None = None
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="reader")
        self._answers: OrderedDict[Key, tuple[object, Answer]] = OrderedDict()

    def check(self) -> None:
        """Raise `StoreError` or `FeedError` while no answer may be trusted."""
        if self._unreadable is not None:
            raise StoreError(self._unreadable)
        if self._feed is not None:
            if self._feed.failing is not None:
                raise StoreError(self._feed.failing)
            silent = self._feed.silent_for(self._clock.now_ns())
            if silent is not None and silent > self._silence_limit:
                raise FeedError(f"the live feed has delivered nothing for {silent:.0f} s")

    async def watch(self) -> None:
        """Look every second whether the store can still be read, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._unreadable = await loop.run_in_executor(self._readers, self._look)
            await asyncio.sleep(LOOK_EVERY)

    def _look(self) -> str | None:
        try:
            self._engine.store.check()
        except StoreError as error:
            return str(error)
        return None

    def cumulative(
        self, asset: str, symbol: str, minutes: int, expiry: date | None, at: int | None
    ) -> Answer | Awaitable[Answer]:
        """The answer of `…/cumulative`: at once from the window, or later from the store when `at` is given."""
        if at is not None:
            return self._past(asset, symbol, minutes, expiry, at)
        now = self._clock.now_ns()
        self._window.advance(now // NS_PER_MINUTE)
        key = (asset, symbol, minutes, expiry)
        state = (self._window.version(asset, symbol), now // NS_PER_MINUTE)
        kept = self._answers.get(key)
        if kept is not None and kept[0] == state:
            return kept[1]
        start, end = answers.window_minutes(now, minutes)
        totals = self._window.totals(asset, symbol, start, end, CUMULATIVE, expiry)
        body = answers.cumulative(totals, symbol, minutes, expiry)
        return self._keep(
            key, state, answers.answer(body, totals.as_of, self._engine.simulated(asset, symbol))
        )

    async def _past(self, asset: str, symbol: str, minutes: int, expiry: date | None, at: int) -> Answer:
        key = (asset, symbol, minutes, expiry, at)
        state = self._engine.generation
        kept = self._answers.get(key)
        if kept is not None and kept[0] == state:
            return kept[1]
        made = await asyncio.get_running_loop().run_in_executor(
            self._readers, self.past, asset, symbol, minutes, expiry, at
        )
        return self._keep(key, state, made)

    def past(self, asset: str, symbol: str, minutes: int, expiry: date | None, at: int) -> Answer:
        """The answer as of a past instant, read from the store in the calling thread."""
        totals = totals_at(
            self._engine.store, asset, symbol, answers.past_minutes(at, minutes), at, CUMULATIVE, expiry,
            self._engine.max_quote_age,
        )  # fmt: skip
        body = answers.cumulative(totals, symbol, minutes, expiry)
        return answers.answer(body, totals.as_of, self._engine.simulated(asset, symbol))

    def _keep(self, key: Key, state: object, answer: Answer) -> Answer:
        self._answers[key] = (state, answer)
        self._answers.move_to_end(key)
        if len(self._answers) > CACHED:
            self._answers.popitem(last=False)
        return answer

    def close(self) -> None:
        """Let the reader threads go."""
        self._readers.shutdown(wait=True)
