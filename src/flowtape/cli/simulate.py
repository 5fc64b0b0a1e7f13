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
    help="Rows in all, cancels included.",
)
@click.option("--underlyings", default=40, show_default=True, type=click.IntRange(1), help="How many.")
@click.option(
    "--day",
    "days",
    type=Day(),
    multiple=True,
    help="A New York date; may be given several times.  [default: the last weekday]",
)
@click.option("--asset", type=click.Choice(["option", "stock", "both"]), default="option", show_default=True,
              help="Prints of options, of their underlying stocks, or of both, half the rows each.")  # fmt: skip
@click.option("--hours", type=click.Choice(["session", "always"]), default="session", show_default=True,
              help="09:30–16:00 in New York, or round the clock.")  # fmt: skip
@click.option(
    "--plant",
    "plants",
    multiple=True,
    metavar="SYMBOL,START,END,…",
    help="A cause to find again: from START until END the symbol's (*: all) aggressors buy (1 + flow) / 2 of the time, "
    "and its price goes price per cent further. `,flow=0.4`, `,price=-1.5` or both; may be given several times.",
)
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same tape.")
def simulate(
    file: Path,
    prints: int,
    underlyings: int,
    days: tuple[date, ...],
    asset: str,
    hours: str,
    plants: tuple[str, ...],
    seed: int,
) -> None:
    """Write a simulated tape that looks like a real one to FILE: .parquet, .csv, .csv.gz, .csv.zst or .arrow.

    It carries the true side of each print beside it (`true_side`) and is labelled simulated wherever its
    numbers are shown. For a live one, see `flowtape serve --simulate`.

    \b
    Examples:
      flowtape simulate day.parquet --prints 10000000 --underlyings 5000 --day 2026-05-12
      flowtape simulate week.csv.gz --day 2026-05-11 --day 2026-05-12 --seed 7
      flowtape simulate both.parquet --asset both --day 2026-05-12
      flowtape simulate known.parquet --day 2026-05-12 --plant SPY,2026-05-12T15:00Z,2026-05-12T16:00Z,flow=0.4
    """
    from flowtape.simulation.injected import parse_effect
    from flowtape.simulation.tape import Assets, Market, write_tape

    effects = tuple(map(parse_effect, plants))
    market = Market(seed, underlyings, hours=cast(Literal["session", "always"], hours), effects=effects)
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
