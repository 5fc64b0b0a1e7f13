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
└── FeedError         a live source failed
"""

from __future__ import annotations


class FlowtapeError(Exception):
    """Base of all errors raised on purpose; its text is fit for a user to read."""

    exit_code = 1


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
