"""The measured figures that the capacity model rests on, read out of results.json: the tables of RESULTS.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache

import msgspec

from benchmarks.report import Section
from benchmarks.scale import ROOT

STAGES = "What a print costs by stage, on one core"
DISK = "Bytes on disk"
FILES = "Quotes joined to the prints of a file"
DECODED = "Quotes out of DBN files"
JOINED = "Quotes joined to prints as they come"
MEMORY = "Memory of a live join"
LINE = "A vendor's line, whole"
ENDPOINT = "The endpoint: 240 minutes of SPY while a tape comes in"
STREAMS = "1,000 streams on one worker for 60 s"
TAIL = "What a stream's tail costs"
FOLLOWED = "What following a shared store costs"
FRESH = "Freshness of a shared store"
START = "Start with a full week"
CLICKHOUSE = "ClickHouse's engine (chDB)"


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure's place in the results, what it is multiplied by, and how the page calls and writes it."""

    section: str
    row: str
    column: str
    what: str
    shown: str = "{:,.0f}"
    times: float = 1.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured. Speeds are of one core, a second."""

    read: float
    sides: float
    minutes: float
    duckdb: float
    prints: float
    line_prints: float
    line_quotes: float
    live_join: float
    decode: float
    file_join: float
    decode_limit: float
    join_limit: float
    print_bytes: float
    bar_bytes: float
    bars: float
    quote_bytes: float
    dbn_bytes: float
    held_bytes: float
    standing_bytes: float
    requests: float
    counted: float
    events: float
    event_cores: float
    client_bytes: float
    tail: float
    follow: float
    look: float
    found: float
    fresh: float
    start: float


_RATE, _STAGE = "prints/s and core", "M quotes/s"
CELLS = {
    "read": Cell(STAGES, "read and check a Parquet file", _RATE, "read and check a Parquet file, prints/s and core"),
    "sides": Cell(STAGES, "sides", _RATE, "sides, prints/s and core"),
    "minutes": Cell(STAGES, "minutes", _RATE, "minutes, prints/s and core"),
    "duckdb": Cell(STAGES, "file to DuckDB, all stages", _RATE, "all stages, into DuckDB, prints/s and core"),
    "prints": Cell(
        STAGES, f"file to {CLICKHOUSE}, all stages", _RATE,
        "all stages, into ClickHouse's engine on the same core, prints/s and core",
    ),
    "line_prints": Cell(
        LINE, "tcbbo, each print with its quote", "records/s and core",
        "a vendor's line, prints with their quotes, a second and core",
    ),
    "line_quotes": Cell(
        LINE, "trades with cmbp-1, joined here", "records/s and core", "a vendor's line, quotes, a second and core"
    ),
    "live_join": Cell(
        JOINED, "flowtape, LiveJoin, 200,000", "quotes/s and core", "the live join alone, quotes/s and core"
    ),
    "decode": Cell(DECODED, "flowtape, zstd", _STAGE, "quotes out of a DBN file, a second and core", times=1e6),
    "decode_limit": Cell(
        DECODED, "databento, to_ndarray, uncompressed (the limit)", _STAGE,
        "the same as the vendor's array, nothing made of it: the limit of decoding", times=1e6,
    ),
    "file_join": Cell(
        FILES, "flowtape, QuoteJoin, 1,000 quotes a print", _STAGE,
        "quotes joined to a file's prints, a second and core", times=1e6,
    ),
    "join_limit": Cell(
        FILES, "Polars, join_asof of the sorted whole, 1,000 quotes a print", _STAGE,
        "the same by Polars, all in memory and in order: the limit of joining", times=1e6,
    ),
    "print_bytes": Cell(DISK, CLICKHOUSE, "a print", "bytes of a print", "{:.1f}"),
    "bar_bytes": Cell(DISK, CLICKHOUSE, "a minute bar", "bytes of a minute bar", "{:.1f}"),
    "bars": Cell(DISK, CLICKHOUSE, "bars a print", "minute bars a print", "{:.2f}"),
    "quote_bytes": Cell(DISK, CLICKHOUSE, "a quote", "bytes of a quote, if it were kept", "{:.1f}"),
    "dbn_bytes": Cell(DECODED, "flowtape, zstd", "bytes a quote", "bytes of a quote in a DBN file by zstd", "{:.1f}"),
    "held_bytes": Cell(MEMORY, "a quote held", "bytes", "memory of a quote that the live join holds, bytes"),
    "standing_bytes": Cell(
        MEMORY, "an instrument whose quote stands", "bytes", "memory of an instrument whose quote stands, bytes"
    ),
    "requests": Cell(ENDPOINT, "flowtape", "requests/s", "answers of one server from the window, a second"),
    "counted": Cell(
        ENDPOINT, "flowtape, a key with a daily limit", "requests/s", "the same with a count in the keys file"
    ),
    "events": Cell(STREAMS, "events sent a second", "measured", "stream events of one server, a second"),
    "event_cores": Cell(STREAMS, "processor of the server", "measured", "cores that these took", "{:.2f}"),
    "client_bytes": Cell(
        STREAMS, "memory of the streams", "measured", "memory of a stream's client, bytes", times=2**20 / 1000
    ),
    "tail": Cell(TAIL, "1,000", "p99 ms", "one event, from the first of 1,000 clients to the others, p99 ms"),
    "follow": Cell(FOLLOWED, "5,000 prints a commit", _RATE, "prints a server follows, a second and core"),
    "look": Cell(
        FOLLOWED, "5,000 prints a commit", "a look that finds nothing, ms", "a look that finds nothing, ms", "{:.1f}"
    ),
    "found": Cell(
        FOLLOWED, "250 prints a commit", "a look that finds one, ms", "a look that finds a commit of 250 prints, ms"
    ),
    "fresh": Cell(
        FRESH, "from a print's being given to the engine to another process's window having it", "p99 ms",
        "seen by another process, p99 ms",
    ),
    "start": Cell(
        START, "flowtape serve, until /health is 200", "seconds", "start on a week of 50 million prints, s", "{:.1f}"
    ),
}  # fmt: skip


@cache
def _sections() -> dict[str, Section]:
    kept = (ROOT / "benchmarks" / "results.json").read_bytes()
    found = msgspec.json.decode(kept, type=dict[str, list[Section]])
    return {section.title: section for sections in found.values() for section in sections}


def section(title: str) -> Section:
    """A table by its title. Raises `LookupError` where it was never made."""
    if title not in _sections():
        raise LookupError(f"results.json has no section {title!r}")
    return _sections()[title]


def cell(place: Cell) -> float:
    """The number in a cell. Raises `LookupError` where there is none such."""
    found = section(place.section)
    rows = [row for row in found.rows if row[0] == place.row]
    if not rows or place.column not in found.columns:
        raise LookupError(f"results.json has no {place.row!r}, {place.column!r} in {place.section!r}")
    text = rows[0][found.columns.index(place.column)]
    return float(re.sub(r"[^\d.]", "", text)) * place.times


def measured() -> Figures:
    """All figures, as they were measured last."""
    return Figures(**{field.name: cell(CELLS[field.name]) for field in fields(Figures)})


def lines(figures: Figures) -> Iterator[str]:
    """The table of what was measured."""
    yield "| figure | measured | section of RESULTS.md |"
    yield "|---|---:|---|"
    for name, place in CELLS.items():
        yield f"| {place.what} | {place.shown.format(getattr(figures, name))} | {place.section} |"
