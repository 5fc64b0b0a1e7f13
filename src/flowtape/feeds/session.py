"""A vendor's client on its own thread and event loop, with a bounded queue of received messages."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from flowtape.errors import FeedError, UsageError
from flowtape.feeds.credentials import Account

T = TypeVar("T")


class Session(ABC, Generic[T]):
    """One connection. Its own thread answers pings while a delivery waits.

    A subclass connects and receives in `live`, and passes each message to `put`. Attributes: `account` is the account
    of the connection; `closing` is set when the connection must end.
    """

    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None

    def __init__(self, account: Account, waiting: int, batch: int | None = None) -> None:
        """Queue up to `waiting` messages. `take` returns up to `batch` of them (None: all)."""
        self.account, self.closing = account, threading.Event()
        self._waiting, self._batch = waiting, batch
        self._messages: list[T] = []
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"{account.title} socket")

    def __enter__(self) -> Session[T]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._thread.join()

    def end(self) -> None:
        """End the connection. A message that waits for space in the queue is dropped."""
        self.closing.set()
        with self._changed:
            self._changed.notify_all()

    @abstractmethod
    async def live(self) -> None:
        """Connect and receive until the connection ends or `closing` is set. Raises `UsageError` if a retry cannot
        succeed; any other error becomes a `FeedError`."""

    @property
    def full(self) -> bool:
        """Return whether the queue is full."""
        return len(self._messages) >= self._waiting

    def put(self, message: T) -> None:
        """Add a message to the queue. It waits while the queue is full and the connection is open."""
        with self._changed:
            if len(self._messages) >= self._waiting:
                self._changed.wait_for(lambda: not self.full or self.closing.is_set())
                if self.full:
                    return
            self._messages.append(message)
            if len(self._messages) == 1:
                self._changed.notify_all()

    def take(self, wait: float) -> list[T]:
        """Return the queued messages, none if none arrived in `wait` seconds. After the last one, raise the error that
        ended the connection."""
        with self._changed:
            if not self._messages and self._error is None:
                self._changed.wait(wait)
            taken = self._messages[: self._batch]
            del self._messages[: self._batch]
            self._changed.notify_all()
            if not taken and self._error is not None:
                raise self._error
        return taken

    def describe(self, error: Exception) -> str:
        """Return the message for another library's error. Keys are removed from it afterwards."""
        return f"{type(error).__name__}: {error}"

    def _run(self) -> None:
        error: Exception
        try:
            with asyncio.Runner(loop_factory=self.loop_factory) as runner:
                runner.run(self.live())
            error = self.account.failed("the connection was closed")
        except (FeedError, UsageError) as failure:
            error = type(failure)(self.account.clean(failure))
        except Exception as failure:
            error = self.account.failed(self.describe(failure))
        with self._changed:
            self._error = error
            self._changed.notify_all()
