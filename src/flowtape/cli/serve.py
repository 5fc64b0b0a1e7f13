"""`flowtape serve`."""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import click

from flowtape.cli.options import reading_options, store_option
from flowtape.errors import TapeError, UsageError
from flowtape.settings import load

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from rich.progress import Progress

    from flowtape.server.service import Ready


@click.command()
@store_option
@click.option("--host", help="The address to listen on.  [default: the setting host, 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    help="The port; 0 picks a free one.  [default: 8787]",
)
@click.option(
    "--simulate",
    is_flag=True,
    help="Serve a simulated market: seven past days, and new prints as time goes on.",
)
@click.option(
    "--seed", default=1, show_default=True, help="With --simulate: another seed gives another market."
)
@click.option(
    "--underlyings", default=40, show_default=True, help="With --simulate: the number of underlyings."
)
@click.option(
    "--prints-per-day", default=400_000, show_default=True, help="With --simulate: option prints a day."
)
@click.option(
    "--stock-prints-per-day", default=100_000, show_default=True, help="With --simulate: stock prints a day."
)
@click.option(
    "--tape",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Ingest this file while serving. May be repeated.",
)
@reading_options
@click.option(
    "--feed",
    "feed",
    multiple=True,
    metavar="KIND:TARGET?NAME=VALUE&…",
    help="Ingest a live feed (docs/how-to/live.md): simulate, replay, databento, massive or alpaca. May be repeated.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="The form of log lines.  [default: the setting log_format]",
)
def serve(
    store: str | None,
    host: str | None,
    port: int | None,
    simulate: bool,
    seed: int,
    underlyings: int,
    prints_per_day: int,
    stock_prints_per_day: int,
    tape: tuple[Path, ...],
    format: str | None,
    mapping: Path | None,
    source: str | None,
    file_symbol: str | None,
    feed: tuple[str, ...],
    log_format: str | None,
) -> None:
    """Serve order flow over HTTP from a store, with a page for the browser.

    The minute bars of the last seven days are held in memory; earlier ones are read from the store. Make keys with
    `flowtape keys create`. Commands on the same store, such as `flowtape ingest`, are carried out by this server.

    \b
    Examples:
      flowtape serve --store flow.duckdb
      flowtape serve --simulate
      flowtape serve --tape trades.csv --port 9000
      flowtape serve --feed "replay:trades.csv?speed=60"
      flowtape serve --feed "databento:OPRA.PILLAR?symbols=SPY.OPT,QQQ.OPT"
    """
    from flowtape.pipeline.ingest import Request
    from flowtape.server.logs import configure
    from flowtape.server.service import Sources
    from flowtape.server.service import serve as run

    if simulate and tape:
        raise UsageError("--simulate and --tape cannot be given together")
    given = {
        "store": store,
        "host": host,
        "port": port,
        "log_format": log_format,
    }
    settings = load(overrides={name: value for name, value in given.items() if value is not None})
    configure(settings)
    if simulate:
        simulated = {"seed": seed, "underlyings": underlyings, "prints_per_day": prints_per_day,
                     "stock_prints_per_day": stock_prints_per_day}  # fmt: skip
        feed = (*feed, f"simulate:?{urlencode(simulated)}")
    request = Request(
        files=[str(file.absolute()) for file in tape],
        format=format,
        mapping=None if mapping is None else str(mapping.absolute()),
        source=source,
        symbol=file_symbol,
    )
    for file in tape:
        if not file.exists():
            raise TapeError(f"{file.name}: cannot be read: there is no such file")
    run(settings, Sources(feed, request if tape else None), _Terminal())


class _Terminal:
    """Says where the server is and how to ask it first, on standard output, so that it can be piped; and how far it has
    loaded, on standard error: as a bar where that is a terminal, else as one line of the log."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._began: float | None = None

    def listening(self, server: Ready) -> None:
        """Print the address of the server, and of its page."""
        click.echo(f"flowtape serves {server.store} at {_url(server)}   (its API: {_url(server)}/docs)")
        if server.key is not None:
            click.echo(f"Look at it: {_url(server)}/{_view(server)}#key={server.key}")
        sys.stdout.flush()

    def loading(self, done: float) -> None:
        """Show the share that is loaded, 0 to 1, as a bar or as one line of the log."""
        if self._began is None:
            self._began = time.monotonic()
            if sys.stderr.isatty():
                self._bar = _bar()
            else:
                _log.info("loading: until it is done, answers of what is missing are 502")
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)

    def ready(self, server: Ready) -> None:
        """Print the first requests to try."""
        if self._bar is not None:
            self._bar.stop()
        elif self._began is not None:
            _log.info("loaded", extra={"fields": {"seconds": round(time.monotonic() - self._began, 1)}})
        url = _url(server)
        assets, symbol = _first(server)
        if server.key is not None:
            click.echo(_what(server))
            click.echo(
                f'curl -H "X-Api-Key: {server.key}" "{url}/v1/flow/{assets}/{symbol}/cumulative?minutes=240"'
            )
            click.echo(f'curl -H "X-Api-Key: {server.key}" "{url}/v1/flow/{assets}/leaderboard?n=5"')
        else:
            click.echo(f"Make a key:  flowtape keys create --plan alpha --store {server.store}")
            at = ""
            if server.newest is not None:
                last = datetime.fromtimestamp(server.newest // 10**9, UTC) + timedelta(minutes=1)
                at = f"&at={last:%Y-%m-%dT%H:%M:00Z}"
            click.echo(
                f'curl -H "X-Api-Key: YOUR_KEY" "{url}/v1/flow/options/SYMBOL/cumulative?minutes=240{at}"'
            )
        sys.stdout.flush()


def _what(server: Ready) -> str:
    """What the numbers of a server with a key for all are."""
    if server.replay is None:
        return "The tape is simulated: its past seven days are in, and prints keep coming."
    replay = server.replay
    speed = (
        "as fast as it happened" if replay.speed == 1 else f"{replay.speed:g} times as fast as it happened"
    )
    return f"A replay of {replay.file}: {replay.day}, {speed}. The clock of all answers is the tape's."


def _first(server: Ready) -> tuple[str, str]:
    """The assets and the symbol to ask first."""
    return (
        ("options", "SPY")
        if server.replay is None
        else (f"{server.replay.asset}s", quote(server.replay.symbol))
    )


def _view(server: Ready) -> str:
    """The query of the page that shows what is to be asked first; empty where the page does so by itself."""
    assets, symbol = _first(server)
    given = {"asset": assets, "symbol": symbol} if (assets, symbol) != ("options", "SPY") else {}
    return f"?{urlencode(given)}" if given else ""


def _url(server: Ready) -> str:
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"http://{host}:{server.port}"


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    bar = Progress(
        TextColumn("loading"), BarColumn(), TaskProgressColumn(), console=Console(stderr=True), transient=True
    )
    bar.add_task("loading", total=1.0)
    bar.start()
    return bar
