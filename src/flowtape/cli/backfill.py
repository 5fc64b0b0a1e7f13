"""`flowtape backfill`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flowtape.cli.options import reading_options, store_option
from flowtape.cli.show import tell_outcome
from flowtape.errors import SourceConflict, StoreError, TapeError, UsageError
from flowtape.files import read_text
from flowtape.settings import load
from flowtape.storage import check_name, shared

if TYPE_CHECKING:
    from flowtape.pipeline.backfill import Step, Summary
    from flowtape.pipeline.backfill.pools import Pool


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SRC...")
@click.option(
    "--on",
    metavar="dask://HOST:PORT",
    help="A Dask scheduler whose workers ingest the files; tcp:// and tls:// addresses too.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    help="Worker processes on this machine.  [default: the number of cores; 1 for a DuckDB file]",
)
@click.option(
    "--retries",
    type=click.IntRange(0, 100),
    default=3,
    show_default=True,
    help="How often a failed task is repeated.",
)
@reading_options
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print the result of each file as JSON.")
def backfill(
    sources: tuple[str, ...],
    on: str | None,
    workers: int | None,
    retries: int,
    format: str | None,
    mapping: Path | None,
    source: str | None,
    file_symbol: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Ingest many files with several workers.

    SRC is a file, a pattern in quotes such as "tape/*.csv.gz", or either of them in an object store: s3://, gs://,
    az://. Files that belong together, such as trades and their quotes, are found among them. The store remembers the
    files that are done: repeat the command to ingest those that failed or have changed. No print counts twice.

    \b
    Examples:
      flowtape backfill "tape/2026-*.parquet" --store clickhouse://flow@host/flow
      flowtape backfill "s3://desk/opra/2026/*.dbn.zst" --on dask://scheduler:8786 --store clickhouse://flow@host/flow
      flowtape backfill "tape/*.csv.gz" --store flow.duckdb
    """
    from flowtape.pipeline.backfill import backfill as run
    from flowtape.pipeline.backfill.files import Reading
    from flowtape.pipeline.backfill.tasks import Place

    settings = load()
    name = store or settings.store
    reading = Reading(format, source, None if mapping is None else _text(mapping), file_symbol)
    if not shared(name):
        check_name(name)
    place = Place(name if shared(name) else str(Path(name).absolute()), settings.max_quote_age)
    with _pool(name, on, workers, retries) as pool, _bar() as progress:
        summary = run(place, sources, reading, pool, progress)
    _tell(summary, as_json)


def _text(mapping: Path) -> str:
    try:
        return read_text(mapping)
    except (OSError, ValueError) as error:
        raise UsageError(f"mapping {mapping.name}: {error}") from None


@contextmanager
def _pool(name: str, on: str | None, workers: int | None, retries: int) -> Iterator[Pool]:
    from flowtape.pipeline.backfill.pools import Dask, Here, Processes

    alone = not shared(name) or name.startswith("chdb:")
    if alone and (on or (workers or 1) > 1):
        raise UsageError(f"{'--on' if on else '--workers'}: one process at a time holds the store {name}")
    if on and workers:
        raise UsageError("--workers: the cluster of --on has its own")
    if on:
        with closing(Dask(on.replace("dask://", "tcp://", 1), retries)) as cluster:
            yield cluster
        return
    many = workers or (1 if alone else len(os.sched_getaffinity(0)))
    with nullcontext(Here(retries) if alone else Processes(many, retries)) as pool:
        yield pool


@contextmanager
def _bar() -> Iterator[Callable[[Step], None]]:
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files, {task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, rows=0)
        yield lambda step: bar.update(
            task, description=step.doing, completed=step.done, total=step.all, rows=step.rows
        )


def _tell(summary: Summary, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(summary).decode())
    else:
        for one in summary.done:
            for outcome in one.outcomes:
                tell_outcome(outcome)
            if one.error:
                click.echo(f"{', '.join(one.files)}: {one.error}", err=True)
        taken = len(summary.done) - len(summary.failed)
        click.echo(f"{taken:,} taken, {len(summary.failed):,} failed, {summary.before:,} done before")
    refused = sum(outcome.refused for one in summary.done for outcome in one.outcomes if outcome.refusals)
    failed = [one for one in summary.failed if not one.again]
    if failed:
        raise TapeError(f"{len(failed):,} cannot be read; the first: {', '.join(failed[0].files)}")
    if summary.failed:
        raise StoreError(f"{len(summary.failed):,} were not taken; the same command again takes them")
    if refused:
        raise SourceConflict(f"{refused:,} rows were refused: their trading days come from another source")
