"""Keeps a server's window fresh on a store that other processes write."""

from __future__ import annotations

import logging
import threading
import time

from flowtape.api.logs import event
from flowtape.engine import Engine
from flowtape.errors import StoreError

EVERY = 0.25
"""Seconds between looks at the store."""
_log = logging.getLogger(__name__)


class Follower:
    """Asks the store again and again what changed, on a thread of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stop = threading.Event()
        self._seen = time.monotonic()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="follower")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns once the look at hand is over."""
        self._stop.set()
        self._thread.join()

    def behind(self) -> float:
        """Seconds since the window was last as the store."""
        return time.monotonic() - self._seen

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            began = time.monotonic()
            try:
                self._engine.follow()
            except StoreError as error:
                self._note(str(error))
            except Exception as error:
                _log.exception("the store cannot be followed")
                self._note(repr(error))
            else:
                if self._failing:
                    event(_log, logging.INFO, "the store is followed again")
                self._failing, self._seen = False, began

    def _note(self, reason: str) -> None:
        if not self._failing:
            event(_log, logging.WARNING, "the store cannot be followed, trying again", reason=reason)
        self._failing = True
