"""The files of a backfill: finds them on this machine or in an object store, groups them, and fetches them."""

from __future__ import annotations

import glob
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from flowtape.errors import TapeError, UsageError
from flowtape.readers import Options, open_tapes

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
}
"""The extra that installs the library of each protocol."""
_WILD = frozenset("*?[")
_DATE = re.compile(r"(?<!\d)(\d{4})[-_]?(\d{2})[-_]?(\d{2})(?!\d)")


class File(msgspec.Struct, frozen=True):
    """A file: its path or URL, its size in bytes, and a mark that changes with its content (a time, an ETag)."""

    url: str
    size: int
    changed: str


class Reading(msgspec.Struct, frozen=True):
    """The options of the readers. `mapping` is the text of a mapping, so that it can be sent to a worker."""

    format: str | None = None
    source: str | None = None
    mapping: str | None = None
    symbol: str | None = None


def is_remote(url: str) -> bool:
    """Return whether a source is in an object store."""
    return "://" in url


def find(sources: Sequence[str]) -> list[File]:
    """Return the files that paths, URLs and globs name, each once, in the order given; those of a glob by name.

    Raises `TapeError` if one names no file, `UsageError` for a protocol that is unknown or not installed.
    """
    found: dict[str, File] = {}
    for source in sources:
        for file in _remote(source) if is_remote(source) else _local(source):
            found.setdefault(file.url, file)
    return list(found.values())


def _local(source: str) -> list[File]:
    wild = not _WILD.isdisjoint(source) and not Path(source).exists()
    paths = [Path(name) for name in sorted(glob.glob(source, recursive=True))] if wild else [Path(source)]
    files = [path.absolute() for path in paths if not (wild and path.is_dir())]
    if not files:
        raise TapeError(f"{source}: no file matches")
    for path in files:
        if not path.is_file():
            raise TapeError(f"{path}: no such file" if not path.exists() else f"{path}: a folder, not a file")
        if not str(path).isprintable():
            raise TapeError(
                f"{str(path)!r}: a name with bytes that are no printable text in UTF-8; rename the file"
            )
    return [File(str(path), path.stat().st_size, str(path.stat().st_mtime_ns)) for path in files]


def _remote(source: str) -> list[File]:
    system, path = _opened(source)
    try:
        told = system.glob(path, detail=True) if not _WILD.isdisjoint(path) else {path: system.info(path)}
    except FileNotFoundError:
        told = {}
    except Exception as error:
        raise TapeError(f"{source}: {str(error)[:500] or repr(error)}") from None
    files = [
        File(system.unstrip_protocol(name), int(info.get("size") or 0), _changed(info))
        for name, info in sorted(told.items())
        if info.get("type") != "directory"
    ]
    if not files:
        raise TapeError(f"{source}: no file matches")
    return files


def _changed(info: dict[str, Any]) -> str:
    for name in ("ETag", "etag", "LastModified", "last_modified", "updated", "mtime", "created"):
        if info.get(name):
            return str(info[name])
    return ""


def _opened(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    extra = EXTRAS.get(protocol)
    hint = f"; pip install 'flowtape[{extra}]'" if extra else ""
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(url)
    except ImportError:
        hint = hint or "; pip install fsspec and what it names for the protocol"
        raise UsageError(f"source: {protocol}:// needs a library that is not installed{hint}") from None
    except Exception as error:
        raise UsageError(f"source: {url}: {str(error)[:500] or repr(error)}") from None
    return system, str(path)


def units_of(files: Sequence[File], reading: Reading) -> list[tuple[File, ...]]:
    """Return groups of files that are read together: trades with their quotes and definitions.

    On this machine the readers find the groups, in an object store the date in the names does. Raises the errors of
    `open_tapes`.
    """
    here = {Path(file.url): file for file in files if not is_remote(file.url)}
    units: list[tuple[File, ...]] = []
    if here:
        with options(reading) as asked:
            tapes = open_tapes(list(here), reading.format, asked)
        units = list(dict.fromkeys(tuple(here[path] for path in tape.files) for tape in tapes))
    away: dict[str, list[File]] = {}
    for file in files:
        if is_remote(file.url):
            dated = _DATE.search(file.url.rpartition("/")[2])
            away.setdefault("-".join(dated.groups()) if dated else file.url, []).append(file)
    return units + [tuple(together) for together in away.values()]


@contextmanager
def options(reading: Reading) -> Iterator[Options]:
    """Yield the readers' options, with the mapping in a temporary file."""
    if reading.mapping is None:
        yield Options(source=reading.source, symbol=reading.symbol)
        return
    with tempfile.TemporaryDirectory(prefix="flowtape-") as folder:
        path = Path(folder, "mapping.toml")
        path.write_text(reading.mapping)
        yield Options(source=reading.source, mapping=path, symbol=reading.symbol)


@contextmanager
def near(unit: Sequence[File]) -> Iterator[list[Path]]:
    """Yield local paths of a unit's files; those of an object store are fetched, and removed afterwards.

    Raises `TapeError` if one cannot be fetched.
    """
    with tempfile.TemporaryDirectory(prefix="flowtape-") as folder:
        paths = []
        for number, file in enumerate(unit):
            if not is_remote(file.url):
                paths.append(Path(file.url))
                continue
            # Separate folders, since files of one day often have the same name.
            path = Path(folder, str(number), file.url.rpartition("/")[2])
            path.parent.mkdir()
            system, name = _opened(file.url)
            try:
                system.get_file(name, str(path))
            except Exception as error:
                raise TapeError(f"{file.url}: {str(error)[:500] or repr(error)}") from None
            paths.append(path)
        yield paths
