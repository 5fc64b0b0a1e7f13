"""Keeps a server's cache up to date with a store that other processes write."""

from __future__ import annotations

import logging
import threading
import time

from flowtape.errors import StoreError
from flowtape.pipeline.ingestor import Ingestor
from flowtape.server.logs import Outage

EVERY = 0.25
"""Seconds between two looks at the store."""
_log = logging.getLogger(__name__)


class Follower:
    """Asks the store repeatedly for new commits, on a thread of its own."""

    def __init__(self, ingestor: Ingestor) -> None:
        self._ingestor = ingestor
        self._stop = threading.Event()
        self._seen: float | None = None
        self._outage = Outage(_log, "the store cannot be followed, retrying", "the store is followed again")
        self._thread = threading.Thread(target=self._run, name="follower")

    def start(self) -> None:
        """Start the thread; the cache has the store's state now."""
        self._seen = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for its current look. Does nothing before `start`."""
        self._stop.set()
        if self._seen is not None:
            self._thread.join()

    def behind(self) -> float:
        """Seconds since the cache last had the store's state; 0 before `start`."""
        return 0.0 if self._seen is None else time.monotonic() - self._seen

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            began = time.monotonic()
            try:
                self._ingestor.follow()
            except StoreError as error:
                self._outage.note(str(error))
            except Exception as error:
                _log.exception("the store cannot be followed")
                self._outage.note(repr(error))
            else:
                self._outage.over()
                self._seen = began
