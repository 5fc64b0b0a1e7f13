"""Every error flowtape raises on purpose.

FlowtapeError
├── UsageError        an argument or a setting cannot be used; names it and its value
├── TapeError         a file cannot be read as a tape: wrong format, empty, truncated
│   ├── RowError      one row is bad (raised only by a strict read)
│   └── NothingRead   every row of a file is bad
├── SourceConflict    a symbol's trading day already comes from another source
├── StoreError        the store cannot be opened, read or written
│   ├── StoreBusy     another process holds the store
│   └── TakenOver     another process writes now what this one did
├── FeedError         a live source failed
└── Loading           what an answer rests on is still being loaded
"""

from __future__ import annotations

import datetime


class FlowtapeError(Exception):
    """Base of all errors raised on purpose; its text is fit for a user to read."""

    exit_code = 1
    """The exit code of a command that ends with this error."""


class UsageError(FlowtapeError):
    """An argument or a setting that cannot be used. The text names it and its value."""

    exit_code = 2


class TapeError(FlowtapeError):
    """A file that cannot be read as a tape."""

    exit_code = 3


class RowError(TapeError):
    """One bad row, in a strict read."""

    def __init__(self, file: str, row: int, reason: str) -> None:
        super().__init__(f"{file}: row {row}: {reason}")
        self.file, self.row, self.reason = file, row, reason


class NothingRead(TapeError):
    """A file of which no row is a print."""

    exit_code = 8


class SourceConflict(FlowtapeError):
    """Prints of a second source for a symbol's trading day, without leave to replace the first."""

    exit_code = 4


class StoreError(FlowtapeError):
    """The store cannot be opened, read or written."""

    exit_code = 5


class StoreBusy(StoreError):
    """Another process holds the store."""


class TakenOver(StoreError):
    """Another process has taken over what this one wrote; trying again cannot help."""

    exit_code = 7


class FeedError(FlowtapeError):
    """A live source failed."""

    exit_code = 6


class Loading(FlowtapeError):
    """What an answer rests on is still being loaded: `done` is the share that is there (0 to 1), `complete_since` the
    instant in ns UTC from which on nothing is missing (None: there is none yet)."""

    def __init__(self, done: float, complete_since: int | None = None) -> None:
        since = "" if complete_since is None else f"; complete since {_instant(complete_since)}"
        super().__init__(f"Loading: {min(int(done * 100), 99)} % done{since}.")
        self.done, self.complete_since = done, complete_since


def _instant(ns: int) -> str:
    return f"{datetime.datetime.fromtimestamp(ns // 10**9, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
