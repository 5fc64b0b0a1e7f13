"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from flowtape.readers import FORMATS
from flowtape.storage import shared

F = TypeVar("F", bound=Callable[..., Any])


class Day(click.ParamType[date]):
    """YYYY-MM-DD."""

    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """The date, or a usage error that names the value."""
        if isinstance(value, date):
            return value
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no date as YYYY-MM-DD", param, ctx)


class Instant(click.ParamType[datetime]):
    """An ISO 8601 instant; without a zone, UTC."""

    name = "ISO-8601"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The instant in UTC, or a usage error that names the value."""
        if isinstance(value, datetime):
            return value
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no ISO 8601 instant such as 2026-05-12T15:00:00Z", param, ctx)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


class StoreName(click.ParamType[str]):
    """A DuckDB file's path, or the address of a store."""

    name = "PATH|ADDRESS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, or a usage error where it is a folder's."""
        if not shared(value) and Path(value).is_dir():
            self.fail(f"{value!r} is a folder, not a store's file", param, ctx)
        return str(value)


def store_option(function: F) -> F:
    """`--store PATH|ADDRESS`."""
    return click.option(
        "--store",
        type=StoreName(),
        help="The store: a DuckDB file, or an address such as clickhouse://user@host/flow (docs/how-to/clickhouse.md);"
        " a command that writes makes it where it is missing, in a folder that exists.  [default: the setting store]",
    )(function)


def reading_options(function: F) -> F:
    """Add the options that say how files are read: `format`, `mapping`, `source` and `file_symbol`."""
    for option in (
        click.option("--source", help="The name of the data's source, for files that do not say it."),
        click.option(
            "--symbol",
            "file_symbol",
            help="The symbol of all rows, for files that carry none, such as a CSV of one stock.",
        ),
        click.option(
            "--mapping",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A TOML file that says which of the file's columns is which (docs/reference/formats.md).",
        ),
        click.option(
            "--format",
            type=click.Choice(list(FORMATS)),
            help="The files' format.  [default: found from their content]",
        ),
    ):
        function = option(function)
    return function
