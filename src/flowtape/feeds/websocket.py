"""A vendor's websocket: authentication with a time limit, pings, and a bounded queue of frames."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from flowtape.feeds.base import Outlet
from flowtape.feeds.credentials import Account
from flowtape.feeds.limits import Limits
from flowtape.feeds.session import Session

Frame = bytes | str
FRAMES = 2000
"""The default number of frames in the queue."""


class VendorWebsocket(Protocol):
    """A vendor's own websocket client."""

    @property
    def line(self) -> Any:
        """Return the open websocket."""

    async def run(self, socket: Socket) -> None:
        """Connect, authenticate (then call `socket.admitted`), subscribe, and pass each frame to `socket.receive` until
        the connection ends. Raises `UsageError` if the keys are refused."""

    async def close(self) -> None:
        """Close the websocket, if there is one."""


class Socket(Session[Frame]):
    """A connection by a vendor's websocket client."""

    def __init__(self, client: VendorWebsocket, account: Account, outlet: Outlet, limits: Limits) -> None:
        super().__init__(account, limits.waiting or FRAMES, limits.batch)
        self._client, self._outlet, self._limits = client, outlet, limits
        self._admitted = asyncio.Event()
        self._received = 0

    def __enter__(self) -> Socket:
        super().__enter__()
        return self

    def admitted(self) -> None:
        """Report that the vendor has accepted the keys."""
        self._admitted.set()

    async def receive(self, frame: Frame) -> None:
        """Queue a frame. It waits while the queue is full, and then the websocket is not read."""
        if self.full:
            await asyncio.to_thread(self.put, frame)
        else:
            self.put(frame)
        self._received += 1

    async def live(self) -> None:
        """Run the client, with pings, until the connection ends."""
        stream = asyncio.create_task(self._client.run(self))
        pings = asyncio.create_task(self._ping(stream))
        closing = asyncio.create_task(asyncio.to_thread(self.closing.wait))
        try:
            await asyncio.wait({stream, pings, closing}, return_when=asyncio.FIRST_COMPLETED)
            for task in (stream, pings):
                if task.done():
                    task.result()
        finally:
            self.end()
            # Before Python 3.12 a client's `wait_for` can lose a cancellation, so cancel until the task ends.
            while going := {task for task in (stream, pings) if not task.done()}:
                for task in going:
                    task.cancel()
                await asyncio.wait(going, timeout=0.1)
            await asyncio.gather(stream, pings, closing, return_exceptions=True)
            await self._client.close()

    async def _ping(self, stream: asyncio.Task[None]) -> None:
        """Send pings, and check that they are answered."""
        from websockets.exceptions import ConnectionClosed

        limits = self._limits
        try:
            await asyncio.wait_for(self._admitted.wait(), limits.open)
        except TimeoutError:
            # Massive's client retries by itself when it cannot connect, and reports no reason.
            missed = "connected" if self._client.line is None else "admitted"
            raise self.account.failed(f"not {missed} within {limits.open:g} s") from None
        try:
            while True:
                before, pong = self._received, await self._client.line.ping()
                pong.add_done_callback(_read)
                done, _ = await asyncio.wait({pong}, timeout=limits.pong)
                if done:
                    pong.result()
                    self._outlet.heard()
                # A pong arrives behind all earlier frames, which can take long to process.
                elif not self.full and self._received == before:
                    raise self.account.failed(f"no pong within {limits.pong:g} s")
                await asyncio.sleep(limits.ping_every)
        except ConnectionClosed:
            # The reader has the frames before the end, and raises the reason for the end.
            await asyncio.wait({stream})

    def describe(self, error: Exception) -> str:
        """Return the message for a websocket error."""
        from websockets.exceptions import ConnectionClosed

        if isinstance(error, ConnectionClosed):
            return f"the connection was closed: {error}"
        return super().describe(error)


def _read(pong: asyncio.Future[Any]) -> None:
    """Read a pong's error, so that the event loop does not log it when a connection breaks during a ping."""
    if not pong.cancelled():
        pong.exception()


def settings(limits: Limits) -> dict[str, Any]:
    """Return the arguments for the library `websockets`."""
    # At its debug level the library logs every frame, with the keys.
    quiet = logging.getLogger(__name__)
    quiet.setLevel(logging.INFO)
    # The library's keepalive would close the connection while our queue is full.
    return {"ping_interval": None, "max_size": 2**26, "logger": quiet, "close_timeout": limits.close}
