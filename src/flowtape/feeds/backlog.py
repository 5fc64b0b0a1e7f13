"""Track the data that must be loaded before answers are complete.

A loader (of the window from the store, of a file, of a simulated market that catches up) reports its progress and the
instants it still lacks. A query that needs one of these instants raises `Loading`.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from flowtape.errors import Loading

FOREVER = 2**63 - 1
"""An instant later than all others, ns UTC."""


class Backlog(NamedTuple):
    """The state of one loader: the share that is `done` (0 to 1), and the instants [start, end) in ns UTC that may be
    incomplete."""

    done: float
    start: int = 0
    end: int = FOREVER


class Missing(NamedTuple):
    """The instants [start, end) in ns UTC whose prints may be incomplete, and the share `done` of the load."""

    done: float
    start: int
    end: int

    def check(self, start: int, end: int) -> None:
        """Raise `Loading` if any of the instants [start, end) in ns UTC may be incomplete."""
        if start < self.end and end > self.start:
            raise self.error()

    def error(self) -> Loading:
        """Return the error for a query that needs the missing data."""
        return Loading(self.done, None if self.end == FOREVER else self.end)


class Backlogs:
    """The backlogs of all loaders, by name. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Backlog] = {}
        self._names: set[str] = set()
        self._missing: Missing | None = None

    def set(self, name: str, backlog: Backlog) -> None:
        """Set the progress of a loader. A share of 1 ends its backlog. A loader that starts with 1 is not counted."""
        with self._lock:
            if backlog.done >= 1:
                self._open.pop(name, None)
            else:
                if not self._open:
                    self._names.clear()
                self._names.add(name)
                self._open[name] = backlog
            self._missing = self._of_all() if self._open else None

    def end(self, name: str) -> None:
        """End the backlog of a loader, if it has one."""
        if name in self._open:
            self.set(name, Backlog(1.0))

    def missing(self) -> Missing | None:
        """Return what is missing now, or None."""
        return self._missing

    def check(self) -> None:
        """Raise `Loading` while anything is missing."""
        if self._missing is not None:
            raise self._missing.error()

    def _of_all(self) -> Missing:
        parts = self._open.values()
        done = len(self._names) - len(parts) + sum(part.done for part in parts)
        return Missing(done / len(self._names), min(p.start for p in parts), max(p.end for p in parts))
