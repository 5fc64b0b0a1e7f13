"""`flowtape ingest`, `flowtape rebuild` and `flowtape store`."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path

import click
import msgspec

from flowtape.cli.options import Day, reading_options, store_option
from flowtape.cli.show import progress_bar, tell_outcome
from flowtape.errors import NothingRead, SourceConflict, StoreError, UsageError
from flowtape.feeds.replay import ReplayFeed
from flowtape.pipeline.ingest import Outcome, Request, Step
from flowtape.pipeline.ingest import ingest as run_ingest
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.maintenance import seal_closed
from flowtape.pipeline.migration import migrate
from flowtape.pipeline.rebuild import wrong_minutes
from flowtape.server import admin
from flowtape.settings import Settings, load
from flowtape.storage import check_name, open_store, shared
from flowtape.storage.clickhouse.connection import parse
from flowtape.storage.duckdb_exchange import vacuum
from flowtape.storage.duckdb_old import COLLAPSED
from flowtape.storage.duckdb_tables import VERSION


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--feed",
    multiple=True,
    metavar="FEED",
    help="Ingest a live feed (docs/how-to/live.md) until interrupted, without a server. May be repeated.",
)
@reading_options
@store_option
@click.option("--strict", is_flag=True, help="Stop at the first bad row, and keep nothing of its file.")
@click.option(
    "--replace", is_flag=True, help="Replace trading days that came from another source by these files."
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65_535),
    help="With --feed: the port of /metrics, for Prometheus.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result of each tape as JSON.")
def ingest(
    files: tuple[Path, ...],
    feed: tuple[str, ...],
    format: str | None,
    mapping: Path | None,
    source: str | None,
    file_symbol: str | None,
    store: str | None,
    strict: bool,
    replace: bool,
    metrics_port: int | None,
    as_json: bool,
) -> None:
    """Read files or live feeds into a store.

    Give trades together with their quotes and definitions. An ingest may be repeated or interrupted, and files may
    overlap: every print counts once. Where a server holds the store, the server reads the files, and its answers change
    as they are read. The store's file is made where it is missing, in a folder that exists.

    \b
    Examples:
      flowtape ingest trades.csv --store flow.duckdb
      flowtape ingest us_options_opra-trades.csv.gz us_options_opra-quotes.csv.gz
      flowtape ingest tape.parquet --mapping columns.toml --strict
      flowtape ingest nvda.csv --symbol NVDA --store flow.duckdb
      flowtape ingest --feed "databento:OPRA.PILLAR?symbols=SPY.OPT" --store clickhouse://flow@host/flow
    """
    settings = load()
    name = store or settings.store
    if bool(files) == bool(feed):
        raise UsageError("ingest: give FILES, or --feed, and not both")
    if feed:
        _take_feeds(name, feed, settings, metrics_port)
        return
    if metrics_port:
        raise UsageError("--metrics-port goes with --feed")
    request = Request(
        files=[str(file.absolute()) for file in files],
        format=format,
        strict=strict,
        replace=replace,
        mapping=None if mapping is None else str(mapping.absolute()),
        source=source,
        symbol=file_symbol,
    )
    with progress_bar() as progress:
        done = admin.ask(name, admin.Ingest(request), progress)
        if done is not None:
            outcomes = done.outcomes
        else:
            kept = open_store(name)
            try:
                outcomes = run_ingest(Ingestor(kept, max_quote_age=settings.quote_age), request, progress)
            finally:
                kept.close()
    _tell(outcomes, as_json)


def _take_feeds(name: str, texts: tuple[str, ...], settings: Settings, metrics_port: int | None) -> None:
    from flowtape.feeds.registry import open_feeds
    from flowtape.model.clock import SystemClock
    from flowtape.pipeline.feeding import feed_into
    from flowtape.server.logs import configure
    from flowtape.server.metrics import Metrics

    configure(settings)
    clock = SystemClock()
    feeds = open_feeds(texts, clock)
    metrics = Metrics()
    with ExitStack() as stack:
        if metrics_port:
            stack.callback(metrics.serve(settings.host, metrics_port))
        kept = open_store(name)
        stack.callback(kept.close)
        replayed = next((feed.clock for feed in feeds if isinstance(feed, ReplayFeed)), clock)
        feed_into(kept, feeds, settings, replayed, metrics)


def _tell(outcomes: list[Outcome], as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(outcomes).decode())
    else:
        for outcome in outcomes:
            tell_outcome(outcome)
    refused = sum(outcome.refused for outcome in outcomes if outcome.refusals)
    if refused:
        raise SourceConflict(f"{refused:,} rows were refused: their trading days come from another source")
    for outcome in outcomes:
        if outcome.nothing_read is not None:
            raise NothingRead(outcome.nothing_read)


@click.command()
@click.argument("day", type=Day(), required=False)
@click.option("--outdated", is_flag=True, help="Rebuild every day that was classified with other settings.")
@store_option
def rebuild(day: date | None, outdated: bool, store: str | None) -> None:
    """Classify the prints of DAY again, and make its minute bars from them.

    DAY is a New York date. Answers change only where the prints were classified with another max_quote_age or another
    table of sale conditions, or where the bars were damaged.

    \b
    Examples:
      flowtape rebuild 2026-05-12 --store flow.duckdb
      flowtape rebuild --outdated --store flow.duckdb
    """
    if (day is None) == (not outdated):
        raise click.UsageError("give either DAY or --outdated")
    settings = load()
    name = store or settings.store
    done = admin.ask(name, admin.Rebuild(day))
    if done is not None:
        bars = done.bars
    else:
        kept = open_store(name)
        try:
            ingestor = Ingestor(kept, max_quote_age=settings.quote_age)
            bars = ingestor.rebuild_outdated() if day is None else {day: ingestor.rebuild(day)}
            seal_closed(kept, time.time_ns())
        finally:
            kept.close()
    for made, many in bars.items():
        click.echo(f"{made}: {many:,} minute bars made again from prints")
    if not bars:
        click.echo("no day is outdated")


@click.group()
def store() -> None:
    """Make, check, migrate and vacuum a store.

    \b
    Example:
      flowtape store check 2026-05-12 --store flow.duckdb
    """


@store.command("init")
@store_option
@click.option("--print", "only_print", is_flag=True, help="Print the statements, and run none.")
def store_init(store: str | None, only_print: bool) -> None:
    """Make the tables of a ClickHouse store that are missing.

    A DuckDB file needs no such step: the first ingest makes it.

    \b
    Example:
      flowtape store init --store clickhouse://flow@host/flow
    """
    _lay_out(store, only_print, "made")


@store.command("migrate")
@store_option
@click.option("--print", "only_print", is_flag=True, help="ClickHouse: print the statements, and run none.")
def store_migrate(store: str | None, only_print: bool) -> None:
    """Convert a store to the format of this version of flowtape.

    A DuckDB file of an older format is copied to a new file beside it, which replaces the old one once it is complete.
    The command may be interrupted and repeated. Of a ClickHouse store, the tables are updated, and old rows expire as
    the settings keep_prints_days and keep_minutes_days say.

    \b
    Example:
      flowtape store migrate --store flow.duckdb
    """
    settings = load()
    name = store or settings.store
    if shared(name):
        _lay_out(store, only_print, "up to date")
        return
    if only_print:
        raise UsageError("--print goes with a ClickHouse store")
    check_name(name)
    with progress_bar() as progress:
        done = migrate(
            Path(name), settings.quote_age, lambda what, rows, share: progress(Step(what, rows, share))
        )
    if not done.version:
        click.echo(f"{name}: is of version {VERSION} already")
        return
    click.echo(f"{name}: {done.prints:,} prints carried over from version {done.version}")
    if done.left_out:
        click.echo(f"{name}: {done.left_out:,} prints left out: they are beyond today's bounds", err=True)
    if done.version == COLLAPSED:
        click.echo(
            f"{name}: version 2 kept one of several prints with the same contract, venue, time and sequence number; the"
            " others are lost. Ingest the files of its days again: flowtape ingest FILES --replace",
            err=True,
        )


def _lay_out(name: str | None, only_print: bool, done: str) -> None:
    from flowtape.storage.clickhouse.connection import Link
    from flowtape.storage.clickhouse.tables import Layout

    settings = load()
    address = parse(name or settings.store)
    layout = Layout(address.database, address.cluster, settings.keep_prints_days, settings.keep_minutes_days)
    statements = [*layout.statements(), *layout.keeping()]
    if only_print:
        click.echo(";\n\n".join(statements) + ";")
        return
    link = Link(address)
    try:
        for statement in statements:
            link.run(statement)
        for table, statement in layout.for_good():
            # Taking an age away where there is none is an error.
            if link.expires(table):
                link.run(statement)
                statements.append(statement)
    finally:
        link.close()
    open_store(str(name or settings.store)).close()
    click.echo(f"{address}: {done}, {len(statements)} statements")


@store.command("vacuum")
@store_option
def store_vacuum(store: str | None) -> None:
    """Free the disk space of deleted and superseded rows. No answer changes.

    A DuckDB file is copied to a new file beside it, which replaces the old one once it is complete; no server may hold
    it meanwhile. Of a ClickHouse store, superseded rows are deleted: run the command once a day. A run deletes the rows
    that the run before it has seen, so the first deletes nothing, and so does one within ten minutes of another.

    \b
    Example:
      flowtape store vacuum --store flow.duckdb
    """
    name = store or load().store
    if shared(name):
        _vacuum_shared(name)
        return
    check_name(name)
    with progress_bar() as progress:
        before, after = vacuum(Path(name), lambda done: progress(Step("copying", 0, done)))
    click.echo(f"{name}: {before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB after")


@store.command("tidy", hidden=True)
@store_option
@click.pass_context
def store_tidy(context: click.Context, store: str | None) -> None:
    """Do what `store vacuum` does, under its earlier name."""
    click.echo("note: `store tidy` is now `store vacuum`; the old name goes with the next version", err=True)
    context.invoke(store_vacuum, store=store)


def _vacuum_shared(name: str) -> None:
    from flowtape.storage.clickhouse.vacuum import Vacuum

    keeper = Vacuum(parse(name))
    try:
        deleted = keeper.run(int(datetime.now(UTC).timestamp()))
    finally:
        keeper.close()
    if deleted is None:
        click.echo(
            "nothing deleted: a run ten minutes or more after the one before it deletes what that one saw"
        )
    else:
        click.echo(
            ", ".join(f"{many:,} rows of {table}" for table, many in deleted.items()) or "nothing to delete"
        )


@store.command("check")
@click.argument("day", type=Day(), required=False)
@store_option
def store_check(day: date | None, store: str | None) -> None:
    """Print what a store holds; with DAY, compare its minute bars with its prints.

    DAY is a New York date. The exit code is 5 where bars and prints differ; `flowtape rebuild DAY` then makes the bars
    again.

    \b
    Example:
      flowtape store check 2026-05-12 --store flow.duckdb
    """
    settings = load()
    kept = open_store(store or settings.store, read_only=True)
    try:
        span = kept.span()
        if span is None:
            click.echo("the store is empty")
        else:
            oldest, newest = (datetime.fromtimestamp(ts // 10**9, UTC) for ts in span)
            click.echo(f"prints from {oldest:%Y-%m-%dT%H:%M:%SZ} to {newest:%Y-%m-%dT%H:%M:%SZ},"
                       f" {kept.catalog.series.height:,} series, {kept.sources().height:,} symbols' days")  # fmt: skip
        if day is not None:
            wrong, all_bars = wrong_minutes(kept, day)
            if wrong:
                raise StoreError(f"{day}: {wrong:,} of {all_bars:,} minute bars are not what the prints make")
            click.echo(f"{day}: {all_bars:,} minute bars, each what the prints make")
    finally:
        kept.close()
