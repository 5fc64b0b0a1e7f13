"""`flowtape simulate`."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal, cast

import click

from flowtape.cli.options import Day
from flowtape.cli.show import progress_bar
from flowtape.model.prints import NEW_YORK
from flowtape.pipeline.ingest import Step


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--prints",
    default=400_000,
    show_default=True,
    type=click.IntRange(1),
    help="Rows of the file, cancels included.",
)
@click.option(
    "--underlyings", default=40, show_default=True, type=click.IntRange(1), help="The number of underlyings."
)
@click.option(
    "--day",
    "days",
    type=Day(),
    multiple=True,
    help="A New York date. May be repeated.  [default: the last weekday]",
)
@click.option("--asset", type=click.Choice(["option", "stock", "both"]), default="option", show_default=True,
              help="Prints of options, of their underlying stocks, or both, half of the rows each.")  # fmt: skip
@click.option("--hours", type=click.Choice(["session", "always"]), default="session", show_default=True,
              help="Prints from 09:30 to 16:00 in New York, or round the clock.")  # fmt: skip
@click.option(
    "--inject",
    "effects",
    multiple=True,
    metavar="SYMBOL,START,END,…",
    help="A known effect, to test whether it is found: from START until END, the aggressors of SYMBOL (* for all) buy "
    "in (1 + flow) / 2 of their prints, and its price moves by price per cent. Add `,flow=0.4`, `,price=-1.5` or both. "
    "May be repeated.",
)
@click.option("--plant", "planted", multiple=True, hidden=True)
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same file.")
def simulate(
    file: Path,
    prints: int,
    underlyings: int,
    days: tuple[date, ...],
    asset: str,
    hours: str,
    effects: tuple[str, ...],
    planted: tuple[str, ...],
    seed: int,
) -> None:
    """Write a simulated tape to FILE.

    The name of FILE ends in .parquet, .csv, .csv.gz, .csv.zst or .arrow. The column `true_side` holds the true
    aggressor side of each print. The tape is labelled simulated wherever its numbers are shown. For a live simulation,
    see `flowtape serve --simulate`.

    \b
    Examples:
      flowtape simulate day.parquet --prints 10000000 --underlyings 5000 --day 2026-05-12
      flowtape simulate week.csv.gz --day 2026-05-11 --day 2026-05-12 --seed 7
      flowtape simulate both.parquet --asset both --day 2026-05-12
      flowtape simulate known.parquet --day 2026-05-12 --inject SPY,2026-05-12T15:00Z,2026-05-12T16:00Z,flow=0.4
    """
    from flowtape.simulation.injected import parse_effect
    from flowtape.simulation.tape import Assets, Market, write_tape

    if planted:
        click.echo("note: --plant is now --inject; the old name goes with the next version", err=True)
    injected = tuple(map(parse_effect, (*effects, *planted)))
    market = Market(seed, underlyings, hours=cast(Literal["session", "always"], hours), effects=injected)
    with progress_bar() as progress:
        rows = write_tape(
            market,
            list(days) or [_last_weekday()],
            file,
            assets=cast(Assets, asset),
            rows=prints,
            progress=lambda done, total: progress(
                Step(f"simulating {file.name}", done, done / max(total, 1))
            ),
        )
    click.echo(f"{file}: {rows:,} simulated prints")


def _last_weekday() -> date:
    day = datetime.now(UTC).astimezone(NEW_YORK).date() - timedelta(days=1)
    while day.weekday() > 4:
        day -= timedelta(days=1)
    return day
