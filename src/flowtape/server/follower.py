"""Keeps a server's window fresh on a store that other processes write."""

from __future__ import annotations

import logging
import threading
import time

from flowtape.errors import StoreError
from flowtape.pipeline.ingestor import Ingestor
from flowtape.server.logs import Outage

EVERY = 0.25
"""Seconds between looks at the store."""
_log = logging.getLogger(__name__)


class Follower:
    """Asks the store again and again what changed, on a thread of its own."""

    def __init__(self, ingestor: Ingestor) -> None:
        self._ingestor = ingestor
        self._stop = threading.Event()
        self._seen: float | None = None
        self._outage = Outage(
            _log, "the store cannot be followed, trying again", "the store is followed again"
        )
        self._thread = threading.Thread(target=self._run, name="follower")

    def start(self) -> None:
        """Begin: the window is as the store now."""
        self._seen = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """End, where it has begun; returns once the look at hand is over."""
        self._stop.set()
        if self._seen is not None:
            self._thread.join()

    def behind(self) -> float:
        """Seconds since the window was last as the store; 0 before it has begun."""
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
