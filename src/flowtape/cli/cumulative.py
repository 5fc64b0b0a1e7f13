"""`flowtape cumulative`: an answer without a server."""

from __future__ import annotations

import sys
import warnings
from datetime import UTC, date, datetime, timedelta
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
from flowtape.server.params import parse_symbol
from flowtape.settings import load
from flowtape.storage import open_store, shared


@click.command()
@click.argument("symbol")
@click.option("--minutes", default=240, show_default=True, help=f"Length of the window, 1 to {MINUTES}.")
@click.option(
    "--at", type=Instant(), help="The instant that the window ends by; without a zone, UTC.  [default: now]"
)
@click.option("--expiry", type=Day(), help="Only contracts of this expiration.")
@click.option("--asset", type=click.Choice(["option", "stock"]), default="option", show_default=True)
@click.option(
    "--tape",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Read this file instead of a store. May be repeated.",
)
@click.option(
    "--rule",
    default="quote",
    show_default=True,
    help=f"With --tape: the trade classification rule: {', '.join(RULES)}; several, with commas, are tried in turn.",
)
@reading_options
@store_option
@click.option(
    "--as",
    "style",
    type=click.Choice(["table", "csv", "json"]),
    help="How the answer is printed.  [default: table on a terminal, else csv]",
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
    file_symbol: str | None,
    store: str | None,
    style: str | None,
    drawn: bool,
) -> None:
    """Print the net volume of SYMBOL by minute, and its running sum.

    The window holds the whole minutes that end by --at. The numbers are those of the server. Without --at, the window
    ends now; where nothing printed in it, the command says when the newest print is.

    \b
    Examples:
      flowtape cumulative VIX --at 2016-06-01T20:15:00Z --minutes 405
      flowtape cumulative SPY --minutes 390 --as csv > spy.csv
      flowtape cumulative SPY --tape spy.parquet --rule lr
      flowtape cumulative SPY --minutes 390 --plot
    """
    name = asked(symbol, asset)
    _check_symbol(symbol)
    window = min(max(minutes, 1), MINUTES)
    if tape:
        options = Options(mapping=mapping, source=source, symbol=file_symbol, batch_rows=BATCHED_ROWS)
        name, line, simulated = _of_tape(tape, rule, name, window, at, expiry, asset, format, options)
    else:
        if rule != "quote":
            raise UsageError(f"rule: a store's minutes are made by the rule quote; {rule!r} needs --tape")
        if file_symbol is not None:
            raise UsageError("symbol: --symbol names the symbol of a file; it goes with --tape")
        name, line, simulated = _of_store(store, name, window, at, expiry, asset)
    if drawn and style is not None:
        raise UsageError(f"plot: a drawing is not written as {style}; leave out --as")
    if drawn:
        plot(line, f"{name}: {window} minutes{' (simulated)' if simulated else ''}")
        return
    _show(line, name, window, expiry, style or ("table" if sys.stdout.isatty() else "csv"), simulated)


def _of_tape(
    tape: tuple[Path, ...], rule: str, symbol: str, minutes: int, at: datetime | None, expiry: date | None,
    asset: str, format: str | None, options: Options,
) -> tuple[str, pl.DataFrame, bool]:  # fmt: skip
    sources = set[str]()

    def opened() -> list[Tape]:
        tapes = open_tapes(tape, format, options)
        sources.update(one.source for one in tapes)
        return tapes

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        bars = library.bars_of(opened, rule.split(","), before=at)
    for one in told:
        click.echo(f"warning: {one.message}", err=True)
    name = library.symbol_in(bars, symbol, asset)
    mine = bars.filter(pl.col("asset").cast(pl.String) == asset, pl.col("symbol").cast(pl.String) == name)
    line = library.cumulative(bars, symbol, minutes, expiry=expiry, at=at, asset=asset)
    if line.is_empty():
        newest: datetime | None = mine["last_ts"].max()  # type: ignore[assignment]
        _tell_empty(name, asset, minutes, at, newest, "tape")
    return name, line, SIMULATED in sources


def _of_store(
    store: str | None,
    symbol: str,
    minutes: int,
    asked_at: datetime | None,
    expiry: date | None,
    asset: Literal["option", "stock"],
) -> tuple[str, pl.DataFrame, bool]:
    """The symbol meant, its line, and whether it is simulated."""
    settings = load()
    name = store or settings.store
    at = asked_at or datetime.now(UTC)
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
    if points.is_empty():
        newest = None if done.newest is None else datetime.fromtimestamp(done.newest // 10**9, UTC)
        _tell_empty(done.symbol, asset, minutes, asked_at, newest, "store")
    return done.symbol, points, done.simulated


def _check_symbol(symbol: str) -> None:
    """Raise `UsageError` for a text that is no symbol."""
    try:
        parse_symbol(symbol.strip())
    except ValueError as error:
        raise UsageError(f"symbol: must be {error.args[0]}, not {symbol!r}") from None


def _tell_empty(
    symbol: str, asset: str, minutes: int, at: datetime | None, newest: datetime | None, where: str
) -> None:
    """Say why an answer has no row: an error, unless the window was asked for and the symbol has prints elsewhere."""
    if newest is None:
        raise UsageError(f"symbol: the {where} has no print of {symbol} ({asset})")
    told = f"the newest print of {symbol} is of {newest:%Y-%m-%dT%H:%M:%SZ}"
    if at is None:
        end = newest + timedelta(minutes=1)
        raise UsageError(
            f"at: nothing printed in the last {minutes:,} minutes; {told}. Ask for then: --at {end:%Y-%m-%dT%H:%M:00Z}"
        )
    click.echo(f"note: nothing printed in this window that fits; {told}", err=True)


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
