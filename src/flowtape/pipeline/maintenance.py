"""Trading days that are over are sealed: their prints are put in order of symbol and time."""

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
"""Time after a trading day's end in New York at which it is taken to be closed: late prints have come by then."""
EVERY = 60.0
"""Seconds between two looks for days to seal."""
_log = logging.getLogger(__name__)


def closed(day: date, now_ns: int) -> bool:
    """Return whether a trading day was over for `AFTER_CLOSE` at an instant (ns)."""
    return now_ns >= (day_bounds(day)[1] + AFTER_CLOSE).timestamp() * 10**9


def seal_closed(
    store: Store,
    now_ns: int,
    progress: Callable[[date, float], None] = lambda day, done: None,
    stop: threading.Event | None = None,
) -> None:
    """Seal the closed days of a store that were written to, one by one, oldest first.

    `progress` is called with each day before it begins, and with the share of days that are done. A day that a writer
    changes meanwhile stays as it is. Raises `StoreError`.
    """
    _seal(store, [day for day in store.unsealed() if closed(day, now_ns)], progress, stop)


def seal_all(store: Store, progress: Callable[[date, float], None]) -> None:
    """Seal every day of a store that nobody else writes, as `seal_closed` does."""
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
    """Seals closed days while a server runs, on a thread of its own."""

    def __init__(self, store: Store, clock: Clock, every: float = EVERY) -> None:
        self._store, self._clock, self._every = store, clock, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def start(self) -> None:
        """Begin with the days that are closed by now."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no further day; closing the store ends the one at hand."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                seal_closed(self._store, self._clock.now_ns(), _log_day, self._stop)
            except StoreError as error:
                _log.warning("days are not put in order", extra={"fields": {"reason": str(error)}})
            self._stop.wait(self._every)


def _log_day(day: date, done: float) -> None:
    _log.info("putting a day in order", extra={"fields": {"day": str(day)}})
