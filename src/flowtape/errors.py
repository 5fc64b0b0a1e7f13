"""The errors that flowtape raises on purpose.

FlowtapeError
├── UsageError        an argument or a setting is invalid; the message names it and its value
├── TapeError         a file cannot be read as a tape: wrong format, empty, truncated
│   ├── RowError      one row is bad (raised only by a strict read)
│   └── NothingRead   every row of a file is bad
├── SourceConflict    another source already owns a symbol's trading day
├── StoreError        the store cannot be opened, read or written
│   ├── StoreBusy     another process holds the store
│   └── TakenOver     another process now writes in place of this one
├── FeedError         a live source failed
└── Loading           the data that an answer needs is still being loaded
"""

from __future__ import annotations

import datetime


class FlowtapeError(Exception):
    """Base class of all errors raised on purpose. The message is written for users."""

    exit_code = 1
    """The exit code of a command that ends with this error."""


class UsageError(FlowtapeError):
    """An argument or a setting is invalid. The message names it and its value."""

    exit_code = 2


class TapeError(FlowtapeError):
    """A file cannot be read as a tape."""

    exit_code = 3


class RowError(TapeError):
    """One row is bad, in a strict read. `row` counts from 1."""

    def __init__(self, file: str, row: int, reason: str) -> None:
        super().__init__(f"{file}: row {row}: {reason}")
        self.file, self.row, self.reason = file, row, reason


class NothingRead(TapeError):
    """Every row of a file is bad."""

    exit_code = 8


class SourceConflict(FlowtapeError):
    """A second source has prints for a symbol's trading day, and may not replace the first."""

    exit_code = 4


class StoreError(FlowtapeError):
    """The store cannot be opened, read or written."""

    exit_code = 5


class StoreBusy(StoreError):
    """Another process holds the store."""


class TakenOver(StoreError):
    """Another process now writes in place of this one. A retry cannot succeed."""

    exit_code = 7


class FeedError(FlowtapeError):
    """A live source failed."""

    exit_code = 6


class Loading(FlowtapeError):
    """The data that an answer needs is still being loaded.

    `done` is the loaded share, from 0 to 1. `complete_since` is the instant, in ns since 1970, UTC, from which on the
    data is complete; None where there is no such instant yet.
    """

    def __init__(self, done: float, complete_since: int | None = None) -> None:
        since = "" if complete_since is None else f"; complete since {_instant(complete_since)}"
        super().__init__(f"Loading: {min(int(done * 100), 99)} % done{since}.")
        self.done, self.complete_since = done, complete_since


def _instant(ns: int) -> str:
    return f"{datetime.datetime.fromtimestamp(ns // 10**9, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
