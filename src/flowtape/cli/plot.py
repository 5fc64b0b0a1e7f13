"""A cumulative line drawn with characters."""

from __future__ import annotations

import os
import shutil
import sys
from datetime import datetime

import click
import polars as pl

from flowtape.model.prints import NEW_YORK

_WIDEST = 160
_ROWS = (16, 7)
"""Lines of the terminal for the line and for the minutes' bars."""


def plot(line: pl.DataFrame, title: str) -> None:
    """Draw `ts`, `net_volume` and `cumulative` as wide as the terminal, and write the line's last, high and low.

    In colour on a terminal, unless NO_COLOR is set (https://no-color.org).
    """
    if line.is_empty():
        click.echo(f"{title}: no minute with a print")
        return
    width = min(shutil.get_terminal_size((100, 24)).columns, _WIDEST)
    plain = not sys.stdout.isatty() or bool(os.environ.get("NO_COLOR"))
    click.echo(_drawn(line, "cumulative", title, width, _ROWS[0], plain))
    click.echo(_drawn(line, "net_volume", "net volume a minute", width, _ROWS[1], plain))
    values = line["cumulative"].to_list()
    told = {"last": values[-1], "high": max(values), "low": min(values)}
    places = {"last": len(values) - 1} | {name: values.index(told[name]) for name in ("high", "low")}
    parts = [f"{name} {told[name]:+,} at {_clock(line['ts'][places[name]])}" for name in told]
    click.echo(", ".join(parts) + " (New York)")


def _drawn(line: pl.DataFrame, column: str, title: str, width: int, height: int, plain: bool) -> str:
    import plotext

    times = line["ts"].to_list()
    # Minutes since the first one: where nothing printed there is a gap, not a step.
    place = ((line["ts"] - line["ts"][0]).dt.total_minutes()).to_list()
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(width, height)
    plotext.title(title)
    if column == "cumulative":
        plotext.plot(place, line[column].to_list(), marker="braille", color="blue+")
    else:
        signs = pl.Series(line[column])
        for keep, color in ((signs >= 0, "cyan"), (signs < 0, "orange")):
            chosen = [at for at, kept in zip(place, keep, strict=True) if kept]
            if chosen:
                plotext.plot(
                    chosen,
                    signs.filter(keep).to_list(),
                    marker="braille",
                    color=color,
                    fillx=True,
                    style=None,
                )
    ticks = sorted({len(place) * part // 6 for part in range(6)} | {len(place) - 1})
    plotext.xticks([place[tick] for tick in ticks], [_clock(times[tick]) for tick in ticks])
    drawing: str = plotext.build()
    return plotext.uncolorize(drawing) if plain else drawing


def _clock(ts: datetime) -> str:
    return f"{ts.astimezone(NEW_YORK):%a %H:%M}"
