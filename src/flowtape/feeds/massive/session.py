"""Connections to Massive: the websocket and the REST pages, by the vendor's own client."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlparse

import msgspec
import polars as pl

from flowtape.errors import FeedError, UsageError
from flowtape.feeds.base import Outlet
from flowtape.feeds.massive.rows import (
    Contract,
    Page,
    Quote,
    Row,
    Trade,
    fetched_quotes,
    fetched_trades,
    rows_of,
)

OPEN_LIMIT = 15.0
"""Seconds within which a connection must be admitted; so many more are left to be subscribed."""
CLOSE_LIMIT = 0.5
"""Seconds that the vendor has to say goodbye."""
PING_EVERY, PONG_LIMIT = 10.0, 20.0
WAITING = 2000
"""Messages that may wait; then the socket is not read, and the vendor waits too."""
BATCH = 500
"""Messages taken together at most."""
FETCHERS = 8
READ_LIMIT = 10.0
"""Seconds in which REST must begin to answer."""
TRIES, LONGEST_WAIT = 8, 60.0
"""How often a request is put again where REST is busy, and the most seconds that it may ask us to wait for that."""
PUT_OFF, DELAYED = "REST requests put off by the vendor", "REST pages that the vendor delays for this plan"
_BUSY = (413, 429, 499, 500, 502, 503, 504)

T = TypeVar("T")


class Stopped(Exception):
    """The feed is told to end."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a market is served: `url` is the websocket's host and port, `rest` the base of the pages."""

    market: str
    url: str
    rest: str
    secure: bool


class Socket:
    """The vendor's websocket client on a thread of its own, so that pings are answered while a delivery waits."""

    def __init__(self, server: Server, key: str, topics: Sequence[str], outlet: Outlet) -> None:
        from massive import WebSocketClient  # type: ignore[import-untyped]

        self._outlet, self._key = outlet, key
        self._messages: Queue[str | bytes] = Queue(WAITING)
        self._received = 0
        self._ended, self._closing = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._client = WebSocketClient(
            api_key=key, feed=server.url, market=server.market, raw=True, secure=server.secure,
            subscriptions=list(topics), max_reconnects=0, custom_json=self,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._run, name=f"massive {server.market} socket")

    def __enter__(self) -> Socket:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def take(self, wait: float) -> list[str | bytes]:
        """The messages that wait; none if none came in `wait` seconds. Raises what ended the connection once all
        before it are taken."""
        ended = self._ended.is_set()
        try:
            taken = [self._messages.get(timeout=wait)]
        except Empty:
            if ended and self._error is not None:
                raise self._error from None
            return []
        while len(taken) < BATCH and not self._messages.empty():
            taken.append(self._messages.get())
        return taken

    def loads(self, data: str | bytes) -> Any:
        """The client's way to read the answers before the stream; a refusal among them is told by its own words."""
        answers = msgspec.json.decode(data)
        for answer in answers:
            if answer["status"] not in ("connected", "auth_success", "auth_failed"):
                raise FeedError(f"Massive: {answer['status']}: {answer.get('message', '')}")
            if answer["status"] == "auth_success":
                self._admitted.set()
        return answers

    def dumps(self, message: Any) -> str:
        """The client's way to write its requests."""
        return msgspec.json.encode(message).decode()

    def _run(self) -> None:
        from massive.exceptions import AuthError  # type: ignore[import-untyped]

        try:
            asyncio.run(self._live())
            self._error = FeedError("Massive: the connection was closed")
        except AuthError as error:
            self._error = UsageError(f"MASSIVE_API_KEY: refused by Massive: {self._clean(error)}")
        except FeedError as error:
            self._error = FeedError(self._clean(error))
        except Exception as error:
            self._error = FeedError(f"Massive: {type(error).__name__}: {self._clean(error)}")
        self._ended.set()

    def _clean(self, error: Exception) -> str:
        return str(error).replace(self._key, "***")

    async def _live(self) -> None:
        self._admitted = asyncio.Event()
        # At its debug level the library writes every frame, the key among them.
        quiet = logging.getLogger(f"{__name__}.socket")
        quiet.setLevel(logging.INFO)
        # Its own keepalive would judge the line while it is we who do not read it.
        settings = {"ping_interval": None, "max_size": 2**26, "logger": quiet, "close_timeout": CLOSE_LIMIT}
        stream = asyncio.create_task(self._client.connect(self._receive, **settings))
        pings = asyncio.create_task(self._ping(stream))
        closing = asyncio.create_task(asyncio.to_thread(self._closing.wait))
        try:
            await asyncio.wait({stream, pings, closing}, return_when=asyncio.FIRST_COMPLETED)
            for task in (stream, pings):
                if task.done():
                    task.result()
        finally:
            self._closing.set()
            # Before Python 3.12 a cancellation can be lost in the client's `wait_for`: it is said until it is heard.
            while going := {task for task in (stream, pings) if not task.done()}:
                for task in going:
                    task.cancel()
                await asyncio.wait(going, timeout=0.1)
            await asyncio.gather(stream, pings, closing, return_exceptions=True)
            if self._client.websocket is not None:
                await self._client.close()

    async def _receive(self, message: str | bytes) -> None:
        try:
            self._messages.put_nowait(message)
        except Full:
            await asyncio.to_thread(self._insist, message)
        self._received += 1

    def _insist(self, message: str | bytes) -> None:
        while not self._closing.is_set():
            try:
                self._messages.put(message, timeout=0.1)
            except Full:
                continue
            return

    async def _ping(self, stream: asyncio.Task[None]) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            await asyncio.wait_for(self._admitted.wait(), OPEN_LIMIT)
        except TimeoutError:
            raise FeedError(f"Massive: not connected within {OPEN_LIMIT:g} s") from None
        try:
            while True:
                before, pong = self._received, await self._client.websocket.ping()
                done, _ = await asyncio.wait({pong}, timeout=PONG_LIMIT)
                if done:
                    self._outlet.heard()
                # A pong comes after all that was sent before it, which may be long in being taken.
                elif not self._messages.full() and self._received == before:
                    raise FeedError(f"Massive: no pong within {PONG_LIMIT:g} s")
                await asyncio.sleep(PING_EVERY)
        except ConnectionClosed:
            await asyncio.wait({stream})


class Rest:
    """The vendor's REST client, page by page, several tickers at once. All methods raise `Stopped` where the feed is
    told to end, `FeedError` where pages do not come or are none, `UsageError` where the key is refused."""

    def __init__(self, server: Server, key: str, outlet: Outlet) -> None:
        from massive import RESTClient

        self._client = RESTClient(
            api_key=key, base=server.rest, read_timeout=READ_LIMIT, num_pools=1, maxsize=FETCHERS,
            connection_pool_kw={"retries": _patience(outlet)},
        )  # fmt: skip
        self._key, self._outlet, self._pool = key, outlet, ThreadPoolExecutor(FETCHERS)

    def __enter__(self) -> Rest:
        return self

    def __exit__(self, *_: object) -> None:
        # A request under way cannot be taken back; its thread ends within the limit of its reading.
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.client.clear()

    def each(self, work: Callable[[str], T], names: Sequence[str]) -> list[T]:
        """What `work` gives for each name, in their order."""
        futures = [self._pool.submit(work, name) for name in names]
        going: set[Future[T]] = set(futures)
        try:
            while going:
                self._check()
                done, going = wait(going, timeout=0.1, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
        finally:
            for future in going:
                future.cancel()
        return [future.result() for future in futures]

    def contracts(self, underlying: str) -> list[str]:
        """The tickers of an underlying's contracts, the next to expire first."""
        asked = {"underlying_ticker": underlying, "limit": 1000, "sort": "expiration_date", "order": "asc"}
        return [row.ticker for row in self._all(Contract, self._client.list_options_contracts, (), asked)]

    def window(self, ticker: str, start: int, end: int | None) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Trades and quotes of a ticker with `start` ≤ SIP time (ns) < `end`, as source rows."""
        asked = _asked(start, 50_000) | {"timestamp_lt": end}
        trades = list(self._all(Trade, self._client.list_trades, (ticker,), asked))
        quotes = list(self._all(Quote, self._client.list_quotes, (ticker,), asked))
        return fetched_trades(ticker, trades), fetched_quotes(ticker, quotes)

    def first(self, ticker: str, start: int) -> int | None:
        """The SIP time (ns) of a ticker's first trade or quote from `start` on; None where there is none yet."""
        asked, client = _asked(start, 1), self._client
        trades = rows_of(Trade, self._page(client.list_trades, (ticker,), asked).results, self._outlet)
        quotes = rows_of(Quote, self._page(client.list_quotes, (ticker,), asked).results, self._outlet)
        times = [row.sip_timestamp for row in trades] + [row.sip_timestamp for row in quotes]
        return min((ts for ts in times if ts is not None), default=None)

    def _all(self, kind: type[Row], get: Any, names: tuple[str, ...], asked: dict[str, Any]) -> Iterator[Row]:
        before, met = b"", set[str]()
        while True:
            page = self._page(get, names, asked)
            results = bytes(page.results)
            # Option trades have no number in REST: a page that came twice would be as many prints more.
            if page.next_url in met or (results == before and results != b"[]"):
                raise FeedError(f"Massive REST: a page of {' '.join(names) or 'contracts'} that came before")
            yield from rows_of(kind, results, self._outlet)
            if page.next_url is None:
                return
            before = results
            met.add(page.next_url)
            query = parse_qsl(urlparse(page.next_url).query)
            # The key goes in a header; in an address it would be seen in logs.
            asked = {"params": {name: value for name, value in query if name.lower() != "apikey"}}

    def _page(self, get: Any, names: tuple[str, ...], asked: dict[str, Any]) -> Page:
        from massive.exceptions import BadResponse
        from urllib3.exceptions import HTTPError

        self._check()
        try:
            page = msgspec.json.decode(get(*names, **asked, raw=True).data, type=Page)
        except (BadResponse, HTTPError, msgspec.DecodeError, UnicodeDecodeError) as error:
            text = str(error).replace(self._key, "***")[:300]
            if "API Key" in text or "NOT_AUTHORIZED" in text:
                raise UsageError(f"MASSIVE_API_KEY: refused by Massive: {text}") from None
            raise FeedError(f"Massive REST: {text}") from None
        if page.status not in ("OK", "DELAYED", "") or bytes(page.results)[:1] != b"[":
            raise FeedError(f"Massive REST: status {page.status[:60]!r}, not a page of rows")
        if page.status == "DELAYED":
            self._outlet.count(DELAYED)
        self._outlet.heard()
        return page

    def _check(self) -> None:
        if self._outlet.stop.is_set():
            raise Stopped


def _asked(start: int, limit: int) -> dict[str, Any]:
    return {"timestamp_gte": start, "limit": limit, "order": "asc", "sort": "timestamp"}


def _patience(outlet: Outlet) -> Any:
    """How a request is put again: after as long as the vendor says, but not longer than the feed goes on."""
    from urllib3 import BaseHTTPResponse, Retry

    class Patience(Retry):
        def sleep(self, response: BaseHTTPResponse | None = None) -> None:
            asked = None if response is None else self.get_retry_after(response)
            outlet.count(PUT_OFF)
            if outlet.stop.wait(min(self.get_backoff_time() if asked is None else asked, LONGEST_WAIT)):
                raise Stopped

    return Patience(
        total=None, connect=2, read=2, redirect=0, other=0, status=TRIES, status_forcelist=_BUSY,
        backoff_factor=0.25, backoff_max=30,
    )  # fmt: skip
