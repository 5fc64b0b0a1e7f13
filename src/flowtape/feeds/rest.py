"""Fetch a vendor's REST pages: concurrent requests, retries while the vendor is busy, bounded memory."""

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
    """The feed has been stopped."""


class TooMany(Exception):
    """A window has more rows than the limit."""


class Page(NamedTuple):
    """The rows of a page (falsy if there are none), and the name of the next page (None if there is none)."""

    rows: Any
    following: str | None


class Rest(ABC):
    """A vendor's REST client. A subclass requests pages by the vendor's own client and converts them to source rows.

    Raises, in all methods:
        Stopped: the feed has been stopped.
        FeedError: pages do not arrive or are malformed.
        UsageError: the keys are refused.
    """

    def __init__(self, account: Account, outlet: Outlet, limits: Limits) -> None:
        self.account, self.outlet, self.limits = account, outlet, limits
        self._pool = ThreadPoolExecutor(limits.fetchers)

    def __enter__(self) -> Rest:
        return self

    def __exit__(self, *_: object) -> None:
        # A running request cannot be cancelled. Its thread ends within the read timeout.
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the client."""

    @abstractmethod
    def contracts(self, underlying: str) -> list[str]:
        """Return the tickers of an underlying's contracts, the next to expire first."""

    @abstractmethod
    def trades(self, tickers: Tickers, start: int, end: int | None) -> Iterator[pl.DataFrame]:
        """Yield trades with `start` ≤ time (ns) < `end` as source rows, one frame a page."""

    @abstractmethod
    def quotes(self, tickers: Tickers, start: int, end: int | None) -> Iterator[pl.DataFrame]:
        """Yield quotes with `start` ≤ time (ns) < `end` as source rows, one frame a page."""

    def first(self, tickers: Tickers, start: int) -> int | None:
        """Return the time (ns) of the first trade or quote from `start` on, None if there is none yet. Raises
        `NotImplementedError` if the vendor cannot tell."""
        raise NotImplementedError

    def window(
        self, parts: Sequence[Tickers], start: int, end: int | None, most: int | None
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return trades and quotes of all tickers with `start` ≤ time (ns) < `end`, as source rows. Raises `TooMany` if
        there are more than `most`."""
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
        """Return the results of `work` for each part, in order."""
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
        """Yield the rows of each page; `ask` requests the first page (None) or a named one."""
        before, met, name = None, set[str](), None
        while True:
            self.check()
            rows, following = ask(name)
            self.outlet.heard()
            # REST does not number trades of options, so a repeated page would add its prints a second time.
            if following in met or (rows and rows == before):
                raise self.failed(f"a page of {what} was repeated")
            yield rows
            if following is None:
                return
            met.add(following)
            before, name = rows, following

    def check(self) -> None:
        """Raise `Stopped` if the feed has been stopped."""
        if self.outlet.stop.is_set():
            raise Stopped

    def failed(self, words: object) -> FeedError:
        """Return the error for pages that do not arrive."""
        return FeedError(f"{self.account.title} REST: {self.account.clean(words)[:300]}")

    def patience(self) -> Any:
        """Return the retry policy: it waits as long as the vendor demands, but ends when the feed is stopped."""
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
