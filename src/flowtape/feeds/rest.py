"""A vendor's REST pages: several requests at once, sent again while the vendor is busy, in bounded memory."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, TypeVar

import polars as pl

from flowtape.errors import FeedError
from flowtape.feeds.base import Outlet
from flowtape.feeds.credentials import Account
from flowtape.feeds.limits import Limits

PUT_OFF = "REST requests put off by the vendor"
_BUSY = (413, 429, 499, 500, 502, 503, 504)
Tickers = tuple[str, ...]
T = TypeVar("T")


class Stopped(Exception):
    """The feed is told to end."""


class TooMany(Exception):
    """A window has more rows than may be held."""


class Page(NamedTuple):
    """The rows of a page (falsy where there are none), and the name of the next page (None: there is none)."""

    rows: Any
    following: str | None


class Rest(ABC):
    """A vendor's REST client. All methods raise `Stopped` where the feed is told to end, `FeedError` where pages do
    not come or are none, `UsageError` where the keys are refused.

    A subclass asks for pages by the vendor's own client, and makes frames of source rows of them.
    """

    def __init__(self, account: Account, outlet: Outlet, limits: Limits) -> None:
        self.account, self.outlet, self.limits = account, outlet, limits
        self._pool = ThreadPoolExecutor(limits.fetchers)

    def __enter__(self) -> Rest:
        return self

    def __exit__(self, *_: object) -> None:
        # A request under way cannot be taken back; its thread ends within the limit of its reading.
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the client."""

    @abstractmethod
    def contracts(self, underlying: str) -> list[str]:
        """The tickers of an underlying's contracts, the next to expire first."""

    @abstractmethod
    def trades(self, tickers: Tickers, start: int, end: int | None) -> Iterator[pl.DataFrame]:
        """Trades with `start` ≤ time (ns) < `end`, as source rows, one frame a page."""

    @abstractmethod
    def quotes(self, tickers: Tickers, start: int, end: int | None) -> Iterator[pl.DataFrame]:
        """Quotes with `start` ≤ time (ns) < `end`, as source rows, one frame a page."""

    def first(self, tickers: Tickers, start: int) -> int | None:
        """The time (ns) of the first trade or quote from `start` on, None where there is none yet. Raises
        `NotImplementedError` where the vendor cannot tell."""
        raise NotImplementedError

    def window(
        self, parts: Sequence[Tickers], start: int, end: int | None, most: int | None
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Trades and quotes of all tickers with `start` ≤ time (ns) < `end`, as source rows. Raises `TooMany` where
        they are more than `most`."""
        rows, lock = 0, threading.Lock()

        def counted(frame: pl.DataFrame) -> pl.DataFrame:
            nonlocal rows
            with lock:
                rows += frame.height
            if most is not None and rows > most:
                raise TooMany
            return frame

        def fetch(part: Tickers) -> list[pl.DataFrame]:
            return [
                pl.concat([counted(frame) for frame in pages(part, start, end)])
                for pages in (self.trades, self.quotes)
            ]

        trades, quotes = zip(*self.each(fetch, parts), strict=True)
        return pl.concat(trades), pl.concat(quotes)

    def each(self, work: Callable[[Tickers], T], parts: Sequence[Tickers]) -> list[T]:
        """What `work` gives for each part, in their order."""
        futures = [self._pool.submit(work, part) for part in parts]
        going: set[Future[T]] = set(futures)
        try:
            while going:
                self.check()
                done, going = wait(going, timeout=0.1, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
        finally:
            for future in going:
                future.cancel()
        return [future.result() for future in futures]

    def pages(self, what: str, ask: Callable[[str | None], Page]) -> Iterator[Any]:
        """The rows of each page; `ask` gets the first (None) or the named page."""
        before, met, name = None, set[str](), None
        while True:
            self.check()
            rows, following = ask(name)
            self.outlet.heard()
            # Trades of options have no number in REST: a page that came twice would be as many prints more.
            if following in met or (rows and rows == before):
                raise self.failed(f"a page of {what} that came before")
            yield rows
            if following is None:
                return
            met.add(following)
            before, name = rows, following

    def check(self) -> None:
        """Raise `Stopped` where the feed is told to end."""
        if self.outlet.stop.is_set():
            raise Stopped

    def failed(self, words: object) -> FeedError:
        """The error for pages that do not come."""
        return FeedError(f"{self.account.title} REST: {self.account.clean(words)[:300]}")

    def patience(self) -> Any:
        """How a request is sent again: after as long as the vendor says, but not longer than the feed goes on."""
        from urllib3 import BaseHTTPResponse, Retry

        outlet, limits = self.outlet, self.limits

        class Patience(Retry):
            def sleep(self, response: BaseHTTPResponse | None = None) -> None:
                asked = None if response is None else self.get_retry_after(response)
                outlet.count(PUT_OFF)
                pause = self.get_backoff_time() if asked is None else asked
                if outlet.stop.wait(min(pause, limits.longest_wait)):
                    raise Stopped

        return Patience(
            total=None, connect=2, read=2, redirect=0, other=0, status=limits.tries, status_forcelist=_BUSY,
            backoff_factor=0.25, backoff_max=30,
        )  # fmt: skip
