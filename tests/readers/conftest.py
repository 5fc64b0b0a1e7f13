"""Fixtures of the reader tests: files in the vendors' formats."""

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import zstandard

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a file of lines or bytes, compressed by its suffix."""

    def _write(name: str, content: Sequence[str] | bytes) -> Path:
        data = content if isinstance(content, bytes) else "".join(f"{line}\n" for line in content).encode()
        if name.endswith(".gz"):
            data = gzip.compress(data, mtime=0)
        if name.endswith(".zst"):
            data = zstandard.compress(data)
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return _write
