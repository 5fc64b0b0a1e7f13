"""What commands print: progress, what became of a tape, frames as tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
import polars as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from flowtape.pipeline.ingest import Outcome, Step
from flowtape.pipeline.provenance import SIMULATED


@contextmanager
def progress_bar() -> Iterator[Callable[[Step], None]]:
    """A bar on standard error while a terminal is attached; otherwise nothing is drawn."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=1.0, rows=0)
        yield lambda step: bar.update(task, description=step.name, completed=step.done, rows=step.rows)


def tell_outcome(outcome: Outcome) -> None:
    """What became of a tape, on standard output; rows left out and days refused, on standard error."""
    simulated = " (simulated)" if outcome.source == SIMULATED else ""
    official = f"{outcome.official:,} official prices, " if outcome.official else ""
    click.echo(
        f"{outcome.name}: {outcome.format}, source {outcome.source}{simulated}: {outcome.rows:,} rows,"
        f" {outcome.added:,} new, {outcome.duplicates:,} duplicates, {outcome.replaced_quotes:,} replaced quotes,"
        f" {outcome.corrections:,} corrections, {official}{outcome.rejected:,} left out, {outcome.refused:,} refused;"
        f" {outcome.cancels:,} cancels, {outcome.removed:,} prints removed by them"
    )
    for reject in outcome.first:
        click.echo(f"{reject.file}: row {reject.row}: {reject.reason}", err=True)
    if outcome.rejected > len(outcome.first):
        click.echo(
            f"{outcome.name}: and {outcome.rejected - len(outcome.first):,} more rows left out:", err=True
        )
        for reason, count in sorted(outcome.reasons.items(), key=lambda item: -item[1]):
            click.echo(f"  {count:>12,}  {reason}", err=True)
    for note, count in outcome.notes.items():
        click.echo(f"{outcome.name}: note: {note}: {count:,} rows", err=True)
    for warning in outcome.warnings:
        click.echo(f"{outcome.name}: warning: {warning}", err=True)
    for refusal in outcome.refusals[:20]:
        click.echo(
            f"{outcome.name}: refused: {refusal.symbol} on {refusal.day} ({refusal.asset}) comes from"
            f" {refusal.held_by} already; --replace puts this tape in its place",
            err=True,
        )
    if len(outcome.refusals) > 20:
        click.echo(f"{outcome.name}: and {len(outcome.refusals) - 20:,} more days refused", err=True)


def table(frame: pl.DataFrame, title: str) -> None:
    """A frame as a table for a reader."""
    shown = Table(title=title, title_justify="left")
    for name in frame.columns:
        shown.add_column(name, justify="left" if name == "ts" else "right")
    for row in frame.iter_rows():
        shown.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    Console().print(shown)
