"""The clock of the whole program. A replay has its own clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A clock. It is passed as an argument, so that a replay gives the same bytes."""

    def now_ns(self) -> int:
        """Return nanoseconds since 1970, UTC."""


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        """Return nanoseconds since 1970, UTC."""
        return time.time_ns()
