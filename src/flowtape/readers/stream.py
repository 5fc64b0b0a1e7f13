"""Read the decompressed bytes of a file in bounded memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import zstandard

from flowtape.errors import TapeError
from flowtape.files import unreadable

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = tuple(bytes([0x50 + n, 0x2A, 0x4D, 0x18]) for n in range(16))
# Four bytes of zstd can hold 128 KB. A small slice bounds its expansion to about 30 MB.
_ZSTD_SLICE = 1024
_GZIP_SLICE = 2**18
_PIECE = 2**22
MAX_EXPANSION = 500
"""The largest ratio of decompressed to compressed size beyond `FREE_BYTES`. Tapes have a ratio of 5 to 30."""
FREE_BYTES = 2**27


class Stream:
    """The decompressed bytes of a file; gzip and zstd are recognised by their first bytes, not by the file name.

    Call `read`, or iterate for pieces of a convenient size. `done` is the share of the file's own (compressed) bytes
    consumed so far, 0 to 1.

    Raises:
        TapeError: the file is missing, is not a regular file, or is a database that this process has open; or its
            compressed data is corrupt, incomplete, or expands to more than `MAX_EXPANSION` times its size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            reason = unreadable(path)
            if reason is not None:
                raise TapeError(f"{path.name}: cannot be read: it {reason}")
            self._raw: IO[bytes] = path.open("rb")
            self._size = path.stat().st_size
        except OSError as error:
            raise self._unreadable(error) from None
        magic = self._take(4)
        self._raw.seek(0)
        if magic.startswith(_GZIP):
            self._pieces = self._bounded(self._gunzip())
        elif magic.startswith((_ZSTD, *_ZSTD_SKIPPABLE)):
            self._pieces = self._bounded(self._unzstd())
        else:
            self._pieces = iter(lambda: self._take(_PIECE), b"")
        self._left = b""

    @property
    def done(self) -> float:
        """Return the consumed share of the file, 0 to 1."""
        return 1.0 if self._raw.closed or not self._size else min(1.0, self._raw.tell() / self._size)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` decompressed bytes (all remaining if negative); fewer only at the end."""
        pieces, held = [self._left], len(self._left)
        while size < 0 or held < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            pieces.append(piece)
            held += len(piece)
        data = b"".join(pieces)
        if size < 0:
            size = held
        self._left = data[size:]
        return data[:size]

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, size: int) -> bytes:
        """Return the next bytes of the file itself. Each read may fail."""
        try:
            return self._raw.read(size)
        except OSError as error:
            self._raw.close()
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError) -> TapeError:
        return TapeError(f"{self.path.name}: cannot be read: {error.strerror}")

    def _bounded(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        made = 0
        for piece in pieces:
            made += len(piece)
            if made > FREE_BYTES and made > MAX_EXPANSION * self._raw.tell():
                raise TapeError(
                    f"{self.path.name}: its compressed data becomes more than {MAX_EXPANSION} times its size: not a "
                    f"tape; if it is one, decompress it first"
                )
            yield piece

    def _gunzip(self) -> Iterator[bytes]:
        data = self._take(_GZIP_SLICE)
        while data:
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                data = data or self._take(_GZIP_SLICE)
                if not data:
                    raise TapeError(f"{self.path.name}: truncated: the gzip data ends before its end mark")
                try:
                    piece = member.decompress(data, _PIECE)
                except zlib.error as error:
                    raise TapeError(f"{self.path.name}: corrupt gzip data: {error}") from None
                data = member.unconsumed_tail
                if piece:
                    yield piece
            # Some tools pad the last member with zeros.
            data = (member.unused_data or self._take(_GZIP_SLICE)).lstrip(b"\0")

    def _unzstd(self) -> Iterator[bytes]:
        decompressor = zstandard.ZstdDecompressor()
        data = self._take(_ZSTD_SLICE)
        while data:
            frame = decompressor.decompressobj()
            while not frame.eof:
                # The stream reader of `zstandard` accepts a file cut inside a frame; the test of `eof` does not.
                data = data or self._take(_ZSTD_SLICE)
                if not data:
                    raise TapeError(f"{self.path.name}: truncated: the zstd data ends in mid-frame")
                try:
                    piece = frame.decompress(data)
                except zstandard.ZstdError as error:
                    raise TapeError(f"{self.path.name}: corrupt zstd data: {error}") from None
                data = b""
                if piece:
                    yield piece
            data = frame.unused_data or self._take(_ZSTD_SLICE)


def open_stream(path: Path) -> Stream:
    """Return a file opened for its decompressed bytes, in bounded memory. Raises `TapeError`."""
    return Stream(path)


def head(path: Path, size: int = 65536) -> bytes:
    """Return the first decompressed bytes of a file. Raises `TapeError` if it is missing, a directory, or empty."""
    with open_stream(path) as stream:
        start = stream.read(size)
    if not start:
        raise TapeError(f"{path.name}: empty file")
    return start
