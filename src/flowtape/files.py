"""Read small files safely, and create files that only their owner can open."""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_TEXT = 2**20
"""The largest text file, in bytes, that a command reads as settings, a mapping or a credential."""

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
        """Drop this reference once the database is closed. May be called again."""
        with _lock:
            if self._open:
                self._open = False
                _held[self._file] -= 1
                if not _held[self._file]:
                    del _held[self._file]


def unreadable(path: Path) -> str | None:
    """Return the reason why a path must not be opened for reading, or None.

    A FIFO or a terminal would block the command. A device such as /dev/zero has no end. A database that this process
    has open would lose its locks. The null device counts as an empty file.

    Raises:
        OSError: there is no such file.
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
    """Return the text of a small file: settings, a mapping or a credential.

    Raises:
        OSError: there is no such file.
        ValueError: the file is not a regular file, is larger than `MOST_TEXT` bytes, or is not UTF-8.
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
    """Create files with access for their owner only, while the context is open.

    It is for libraries that create files themselves. The umask belongs to the process, so files that other threads
    create meanwhile are private too.
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
