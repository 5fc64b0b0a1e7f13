"""Results as a page: the aims first, met or missed, then each table with what stands behind it."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

PEERS = (
    "polars",
    "numpy",
    "pandas",
    "pyarrow",
    "duckdb",
    "chdb",
    "msgspec",
    "granian",
    "httptools",
    "fastapi",
    "uvicorn",
)


class Aim(msgspec.Struct):
    """What was aimed at, what came of it, and whether that is enough."""

    what: str
    aim: str
    measured: str
    met: bool


class Section(msgspec.Struct):
    """One benchmark's result: a table, its aims, and what must be known to read it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    aims: list[Aim] = []
    notes: list[str] = []
    date: str = ""
    load: float = 0.0


def stamped(section: Section, load: float) -> Section:
    """The section with its date, and the machine's load when it began."""
    return msgspec.structs.replace(section, date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", load=load)


def page(sections: list[Section], command: str, full: bool) -> str:
    """The whole page as Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; what is measured and against whom: `README.md`.",
        "",
    ]
    if not full:
        lines += ["**Not at full size: these figures say nothing about the aims.**", ""]
    lines += [f"- machine: {machine()}", f"- software: {software()}", f"- command: `{command}`", ""]
    lines += _aims([aim for section in sections for aim in section.aims])
    for section in sections:
        lines += told(section)
    return "\n".join(lines).rstrip() + "\n"


def _aims(aims: list[Aim]) -> list[str]:
    missed = [aim for aim in aims if not aim.met]
    verdict = "Every aim is met." if not missed else f"{len(missed)} of {len(aims)} aims are missed."
    rows = [[aim.what, aim.aim, aim.measured, "met" if aim.met else "**missed**"] for aim in aims]
    return ["## Aims", "", verdict, "", *_table(["figure", "aim", "measured", ""], rows), ""]


def told(section: Section) -> list[str]:
    """A section's lines."""
    notes = [f"- {note}" for note in section.notes]
    when = f"Measured {section.date}; load of the machine at the start {section.load:.1f}."
    return [f"## {section.title}", "", *_table(section.columns, section.rows), "", *notes, "", when, ""]


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    marks = ["---", *["---:"] * (len(columns) - 1)]
    return [f"| {' | '.join(row)} |" for row in (columns, marks, *rows)]


def machine() -> str:
    """What it ran on, without naming it."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )  # fmt: skip
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {cores} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def software() -> str:
    """Versions of everything compared."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PEERS)])
