"""`flowtape report`: a symbol's day as a picture or a page."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

import click
import msgspec

from flowtape import report as report_of
from flowtape.cli.options import Day, store_option
from flowtape.errors import UsageError
from flowtape.model.symbols import asked, meant
from flowtape.server import admin
from flowtape.settings import load
from flowtape.storage import open_store, shared

_SUFFIXES = (".png", ".svg", ".html")


@click.command()
@click.argument("symbol")
@click.option("--day", type=Day(), required=True, help="The trading day: a New York date.")
@click.option("--asset", type=click.Choice(["option", "stock"]), default="option", show_default=True)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help=f"The file to write; its name ends in {', '.join(_SUFFIXES)}.",
)
@store_option
def report(symbol: str, day: date, asset: Literal["option", "stock"], out: Path, store: str | None) -> None:
    """Draw one trading day of SYMBOL, as a picture or as a page with tables.

    The picture shows the cumulative line with its turning points, the price, the regular session, divergences, and net
    volume by minute. A page (.html) adds the summary, the parts of the day and the largest prints. The same day gives
    the same bytes. It needs matplotlib: pip install 'flowtape[plot]'.

    \b
    Examples:
      flowtape report SPY --day 2026-05-12 -o spy.png
      flowtape report AAPL --asset stock --day 2026-05-12 -o aapl.html
    """
    suffix = out.suffix.lower()
    if suffix not in _SUFFIXES:
        raise UsageError(f"out: {out.name!r} ends in none of {', '.join(_SUFFIXES)}")
    found = _read(store, asked(symbol, asset), asset, day)
    made = (
        report_of.page(found)
        if suffix == ".html"
        else report_of.picture(found, "svg" if suffix == ".svg" else "png")
    )
    try:
        out.write_bytes(made)
    except OSError as error:
        raise UsageError(f"out: {out} cannot be written: {error.strerror}") from None
    simulated = " (simulated)" if found.simulated else ""
    click.echo(f"{out}: {found.symbol} {asset}s on {day}{simulated}, {found.line.count} minutes")


def _read(store: str | None, symbol: str, asset: Literal["option", "stock"], day: date) -> report_of.Day:
    """The day out of the store, or of the server that holds it."""
    settings = load()
    name = store or settings.store
    done = admin.ask(name, admin.Report(asset, symbol, day))
    if done is not None:
        return msgspec.json.decode(done.body, type=report_of.Day)
    if not shared(name) and not Path(name).exists():
        raise UsageError(f"store: there is no file {name}; ingest a tape first")
    kept = open_store(name, read_only=True)
    try:
        symbol = meant(symbol, kept.catalog.symbols(asset))
        return report_of.read_day(kept, symbol, asset, day, settings.quote_age)
    finally:
        kept.close()
