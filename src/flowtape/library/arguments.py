"""Arguments of the library: Python values as the texts that the HTTP API takes, and paths of files."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from flowtape.errors import UsageError

T = TypeVar("T")


def texts(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the arguments that are not None as pairs of a name and a text of the HTTP API.

    `min_trades` becomes `minTrades` and `from_` becomes `from`.
    """
    return [(http_name(name), text(name, value)) for name, value in given.items() if value is not None]


def http_name(name: str) -> str:
    """Return the name that the HTTP API has for an argument."""
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(map(str.capitalize, rest))


def text(name: str, value: Any) -> str:
    """Return an argument as the text that the HTTP API takes.

    Args:
        name: the argument, for the error.
        value: a text; a number; a date; a date-time with a time zone; a tuple (first, last) for a range, None for an
            open end; a list or set of values.

    Raises:
        UsageError: for a date-time without a time zone, and for another type.
    """
    found = _single(name, value)
    if found is not None:
        return found
    if isinstance(value, tuple):
        if len(value) != 2:
            raise UsageError(
                f"{name}: {value!r} is not a range (first, last); give a list for several values"
            )
        return "..".join("" if end is None else text(name, end) for end in value)
    if isinstance(value, list | set | frozenset):
        return ",".join(text(name, one) for one in value)
    raise UsageError(f"{name}: expected a text, number, date or range, not {type(value).__name__} {value!r}")


def _single(name: str, value: Any) -> str | None:
    """Return the text of a value that is neither a range nor a list, else None."""
    if isinstance(value, datetime):
        return instant(name, value).isoformat()
    if isinstance(value, str | date):
        return str(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Decimal | Real):
        return f"{value:f}" if isinstance(value, Decimal) else repr(float(value))
    return None


def instant(name: str, value: datetime) -> datetime:
    """Return a date-time in UTC. Raises `UsageError` where it has no time zone."""
    if value.tzinfo is None:
        raise UsageError(
            f"{name}: {value} has no time zone; give it one, such as"
            f" {name}.replace(tzinfo=zoneinfo.ZoneInfo('America/New_York'))"
        )
    return value.astimezone(UTC)


def nanoseconds(name: str, value: str | datetime | None) -> int | None:
    """Return an instant as ns since 1970, None of None. A text without a zone is UTC."""
    from flowtape.server.params import parse_instant

    if value is None:
        return None
    return _parsed(name, value, parse_instant)


def day(name: str, value: str | date | None) -> date | None:
    """Return a date, given as one or as a text, None of None."""
    from flowtape.server.params import parse_date

    if value is None:
        return None
    return _parsed(name, value.date() if isinstance(value, datetime) else value, parse_date)


def _parsed(name: str, value: Any, parse: Callable[[str], T]) -> T:
    written = text(name, value)
    try:
        return parse(written)
    except ValueError as error:
        raise UsageError(f"{name} must be {error.args[0]}, not {written!r}") from None


def paths(path: Any) -> list[Path]:
    """Return the files that an argument names.

    Args:
        path: a file, a folder (the files in it, without hidden ones), a pattern such as `tape/*.csv.gz`, or several of
            these. Files of a folder or a pattern are in order of their names.

    Raises:
        UsageError: for another type, for a folder or a pattern without a file, and where nothing is named.
    """
    given = [path] if isinstance(path, str | os.PathLike) else path
    if not isinstance(given, Iterable) or isinstance(given, bytes | Mapping):
        raise UsageError(f"path: expected a path or several, not {type(path).__name__} {path!r}")
    found = [file for one in given for file in _files(one)]
    if not found:
        raise UsageError("path: names no file")
    return found


def _files(path: Any) -> list[Path]:
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise UsageError(f"path: expected a path, not {type(path).__name__} {path!r}")
    one = Path(path)
    if one.is_dir():
        files = sorted(file for file in one.iterdir() if file.is_file() and not file.name.startswith("."))
        if not files:
            raise UsageError(f"path: the folder {str(path)!r} has no file")
        return files
    if not one.exists() and glob.has_magic(str(path)):
        files = [Path(file) for file in sorted(glob.glob(str(path), recursive=True)) if Path(file).is_file()]
        if not files:
            raise UsageError(f"path: no file matches {str(path)!r}")
        return files
    return [one]
