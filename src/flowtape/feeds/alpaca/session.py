"""A connection to Alpaca by its own client, alpaca-py: the stream's frames as they come, and REST's rows."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import import_module
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from flowtape.errors import FeedError, UsageError
from flowtape.feeds.alpaca.rows import CONTRACT, fetched_quotes, fetched_trades
from flowtape.feeds.base import Outlet
from flowtape.feeds.credentials import key_of

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

REFUSED = {
    401: "not authenticated", 402: "auth failed", 403: "already authenticated", 405: "symbol limit exceeded",
    408: "v2 not enabled", 409: "insufficient subscription", 411: "insufficient scope",
}  # fmt: skip
"""The vendor's errors that no further try helps."""
KEYS = ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY")
OPEN_LIMIT = 15.0
"""Seconds within which a connection must be admitted; so many more are left to be subscribed."""
PING_EVERY, PONG_LIMIT = 10.0, 20.0
WAITING = 2000
"""Frames that may wait; then the socket is not read, and the vendor waits too."""
BATCH = 500
"""Frames taken together at most."""
FETCHERS = 8
"""Requests at a time."""
REST_LIMIT = 30.0
"""Seconds that REST may be silent."""


def need_client() -> None:
    """Import the vendor's client. Raises `UsageError` where it is not installed."""
    try:
        with warnings.catch_warnings():
            # It uses a deprecated part of the websockets library.
            warnings.simplefilter("ignore", DeprecationWarning)
            import_module("alpaca.data.live")
    except ImportError:
        raise UsageError("--feed alpaca: needs the vendor's client: pip install 'flowtape[alpaca]'") from None


class Wanted(NamedTuple):
    """What is wanted of which server: a market, the vendor's feed of it, and the bases of stream and REST."""

    market: str
    feed: str
    url: str
    rest: str


class Keys(NamedTuple):
    """The credentials, which no text may hold."""

    id: str
    secret: str

    def clean(self, error: object) -> str:
        """A text without the keys."""
        return str(error).replace(self.secret, "***").replace(self.id, "***")


class Socket:
    """The vendor's stream client on a thread of its own, so that pings are answered while a delivery waits.

    Of the client are connecting, authentication and subscription. Its own loop is not used: it connects again by
    itself, tells nobody of an error, and drops without a word what follows a bad message in a frame.
    """

    def __init__(
        self, wanted: Wanted, keys: Keys, traded: Sequence[str], quoted: Sequence[str], outlet: Outlet
    ) -> None:
        self._outlet, self._keys = outlet, keys
        self._frames: Queue[bytes | str] = Queue(WAITING)
        self._ended, self._closing = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._stream = _stream(wanted, keys)
        self._stream.subscribe_trades(_untold, *traded)
        self._stream.subscribe_quotes(_untold, *quoted)
        self._thread = threading.Thread(target=self._run, name="alpaca socket")

    def __enter__(self) -> Socket:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def take(self, wait: float) -> list[bytes | str]:
        """The frames that wait; none if none came in `wait` seconds. Raises what ended the connection once all
        before it are taken."""
        ended = self._ended.is_set()
        try:
            taken = [self._frames.get(timeout=wait)]
        except Empty:
            if ended and self._error is not None:
                raise self._error from None
            return []
        while len(taken) < BATCH and not self._frames.empty():
            taken.append(self._frames.get())
        return taken

    def _run(self) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            asyncio.run(self._live())
            self._error = FeedError("Alpaca: the connection was closed")
        except UsageError as error:
            self._error = UsageError(self._keys.clean(error))
        except FeedError as error:
            self._error = FeedError(self._keys.clean(error))
        except ConnectionClosed as error:
            self._error = FeedError(f"Alpaca: the connection was closed: {self._keys.clean(error)}")
        except Exception as error:
            self._error = FeedError(f"Alpaca: {type(error).__name__}: {self._keys.clean(error)}")
        self._ended.set()

    async def _live(self) -> None:
        self._admitted = asyncio.Event()
        tasks = {asyncio.create_task(work()) for work in (self._read, self._ping)}
        closing = asyncio.create_task(asyncio.to_thread(self._closing.wait))
        try:
            await asyncio.wait({*tasks, closing}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            self._closing.set()
            # Before Python 3.12 a cancellation can be lost in `wait_for`: it is said until it is heard.
            while going := {task for task in tasks if not task.done()}:
                for task in going:
                    task.cancel()
                await asyncio.wait(going, timeout=0.1)
            await asyncio.gather(*tasks, closing, return_exceptions=True)
            await self._stream.close()

    async def _read(self) -> None:
        try:
            await asyncio.wait_for(self._stream._start_ws(), OPEN_LIMIT)
        except TimeoutError:
            raise FeedError(f"Alpaca: not admitted within {OPEN_LIMIT:g} s") from None
        except ValueError as error:
            # The client gives the vendor's words here, without their number.
            if str(error) in REFUSED.values():
                raise UsageError(refusal(str(error))) from None
            raise FeedError(f"Alpaca: {error}") from None
        await self._stream._send_subscribe_msg()
        self._admitted.set()
        while True:
            frame = await self._stream._ws.recv()
            try:
                self._frames.put_nowait(frame)
            except Full:
                await asyncio.to_thread(self._insist, frame)

    def _insist(self, frame: bytes | str) -> None:
        while not self._closing.is_set():
            try:
                self._frames.put(frame, timeout=0.1)
            except Full:
                continue
            return

    async def _ping(self) -> None:
        from websockets.exceptions import ConnectionClosed

        await self._admitted.wait()
        try:
            while True:
                pong = await self._stream._ws.ping()
                done, _ = await asyncio.wait({pong}, timeout=PONG_LIMIT)
                if done:
                    self._outlet.heard()
                elif not self._frames.full():
                    raise FeedError(f"Alpaca: no pong within {PONG_LIMIT:g} s")
                await asyncio.sleep(PING_EVERY)
        except ConnectionClosed:
            # The reader, which has what came before the end, says why it ended.
            await asyncio.Event().wait()


async def _untold(_: object) -> None:
    """The client subscribes to what has a handler; the frames are read before it would be called."""


def refusal(words: str) -> str:
    """What to say of a refusal, by the vendor's words."""
    return f"{', '.join(KEYS)}: refused by Alpaca: {words}"


def _stream(wanted: Wanted, keys: Keys) -> Any:
    """The vendor's stream client of a feed."""
    from alpaca.data.live import OptionDataStream, StockDataStream

    # At its debug level the library writes every frame, the keys among them.
    quiet = logging.getLogger(f"{__name__}.socket")
    quiet.setLevel(logging.INFO)
    # Its own keepalive would judge the line while it is we who do not read it.
    settings = {"ping_interval": None, "max_size": 2**26, "close_timeout": 0.5, "logger": quiet}
    options = wanted.market == "options"
    client: Any = OptionDataStream if options else StockDataStream
    url = f"{wanted.url}/{'v1beta1' if options else 'v2'}/{wanted.feed}"
    return client(keys.id, keys.secret, raw_data=True, websocket_params=settings, url_override=url)


class Rest:
    """The vendor's REST client of a feed's market."""

    def __init__(self, wanted: Wanted, keys: Keys, outlet: Outlet) -> None:
        from alpaca.data.historical import OptionHistoricalDataClient, StockHistoricalDataClient

        self._wanted, self._keys, self._outlet = wanted, keys, outlet
        client: Any = OptionHistoricalDataClient if wanted.market == "options" else StockHistoricalDataClient
        self._client = client(keys.id, keys.secret, raw_data=True, url_override=wanted.rest)
        for scheme in ("https://", "http://"):
            self._client._session.mount(scheme, _adapter(outlet))

    def contracts(self, underlying: str) -> list[str]:
        """An underlying's contracts, the next to expire first."""
        from alpaca.data.enums import OptionsFeed
        from alpaca.data.requests import OptionChainRequest

        asked = OptionChainRequest(underlying_symbol=underlying, feed=OptionsFeed(self._wanted.feed))
        found = self._asked(self._client.get_option_chain, asked)
        return sorted(filter(re.compile(CONTRACT).match, found), key=lambda name: (name[-15:], name))

    def window(
        self, tickers: Sequence[str], start: int, end: int | None
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Trades and quotes of tickers with `start` ≤ time (ns) < `end`, as source rows; of options no quotes."""
        from alpaca.data.enums import DataFeed
        from alpaca.data.requests import OptionTradesRequest, StockQuotesRequest, StockTradesRequest

        # The vendor's end is inclusive and its client's times are whole microseconds, so the rows are cut again.
        asked: dict[str, Any] = {"symbol_or_symbols": list(tickers), "start": _instant(start)}
        if end is not None:
            asked["end"] = _instant(end)
        within = pl.col("ts").ge(start) & pl.col("ts").lt(2**63 - 1 if end is None else end)
        within |= pl.col("ts").is_null()
        if self._wanted.market == "options":
            pages = self._asked(self._client.get_option_trades, OptionTradesRequest(**asked))
            return fetched_trades(pages, self._outlet).filter(within), fetched_quotes({}, self._outlet)
        asked["feed"] = DataFeed(self._wanted.feed)
        pages = self._asked(self._client.get_stock_trades, StockTradesRequest(**asked))
        trades = fetched_trades(pages, self._outlet).filter(within)
        pages = self._asked(self._client.get_stock_quotes, StockQuotesRequest(**asked))
        return trades, fetched_quotes(pages, self._outlet).filter(within)

    def _asked(self, get: Callable[[Any], Any], request: object) -> dict[str, Any]:
        from alpaca.common.exceptions import APIError
        from requests import RequestException

        try:
            answer = get(request)
        except APIError as error:
            text = self._keys.clean(error)[:300]
            if error.status_code in (401, 403):
                raise UsageError(refusal(text)) from None
            raise FeedError(f"Alpaca REST: {error.status_code}: {text}") from None
        except (RequestException, ValueError, AttributeError, TypeError) as error:
            # The last three: an answer that the client could not read.
            raise FeedError(f"Alpaca REST: {type(error).__name__}: {self._keys.clean(error)[:300]}") from None
        return dict(answer)


def _adapter(outlet: Outlet) -> Any:
    """What sends the client's requests: the client itself sets no time limit, and tells nothing between pages."""
    from requests import RequestException
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def send(self, request: PreparedRequest, *args: Any, **named: Any) -> Response:
            if outlet.stop.is_set():
                raise RequestException("the feed is stopped")
            answer = super().send(request, *args, **(named | {"timeout": REST_LIMIT}))
            outlet.heard()
            return answer

    return Adapter(pool_maxsize=FETCHERS)


def _instant(ns: int) -> datetime:
    return datetime.fromtimestamp(ns // 10**9, UTC).replace(microsecond=ns % 10**9 // 1000)


def keys_of_environment() -> Keys:
    """The credentials, from the environment or the files it names. Raises `UsageError`."""
    return Keys(*(key_of(name, "alpaca") for name in KEYS))
