"""Massive live: `massive:options?symbols=SPY` and `massive:stocks?symbols=SPY,QQQ`, by the vendor's own client.

Trades (`T`) and quotes (`Q`) come by websocket and are joined here; the gap since the cursor comes by REST. The source
is that of Massive's flat files, and so are contracts, venues and conditions. Three things differ from the files:

- The websocket's times are SIP times in whole milliseconds; files and REST have nanoseconds. Rows of REST are cut to
  the millisecond, so that a row fetched twice is one row. A quote is in force after its millisecond: a side can differ
  from the files' where quote and trade lie within one.
- Only the websocket numbers an option's trades (`q`); REST and the files do not. The `seq` of an option's trade is made
  of its price, size and condition, and its place among trades alike in all of them, in venue and in millisecond: the
  same from both. A stock's trades are numbered everywhere (`q`, `sequence_number`), and that is their `seq`; two
  trades of one number, as over-the-counter reports sometimes are, count once, and it is told how many.
- So a day taken live and the same day from files are other rows of one source: take a day from one of the two.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any
from urllib.parse import parse_qsl, urlparse

import msgspec
import polars as pl

from flowtape.errors import FeedError, UsageError
from flowtape.feeds.joining import LiveJoin
from flowtape.feeds.live import Delivery, Outlet
from flowtape.feeds.massive_rows import (
    NOT_UNDERSTOOD,
    Contract,
    Event,
    Page,
    Quote,
    Row,
    Trade,
    Trades,
    fetched_quotes,
    fetched_trades,
    live_quotes,
    live_trades,
    quotes_of,
    rows_of,
)
from flowtape.feeds.specs import Spec
from flowtape.prints import conform, underlying_of, underlyings
from flowtape.readers import massive as files
from flowtape.readers.tickers import symbol_of

SOURCES = {"options": files.OPTIONS, "stocks": files.STOCKS}
URL, REST = "socket.massive.com", "https://api.massive.com"
QUOTED_CONTRACTS = 1000
"""Contracts whose quotes the vendor gives a connection; it gives the trades of any number."""
OPEN_LIMIT = 15.0
"""Seconds within which a connection must be admitted; so many more are left to be subscribed."""
PING_EVERY, PONG_LIMIT = 10.0, 20.0
WAITING = 2000
"""Messages that may wait; then the socket is not read, and the vendor waits too."""
BATCH = 500
"""Messages taken together at most."""
WINDOW = 300 * 10**9
"""Event time (ns) fetched by one request for each ticker; empty ones are doubled."""
FETCHERS = 8
STEP = 5 * 10**9
"""Event time (ns) of the steps in which a window is joined: well within the horizon of the join."""
_MS = 1_000_000


class _Socket:
    """The vendor's websocket client on a thread of its own, so that pings are answered while a delivery waits."""

    def __init__(self, feed: MassiveFeed, key: str, topics: Sequence[str], outlet: Outlet) -> None:
        from massive import WebSocketClient  # type: ignore[import-untyped]

        self._outlet, self._key = outlet, key
        self._messages: Queue[str | bytes] = Queue(WAITING)
        self._ended, self._closing = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._client = WebSocketClient(
            api_key=key, feed=feed.url, market=feed.market, raw=True, secure=feed.secure,
            subscriptions=list(topics), max_reconnects=0, custom_json=self,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._run, name=f"{feed.name} socket")

    def __enter__(self) -> _Socket:
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
        settings = {"ping_interval": None, "max_size": 2**26, "logger": quiet}
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
                pong = await self._client.websocket.ping()
                done, _ = await asyncio.wait({pong}, timeout=PONG_LIMIT)
                if done:
                    self._outlet.heard()
                elif not self._messages.full():
                    raise FeedError(f"Massive: no pong within {PONG_LIMIT:g} s")
                await asyncio.sleep(PING_EVERY)
        except ConnectionClosed:
            await asyncio.wait({stream})


class _Rest:
    """The vendor's REST client, page by page."""

    def __init__(self, feed: MassiveFeed, key: str, outlet: Outlet) -> None:
        from massive import RESTClient

        self._client = RESTClient(api_key=key, base=feed.rest, num_pools=FETCHERS, maxsize=FETCHERS)
        self._key, self._outlet = key, outlet

    def contracts(self, underlying: str) -> list[str]:
        """The tickers of an underlying's contracts, the next to expire first."""
        asked = {"underlying_ticker": underlying, "limit": 1000, "sort": "expiration_date", "order": "asc"}
        return [row.ticker for row in self._all(Contract, self._client.list_options_contracts, (), asked)]

    def window(self, ticker: str, start: int, end: int | None) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Trades and quotes of a ticker with `start` ≤ SIP time (ns) < `end`, as source rows."""
        asked = {
            "timestamp_gte": start,
            "timestamp_lt": end,
            "limit": 50_000,
            "order": "asc",
            "sort": "timestamp",
        }
        trades = list(self._all(Trade, self._client.list_trades, (ticker,), asked))
        quotes = list(self._all(Quote, self._client.list_quotes, (ticker,), asked))
        return fetched_trades(ticker, trades), fetched_quotes(ticker, quotes)

    def _all(self, kind: type[Row], get: Any, names: tuple[str, ...], asked: dict[str, Any]) -> Iterator[Row]:
        while not self._outlet.stop.is_set():
            page = self._page(get, names, asked)
            yield from rows_of(kind, page.results, self._outlet)
            if page.next_url is None:
                return
            asked = {"params": dict(parse_qsl(urlparse(page.next_url).query))}

    def _page(self, get: Any, names: tuple[str, ...], asked: dict[str, Any]) -> Page:
        from massive.exceptions import BadResponse
        from urllib3.exceptions import HTTPError

        try:
            answer = get(*names, **asked, raw=True)
            page = msgspec.json.decode(answer.data, type=Page)
        except (BadResponse, HTTPError, msgspec.DecodeError) as error:
            text = str(error).replace(self._key, "***")[:300]
            if "API Key" in text or "NOT_AUTHORIZED" in text:
                raise UsageError(f"MASSIVE_API_KEY: refused by Massive: {text}") from None
            raise FeedError(f"Massive REST: {text}") from None
        self._outlet.heard()
        return page


class MassiveFeed:
    """Options or stocks of Massive. The cursor is the event time (ns) from which to fetch again."""

    always_open = False
    ends = False

    def __init__(self, market: str, wanted: tuple[str, ...], url: str, rest: str, *, secure: bool) -> None:
        """`wanted` are tickers or, for options, also underlyings; `url` is the websocket's host and port."""
        self.market, self.url, self.rest, self.secure = market, url, rest, secure
        self.source = SOURCES[market]
        self.assets = frozenset({"stock" if market == "stocks" else "option"})
        self.symbols = tuple(sorted({self._symbol(name) for name in wanted}))
        self._wanted = wanted
        digest = hashlib.sha256(",".join(sorted(wanted)).encode()).hexdigest()[:8]
        self.name = f"massive:{market}:{wanted[0]}" + (f"+{len(wanted) - 1}-{digest}" if wanted[1:] else "")
        self._join = LiveJoin()
        self._told = (0, 0)

    def _symbol(self, name: str) -> str:
        if self.market == "stocks":
            return str(symbol_of(name))
        contract = re.match(files._TICKER, name)
        return underlying_of(contract[1] if contract else name)

    def restore(self, standing: pl.DataFrame) -> None:
        """See `live.Feed.restore`."""
        self._join.restore(standing)

    def run(self, outlet: Outlet, cursor: str | None) -> None:
        """See `live.Feed.run`."""
        since = _place(cursor)
        key = _key()
        try:
            rest = _Rest(self, key, outlet)
        except ImportError:
            raise UsageError(
                "--feed massive: needs the vendor's client: pip install 'flowtape[massive]'"
            ) from None
        tickers = self._tickers(rest)
        quoted = tickers if self.market == "stocks" else tickers[:QUOTED_CONTRACTS]
        if len(tickers) > len(quoted):
            outlet.count("contracts whose quotes the vendor does not give", len(tickers) - len(quoted))
        topics = [*(f"T.{name}" for name in tickers), *(f"Q.{name}" for name in quoted)]
        with _Socket(self, key, topics, outlet) as socket:
            # Subscribed first: what happens while the gap is fetched waits in the queue.
            waiting = self._subscribe(socket, set(topics), outlet)
            if since is not None:
                self._fill(rest, tickers, since, outlet)
            trades = Trades(outlet, stocks=self.market == "stocks")
            while not outlet.stop.is_set():
                self._take(waiting, trades, outlet)
                messages = socket.take(0.1)
                waiting = self._events(messages, outlet)

    def _tickers(self, rest: _Rest) -> list[str]:
        if self.market == "stocks":
            return list(self._wanted)
        found: dict[str, None] = {}
        for name in self._wanted:
            contracts = [name] if name.startswith("O:") else rest.contracts(name)
            if not contracts:
                raise UsageError(f"--feed massive:options: {name} has no contracts at Massive")
            found.update(dict.fromkeys(contracts))
        return list(found)

    def _events(self, messages: Sequence[str | bytes], outlet: Outlet) -> list[Event]:
        """What the messages hold; a status that is no good news is raised."""
        if messages:
            outlet.heard()
        events = [event for message in messages for event in rows_of(Event, message, outlet)]
        for event in events:
            if event.ev == "status" and event.status not in ("connected", "auth_success", "success"):
                raise FeedError(f"Massive: {event.status}: {event.message}")
        if strange := sum(event.ev not in ("T", "Q", "status") for event in events):
            outlet.count(NOT_UNDERSTOOD, strange)
        return events

    def _subscribe(self, socket: _Socket, topics: set[str], outlet: Outlet) -> list[Event]:
        """Wait until all is subscribed; returns what came before that."""
        waiting: list[Event] = []
        until = time.monotonic() + 2 * OPEN_LIMIT
        while topics and time.monotonic() < until and not outlet.stop.is_set():
            events = self._events(socket.take(0.1), outlet)
            for event in events:
                if event.ev == "status" and event.message.startswith("subscribed to:"):
                    topics -= {name.strip() for name in event.message[14:].split(",")}
            waiting += events
        if topics and not outlet.stop.is_set():
            raise FeedError(f"Massive: {len(topics)} subscriptions not confirmed, {min(topics)} among them")
        return waiting

    def _fill(self, rest: _Rest, tickers: Sequence[str], since: int, outlet: Outlet) -> None:
        """Fetch what happened from `since` (ns) on, a window after the other."""
        start, width = since // _MS * _MS, WINDOW
        end: int | None = start
        with ThreadPoolExecutor(FETCHERS) as pool:
            while end is not None and not outlet.stop.is_set():
                end = start + width if start + width < time.time_ns() else None
                both = list(pool.map(lambda ticker, s=start, e=end: rest.window(ticker, s, e), tickers))
                if outlet.stop.is_set():
                    return
                raw = pl.concat([trades for trades, _ in both])
                quotes = quotes_of(pl.concat([quotes for _, quotes in both]), outlet)
                # Numbered anew: a window holds whole milliseconds, and REST numbers no option's trade.
                none = pl.lit(None, pl.Int64).alias("sequence_number")
                raw = raw if self.market == "stocks" else raw.with_columns(none)
                trades = Trades(outlet, stocks=self.market == "stocks").of(raw)
                self._replay(trades, quotes, outlet)
                width = 2 * width if raw.is_empty() and quotes.is_empty() else WINDOW
                start = end or start

    def _replay(self, trades: pl.DataFrame, quotes: pl.DataFrame, outlet: Outlet) -> None:
        """Join a window in steps that the join holds whole, as they would have come."""
        step = (pl.col("ts").to_physical() // STEP).alias("#step")
        parts = [
            frame.with_columns(step)
            .sort("ts", maintain_order=True)
            .partition_by("#step", as_dict=True, include_key=False)
            for frame in (trades, quotes)
        ]
        for key in sorted(parts[0].keys() | parts[1].keys()):
            some_trades, some_quotes = (part.get(key) for part in parts)
            self._deliver(some_trades, some_quotes, outlet)

    def _take(self, events: Sequence[Event], trades: Trades, outlet: Outlet) -> None:
        quotes = quotes_of(live_quotes(events), outlet)
        self._deliver(trades.of(live_trades(events)), quotes, outlet)

    def _deliver(self, trades: pl.DataFrame | None, quotes: pl.DataFrame | None, outlet: Outlet) -> None:
        if quotes is not None and quotes.height:
            self._join.add_quotes(quotes)
        if trades is not None and trades.height:
            self._join.add_trades(trades)
        due, standing = self._join.due(), self._join.settle()
        told = (self._join.late, self._join.late_trades)
        for what, now, before in zip(("late quotes", "late trades"), told, self._told, strict=True):
            if now > before:
                outlet.count(what, now - before)
        self._told = told
        if due.height or standing is not None:
            stocks = self.market == "stocks"
            symbol = due["root"].alias("symbol") if stocks else underlyings(due["root"])
            prints = due.with_columns(symbol, asset=pl.lit("stock" if stocks else "option"))
            outlet.put(Delivery(conform(prints), str(self._join.floor), standing))


def _place(cursor: str | None) -> int | None:
    if cursor is not None and not cursor.isdecimal():
        raise FeedError(f"the kept cursor {cursor!r} is not one of Massive")
    return None if cursor is None else int(cursor)


def _key() -> str:
    name = os.environ.get("MASSIVE_API_KEY_FILE")
    try:
        key = Path(name).read_text().strip() if name else os.environ.get("MASSIVE_API_KEY", "").strip()
    except OSError as error:
        raise UsageError(f"MASSIVE_API_KEY_FILE: {name}: {error.strerror}") from None
    if not key:
        raise UsageError("--feed massive: set MASSIVE_API_KEY or MASSIVE_API_KEY_FILE in the environment")
    return key


def massive(spec: Spec) -> MassiveFeed:
    """The feed of a spec: `symbols`, and `url`, `rest`, `secure` for another server. Raises `UsageError`."""
    spec.refuse_others("symbols", "url", "rest", "secure")
    if spec.target not in SOURCES:
        raise UsageError(
            f"--feed {spec.text}: {spec.target!r} after massive: is none of {', '.join(SOURCES)}"
        )
    options = spec.options
    # A stock's ticker is case-sensitive: `TpC` is a preferred share of `T`, `TPC` another company.
    wanted = tuple(filter(None, (part.strip() for part in options.get("symbols", "").split(","))))
    for name in wanted:
        if spec.target == "stocks" and symbol_of(name) is None:
            raise UsageError(f"--feed {spec.text}: {name} is not a stock's ticker")
    if not wanted:
        raise UsageError(f"--feed {spec.text}: symbols names what to take, as in symbols=SPY,QQQ")
    if spec.target == "options":
        wanted = tuple(name.upper() for name in wanted)
    if options.get("secure", "1") not in ("0", "1"):
        raise UsageError(f"--feed {spec.text}: secure is {options['secure']!r}, not 0 or 1")
    secure = options.get("secure", "1") == "1"
    return MassiveFeed(spec.target, wanted, options.get("url", URL), options.get("rest", REST), secure=secure)
