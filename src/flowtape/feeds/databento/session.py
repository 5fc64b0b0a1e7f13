"""A connection to Databento's live gateway, by the vendor's own client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import databento_dbn as dbn

from flowtape.feeds.base import Outlet
from flowtape.feeds.credentials import Account
from flowtape.feeds.limits import Limits
from flowtape.feeds.rows import NOT_UNDERSTOOD
from flowtape.feeds.session import Session
from flowtape.readers.dbn import Header

RECORDS = 100_000
"""The default number of records in the queue."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the gateway: schemas of a dataset for symbols (by kind), from `start` (ns; None: now). Without a
    `gateway` it goes to the vendor's."""

    dataset: str
    schemas: tuple[str, ...]
    symbols: Mapping[str, tuple[str, ...]]
    start: int | None
    gateway: str | None
    port: int


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that remembers its connections. The client itself leaks one that is not authenticated in time."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[Any] = []

    async def create_connection(self, *args: Any, **named: Any) -> Any:
        """Return a connection, and remember its transport."""
        transport, protocol = await super().create_connection(*args, **named)
        self.opened.append(transport)
        return transport, protocol


class Gateway(Session[bytes]):
    """The vendor's client, and the stream to which it writes its records. While the queue is full, a write waits, so
    this client stops reading; other connections go on."""

    loop_factory = _Loop

    def __init__(self, request: Request, account: Account, outlet: Outlet, limits: Limits) -> None:
        super().__init__(account, limits.waiting or RECORDS)
        import databento as vendor

        # At lower levels the client logs every record and mapping, and a part of the key.
        logging.getLogger("databento").setLevel(logging.WARNING)
        self._vendor, self._request, self._outlet, self._limits = vendor, request, outlet, limits
        self.header: Header | None = None
        self.closed = False
        self._failed: BaseException | None = None

    def __enter__(self) -> Gateway:
        super().__enter__()
        return self

    def writable(self) -> bool:
        """Return true. The client checks its stream with this method."""
        return True

    def flush(self) -> None:
        """Do nothing: records are not buffered."""

    def write(self, data: bytes) -> int:
        """Queue the metadata, then each record, as the client writes them."""
        if self.header is None:
            self.header = Header(Path("live"), data[3], dbn.Metadata.decode(data))
        else:
            self.put(data)
        return len(data)

    def describe(self, error: BaseException) -> str:
        """Return the message for an error of the client."""
        return str(error) or type(error).__name__

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A client that cannot decode its data closes the connection normally. Only its event loop sees the error.
        self._failed = self._failed or context.get("exception")

    async def live(self) -> None:
        """Connect, subscribe and receive until the connection ends."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Loop)  # noqa: S101 - for the type checker
        loop.set_exception_handler(self._note)
        client = self._vendor.Live(
            self.account.keys[0], self._request.gateway, self._request.port,
            heartbeat_interval_s=self._limits.heartbeat,
            reconnect_policy="none", slow_reader_behavior="warn", loop=loop,
        )  # fmt: skip
        client.add_stream(self)  # type: ignore[arg-type]
        closing = asyncio.create_task(asyncio.to_thread(self.closing.wait))
        try:
            if await self._opened(loop, client, closing):
                client.start()
                lasting = asyncio.create_task(client.wait_for_close())
                ends: set[asyncio.Future[Any]] = {lasting, closing}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if self._failed is not None:
                    self._outlet.count(NOT_UNDERSTOOD)
                    raise self.account.failed(f"malformed records: {self.describe(self._failed)}")
                if lasting.done():
                    lasting.result()
        finally:
            self.end()
            client.terminate()
            for transport in loop.opened:
                transport.abort()
            await closing

    async def _opened(self, loop: _Loop, client: Any, closing: asyncio.Task[bool]) -> bool:
        """Return whether the gateway accepted the connection; false if the connection is to end first. The client's
        call blocks, and would wait long after a disconnection."""
        opening = loop.run_in_executor(None, self._subscribe, client)
        until = loop.time() + self._limits.open
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
        raise self.account.failed(f"not admitted within {self._limits.open:g} s, or cut off before that")

    def _subscribe(self, client: Any) -> None:
        asked = self._request
        for stype, symbols in asked.symbols.items():
            for schema in asked.schemas:
                client.subscribe(asked.dataset, schema, list(symbols), stype, asked.start)

    def _judge(self, error: BaseException | None) -> None:
        """Raise the error of a failed connection. A refused key is a `UsageError`."""
        if error is None:
            return
        text = self.describe(error)
        # Only the text of the client's error tells a refusal from a failure.
        failed = text.startswith(("Connection to ", "Authentication with ")) or "limit" in text.lower()
        if isinstance(error, self._vendor.BentoError) and not failed:
            raise self.account.refused(text)
        raise self.account.failed(text)
