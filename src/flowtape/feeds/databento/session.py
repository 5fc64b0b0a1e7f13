"""A connection to Databento's live gateway, by the vendor's own client."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import databento_dbn as dbn

from flowtape.errors import FeedError, UsageError
from flowtape.feeds.base import Outlet
from flowtape.readers.dbn import Header

HEARTBEAT = 10
"""Seconds between heartbeats asked for; the client gives a gateway up that is silent for 10 more."""
OPEN_LIMIT = 15.0
"""Seconds within which a connection must be admitted."""
WAITING = 100_000
"""Records that may wait; then the socket is not read, and the vendor waits too."""

NOT_UNDERSTOOD = "messages not understood"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the gateway: schemas of a dataset for symbols (by their kind), from `start` (ns; None: now).
    Without a `gateway` it is the vendor's."""

    dataset: str
    schemas: tuple[str, ...]
    symbols: Mapping[str, tuple[str, ...]]
    start: int | None
    gateway: str | None
    port: int


class _Loop(asyncio.SelectorEventLoop):
    """Remembers its connections: the client itself lets go of one that was not admitted in time."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[Any] = []

    async def create_connection(self, *args: Any, **named: Any) -> Any:
        """See `asyncio.loop.create_connection`."""
        transport, protocol = await super().create_connection(*args, **named)
        self.opened.append(transport)
        return transport, protocol


class Session:
    """The vendor's client on a thread and loop of its own, and the stream that it writes its records to: where too
    many wait, writing waits, and with it this client's reading, but no other's."""

    def __init__(self, request: Request, key: str, outlet: Outlet) -> None:
        try:
            import databento as vendor
        except ImportError:
            raise UsageError(
                "--feed databento: needs the vendor's client: pip install 'flowtape[databento]'"
            ) from None
        # Below this it writes a line for every record and mapping, and a part of the key.
        logging.getLogger("databento").setLevel(logging.WARNING)
        self._vendor, self._request, self._key, self._outlet = vendor, request, key, outlet
        self.header: Header | None = None
        self.closed = False
        self._records: list[bytes] = []
        self._changed, self._closing = threading.Condition(), threading.Event()
        self._error: Exception | None = None
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"{request.dataset} socket")

    def __enter__(self) -> Session:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def take(self, wait: float) -> list[bytes]:
        """The records that wait; none if none came in `wait` seconds. Raises what ended the connection once all
        before it are taken."""
        with self._changed:
            if not self._records and self._error is None:
                self._changed.wait(wait)
            taken, self._records = self._records, []
            self._changed.notify_all()
            if not taken and self._error is not None:
                raise self._error
        return taken

    def writable(self) -> bool:
        """The client's question about its stream."""
        return True

    def flush(self) -> None:
        """Nothing is held back."""

    def write(self, data: bytes) -> int:
        """The client's way to hand over the metadata, then each record."""
        with self._changed:
            if self.header is None:
                self.header = Header(Path("live"), data[3], dbn.Metadata.decode(data))
                return len(data)
            while len(self._records) >= WAITING and not self._closing.is_set():
                self._changed.wait(0.1)
            self._records.append(data)
            if len(self._records) == 1:
                self._changed.notify_all()
        return len(data)

    def _run(self) -> None:
        error: Exception
        try:
            with asyncio.Runner(loop_factory=_Loop) as runner:
                runner.run(self._live())
            error = FeedError("Databento: the connection was closed")
        except (FeedError, UsageError) as failure:
            error = failure
        except Exception as failure:
            error = FeedError(f"Databento: {self._text(failure)}")
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _text(self, error: BaseException) -> str:
        return str(error).replace(self._key, "***") or type(error).__name__

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A client that cannot decode what it gets closes the line as if it were done; only its loop is told why.
        self._failed = self._failed or context.get("exception")

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Loop)  # noqa: S101 - for the type checker
        loop.set_exception_handler(self._note)
        client = self._vendor.Live(
            self._key, self._request.gateway, self._request.port, heartbeat_interval_s=HEARTBEAT,
            reconnect_policy="none", slow_reader_behavior="warn", loop=loop,
        )  # fmt: skip
        client.add_stream(self)  # type: ignore[arg-type]
        closing = asyncio.create_task(asyncio.to_thread(self._closing.wait))
        try:
            if await self._opened(loop, client, closing):
                client.start()
                lasting = asyncio.create_task(client.wait_for_close())
                ends: set[asyncio.Future[Any]] = {lasting, closing}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if self._failed is not None:
                    self._outlet.count(NOT_UNDERSTOOD)
                    raise FeedError(f"Databento: data that are no records: {self._text(self._failed)}")
                if lasting.done():
                    lasting.result()
        finally:
            self._closing.set()
            client.terminate()
            for transport in loop.opened:
                transport.abort()
            await closing

    async def _opened(self, loop: _Loop, client: Any, closing: asyncio.Task[bool]) -> bool:
        """Whether the gateway admitted us; not if we are to end before that. The client's call blocks, and would
        wait for long where the line is cut before the gateway's answer."""
        opening = loop.run_in_executor(None, self._subscribe, client)
        until = loop.time() + OPEN_LIMIT
        cut = False
        while not opening.done() and not closing.done() and not cut:
            cut = loop.time() > until or any(transport.is_closing() for transport in loop.opened)
            ends: set[asyncio.Future[Any]] = {opening, closing}
            await asyncio.wait(ends, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
        if cut:
            await asyncio.wait({opening}, timeout=1)
        if opening.done():
            self._judge(opening.exception())
            return True
        for task in asyncio.all_tasks(loop) - {asyncio.current_task(), closing}:
            task.cancel()
        await asyncio.wait({opening})
        opening.exception()
        if closing.done():
            return False
        raise FeedError(f"Databento: not admitted within {OPEN_LIMIT:g} s, or cut off before that")

    def _subscribe(self, client: Any) -> None:
        asked = self._request
        for stype, symbols in asked.symbols.items():
            for schema in asked.schemas:
                client.subscribe(asked.dataset, schema, list(symbols), stype, asked.start)

    def _judge(self, error: BaseException | None) -> None:
        """Raise what an attempt to connect failed with: a refused key is no use to try again."""
        if error is None:
            return
        text = self._text(error)
        # The client tells by its words alone what was refused and what did not come about.
        failed = text.startswith(("Connection to ", "Authentication with ")) or "limit" in text.lower()
        if isinstance(error, self._vendor.BentoError) and not failed:
            raise UsageError(f"DATABENTO_API_KEY: refused by Databento: {text}")
        raise FeedError(f"Databento: {text}")
