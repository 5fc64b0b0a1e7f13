"""`flowtape ingest` and `flowtape rebuild`."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import click
import msgspec

from flowtape.api import control
from flowtape.cli.options import Day, reading_options, store_option
from flowtape.cli.show import progress_bar, tell_outcome
from flowtape.engine import Engine
from flowtape.errors import SourceConflict
from flowtape.ingest import Outcome, Request
from flowtape.ingest import ingest as run_ingest
from flowtape.settings import load
from flowtape.store import open_store


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@reading_options
@store_option
@click.option("--strict", is_flag=True, help="Stop at the first bad row and keep nothing of that file.")
@click.option("--replace", is_flag=True, help="Put this tape in the place of another source's trading days.")
@click.option("--json", "as_json", is_flag=True, help="Print what became of each tape as JSON.")
def ingest(
    files: tuple[Path, ...],
    format: str | None,
    mapping: Path | None,
    source: str | None,
    store: Path | None,
    strict: bool,
    replace: bool,
    as_json: bool,
) -> None:
    """Take tapes into a store.

    Give trades together with the quotes and definitions that belong to them. Repeating an ingest, stopping
    it at any moment, or giving files that overlap never changes an answer: every row counts once. Where a
    server holds the store, that server takes the tape, and its answers change as it goes in.

    \b
    Examples:
      flowtape ingest trades.csv --store flow.duckdb
      flowtape ingest us_options_opra-trades.csv.gz us_options_opra-quotes.csv.gz
      flowtape ingest tape.parquet --mapping columns.toml --strict
    """
    settings = load()
    path = store or settings.store_path
    request = Request(
        files=[str(file.absolute()) for file in files],
        format=format,
        strict=strict,
        replace=replace,
        mapping=None if mapping is None else str(mapping.absolute()),
        source=source,
    )
    with progress_bar() as progress:
        done = control.ask(path, control.Ingest(request), progress)
        if done is not None:
            outcomes = done.outcomes
        else:
            kept = open_store(path)
            try:
                outcomes = run_ingest(Engine(kept, max_quote_age=settings.quote_age), request, progress)
            finally:
                kept.close()
    _tell(outcomes, as_json)


def _tell(outcomes: list[Outcome], as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(outcomes).decode())
    else:
        for outcome in outcomes:
            tell_outcome(outcome)
    refused = sum(outcome.refused for outcome in outcomes if outcome.refusals)
    if refused:
        raise SourceConflict(f"{refused:,} rows were refused: their trading days come from another source")


@click.command()
@click.argument("day", type=Day())
@store_option
def rebuild(day: date, store: Path | None) -> None:
    """Make the minutes of DAY (a New York date) again from the prints that are kept.

    The answers are the same afterwards, unless the minutes had been tampered with or were made under other
    settings (max_quote_age).
    """
    settings = load()
    path = store or settings.store_path
    done = control.ask(path, control.Rebuild(day))
    if done is not None:
        bars = done.bars
    else:
        kept = open_store(path)
        try:
            bars = Engine(kept, max_quote_age=settings.quote_age).rebuild(day)
        finally:
            kept.close()
    click.echo(f"{day}: {bars:,} minute bars made again from prints")
