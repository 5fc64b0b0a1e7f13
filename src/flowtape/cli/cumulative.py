"""`flowtape cumulative`: an answer without a server."""

from __future__ import annotations

import sys
import warnings
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

import click
import msgspec
import polars as pl

from flowtape import library, queries
from flowtape.cache.cache import MINUTES
from flowtape.cli.options import Day, Instant, reading_options, store_option
from flowtape.cli.plot import plot
from flowtape.cli.show import table
from flowtape.errors import UsageError
from flowtape.model.symbols import asked
from flowtape.orderflow.batched_bars import BATCHED_ROWS
from flowtape.orderflow.classify import RULES
from flowtape.orderflow.minute_bars import NS_PER_MINUTE
from flowtape.pipeline.provenance import SIMULATED
from flowtape.queries.render.bodies import Rows
from flowtape.readers import Options, Tape, open_tapes
from flowtape.server import admin
from flowtape.settings import load
from flowtape.storage import open_store, shared


@click.command()
@click.argument("symbol")
@click.option("--minutes", default=240, show_default=True, help=f"Window, clamped to 1..{MINUTES}.")
@click.option("--at", type=Instant(), help="The instant the window ends by.  [default: now]")
@click.option("--expiry", type=Day(), help="One expiration.")
@click.option("--asset", type=click.Choice(["option", "stock"]), default="option", show_default=True)
@click.option(
    "--tape", type=click.Path(path_type=Path), multiple=True, help="Read this file in place of a store."
)
@click.option(
    "--rule",
    default="quote",
    show_default=True,
    help=f"With --tape: how sides are inferred: {', '.join(RULES)}, or several stacked by commas.",
)
@reading_options
@store_option
@click.option(
    "--as",
    "style",
    type=click.Choice(["table", "csv", "json"]),
    help="[default: table on a terminal, else csv]",
)
@click.option("--plot", "drawn", is_flag=True, help="Draw the line in the terminal.")
def cumulative(
    symbol: str,
    minutes: int,
    at: datetime | None,
    expiry: date | None,
    asset: Literal["option", "stock"],
    tape: tuple[Path, ...],
    rule: str,
    format: str | None,
    mapping: Path | None,
    source: str | None,
    store: str | None,
    style: str | None,
    drawn: bool,
) -> None:
    """Print SYMBOL's net volume a minute and its running sum.

    The window holds the whole minutes that end by --at; the numbers are the server's, to the last digit.

    \b
    Examples:
      flowtape cumulative VIX --at 2016-06-01T20:15:00Z --minutes 405
      flowtape cumulative SPY --minutes 390 --as csv > spy.csv
      flowtape cumulative SPY --tape spy.parquet --rule lr
      flowtape cumulative SPY --minutes 390 --plot
    """
    name = asked(symbol, asset)
    window = min(max(minutes, 1), MINUTES)
    if tape:
        name, line, simulated = _of_tape(tape, rule, name, window, at, expiry, asset, format, mapping)
    else:
        if rule != "quote":
            raise UsageError(f"rule: a store's minutes are made by the rule quote; {rule!r} needs --tape")
        name, line, simulated = _of_store(store, name, window, at or datetime.now(UTC), expiry, asset)
    if drawn and style is not None:
        raise UsageError(f"plot: a drawing is not written as {style}; leave out --as")
    if drawn:
        plot(line, f"{name}: {window} minutes{' (simulated)' if simulated else ''}")
        return
    _show(line, name, window, expiry, style or ("table" if sys.stdout.isatty() else "csv"), simulated)


def _of_tape(
    tape: tuple[Path, ...], rule: str, symbol: str, minutes: int, at: datetime | None, expiry: date | None,
    asset: str, format: str | None, mapping: Path | None,
) -> tuple[str, pl.DataFrame, bool]:  # fmt: skip
    sources = set[str]()

    def opened() -> list[Tape]:
        tapes = open_tapes(tape, format, Options(mapping=mapping, batch_rows=BATCHED_ROWS))
        sources.update(one.source for one in tapes)
        return tapes

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        bars = library.bars_of(opened, rule.split(","), before=at)
    for one in told:
        click.echo(f"warning: {one.message}", err=True)
    line = library.cumulative(bars, symbol, minutes, expiry=expiry, at=at, asset=asset)
    return library.symbol_in(bars, symbol, asset), line, SIMULATED in sources


def _of_store(
    store: str | None,
    symbol: str,
    minutes: int,
    at: datetime,
    expiry: date | None,
    asset: Literal["option", "stock"],
) -> tuple[str, pl.DataFrame, bool]:
    """The symbol meant, its line, and whether it is simulated."""
    settings = load()
    name = store or settings.store
    at_ns = int(at.timestamp()) * 10**9 + at.microsecond * 1000
    command = admin.Cumulative(asset, symbol, minutes, expiry, at_ns)
    done = admin.ask(name, command)
    if done is None:
        if not shared(name) and not Path(name).exists():
            raise UsageError(f"store: there is no file {name}; ingest a tape first")
        kept = open_store(name, read_only=True)
        try:
            done = admin.cumulative(kept, command, settings.quote_age)
        finally:
            kept.close()
    points = pl.read_ipc_stream(done.table).rename({"netVolume": "net_volume", "tradeCount": "trade_count"})
    return done.symbol, points, done.simulated


def _show(
    line: pl.DataFrame, symbol: str, minutes: int, expiry: date | None, style: str, simulated: bool
) -> None:
    minute = line["ts"].to_physical().to_numpy() // NS_PER_MINUTE
    texts = line.with_columns(ts=pl.Series(queries.instants(minute), dtype=pl.String))
    label = " (simulated)" if simulated else ""
    if style == "json":
        points = Rows(queries.CumulativePoint, {one.name: one.to_list() for one in texts})
        body = queries.Cumulative(symbol=symbol, minutes=minutes, count=len(points), points=points)
        if expiry is not None:
            body.expiry = expiry.isoformat()
        click.echo(msgspec.json.encode(body).decode())
    elif style == "csv":
        click.echo(texts.write_csv(), nl=False)
    else:
        of = "" if expiry is None else f", expiry {expiry}"
        table(texts.with_columns(pl.col("vwap").round(4)), f"{symbol}{of}: {minutes} minutes{label}")
    if simulated and style != "table":
        click.echo(f"{symbol}: simulated", err=True)
