"""Files: which may be opened by hand (regular ones that this process does not hold open as a database), and how files
are made that are their owner's alone."""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_TEXT = 2**20
"""Bytes of the largest text file that a command takes as settings, a mapping or a credential."""

_umask = threading.Lock()
_private = 0
_before = 0
_held: Counter[tuple[int, int]] = Counter()
_lock = threading.Lock()


class Held:
    """A database file that this process has open.

    POSIX drops all locks that a process has on a file when it closes any descriptor of that file. SQLite and DuckDB
    rely on these locks, so no other code of the process may open a file that is held.
    """

    def __init__(self, path: Path) -> None:
        self._file = _number(path.stat())
        self._open = True
        with _lock:
            _held[self._file] += 1

    def release(self) -> None:
        """The database is closed. May be called again."""
        with _lock:
            if self._open:
                self._open = False
                _held[self._file] -= 1
                if not _held[self._file]:
                    del _held[self._file]


def unreadable(path: Path) -> str | None:
    """Say why a path must not be opened for reading; None where it may be.

    A FIFO or a terminal would keep a command waiting, a device such as /dev/zero has no end, and a database that this
    process has open would lose its locks. The null device is an empty file. Raises `OSError` where there is nothing.
    """
    status = path.stat()
    kind = status.st_mode
    if stat.S_ISDIR(kind):
        return "is a directory"
    if stat.S_ISCHR(kind) and status.st_rdev == os.stat(os.devnull).st_rdev:
        return None
    if not stat.S_ISREG(kind):
        return "is not a regular file (a pipe, socket or device is not read)"
    with _lock:
        held = _number(status) in _held
    return "is a database that this process has open" if held else None


def read_text(path: Path) -> str:
    """The text of a small file: settings, a mapping, a credential.

    Raises `OSError` where there is none, and `ValueError` with the reason where it must not be read, is larger than
    `MOST_TEXT` or is not UTF-8.
    """
    reason = unreadable(path)
    if reason is not None:
        raise ValueError(reason)
    with path.open("rb") as file:
        data = file.read(MOST_TEXT + 1)
    if len(data) > MOST_TEXT:
        raise ValueError(f"is larger than {MOST_TEXT:,} bytes")
    return data.decode("utf-8")


def _number(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


@contextmanager
def private() -> Iterator[None]:
    """Files that this process makes meanwhile are open to their owner alone.

    For libraries that make files themselves. The mask is the process's, so files of other threads are private too.
    """
    global _private, _before  # noqa: PLW0603 - the mask is one for the process
    with _umask:
        if not _private:
            _before = os.umask(0o077)
        _private += 1
    try:
        yield
    finally:
        with _umask:
            _private -= 1
            if not _private:
                os.umask(_before)
