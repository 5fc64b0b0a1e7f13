"""What the reader tests share: files written as the vendors write them."""

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import zstandard

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a text file of lines (or bytes as they are), compressed as its name says."""

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
