"""What has still to be loaded before answers are complete.

Whoever loads something (the window from the store, a file, a simulated market that catches up) says how far it is and
which instants are missing. An answer that would rest on a missing instant is refused with `Loading`.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from flowtape.errors import Loading

FOREVER = 2**63 - 1
"""An instant after all others, ns UTC."""


class Backlog(NamedTuple):
    """What one source has still to bring: the share that is `done` (0 to 1), and the instants [start, end) in ns UTC
    outside of which nothing is missing."""

    done: float
    start: int = 0
    end: int = FOREVER


class Missing(NamedTuple):
    """The instants [start, end) in ns UTC of which prints may be missing, and the share `done` of what is loaded."""

    done: float
    start: int
    end: int

    def check(self, start: int, end: int) -> None:
        """Raise `Loading` where any of the instants [start, end) in ns UTC may be missing."""
        if start < self.end and end > self.start:
            raise self.error()

    def error(self) -> Loading:
        """What to tell who asks for what is missing."""
        return Loading(self.done, None if self.end == FOREVER else self.end)


class Backlogs:
    """The backlogs of all sources, by name. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Backlog] = {}
        self._names: set[str] = set()
        self._missing: Missing | None = None

    def set(self, name: str, backlog: Backlog) -> None:
        """Say how far a source is; a share of 1 ends its backlog. A source that begins with 1 had nothing to bring, and
        does not count."""
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
        """Say that a source has brought all, where it has a backlog."""
        if name in self._open:
            self.set(name, Backlog(1.0))

    def missing(self) -> Missing | None:
        """What is missing now; None where nothing is."""
        return self._missing

    def check(self) -> None:
        """Raise `Loading` while anything is missing."""
        if self._missing is not None:
            raise self._missing.error()

    def _of_all(self) -> Missing:
        parts = self._open.values()
        done = len(self._names) - len(parts) + sum(part.done for part in parts)
        return Missing(done / len(self._names), min(p.start for p in parts), max(p.end for p in parts))
