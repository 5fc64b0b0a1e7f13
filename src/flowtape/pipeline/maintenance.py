"""Closed trading days are sealed: their prints are stored in order of symbol and time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import date, timedelta

from flowtape.errors import StoreError
from flowtape.model.clock import Clock
from flowtape.model.prints import day_bounds
from flowtape.storage import Store

AFTER_CLOSE = timedelta(hours=2)
"""The time from the end of a trading day in New York until it counts as closed, which leaves time for late prints."""
EVERY = 60.0
"""Seconds between two searches for days to seal."""
_log = logging.getLogger(__name__)


def closed(day: date, now_ns: int) -> bool:
    """Return whether a trading day was closed (over for `AFTER_CLOSE`) at an instant (ns)."""
    return now_ns >= (day_bounds(day)[1] + AFTER_CLOSE).timestamp() * 10**9


def seal_closed(
    store: Store,
    now_ns: int,
    progress: Callable[[date, float], None] = lambda day, done: None,
    stop: threading.Event | None = None,
) -> None:
    """Seal the closed days of a store that have changed since they were sealed, oldest first.

    `progress` is called before each day, with the day and the share of days that are done. A day that a writer
    changes at the same time stays as it is. Raises `StoreError`.
    """
    _seal(store, [day for day in store.unsealed() if closed(day, now_ns)], progress, stop)


def seal_all(store: Store, progress: Callable[[date, float], None]) -> None:
    """Seal every day of a store that no other process writes."""
    _seal(store, store.unsealed(), progress, None)


def _seal(
    store: Store, days: list[date], progress: Callable[[date, float], None], stop: threading.Event | None
) -> None:
    for place, day in enumerate(days):
        if stop is not None and stop.is_set():
            return
        progress(day, place / len(days))
        store.seal(day)


class Maintenance:
    """Seals closed days on a thread while a server runs."""

    def __init__(self, store: Store, clock: Clock, every: float = EVERY) -> None:
        self._store, self._clock, self._every = store, clock, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Start no further day. Closing the store interrupts the current one."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                seal_closed(self._store, self._clock.now_ns(), _log_day, self._stop)
            except StoreError as error:
                _log.warning("days cannot be sealed", extra={"fields": {"reason": str(error)}})
            self._stop.wait(self._every)


def _log_day(day: date, done: float) -> None:
    _log.info("sealing a day", extra={"fields": {"day": str(day)}})
