"""Quotes: out of files, before each print of a file, before each print as it comes, and through a vendor's line."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median

import polars as pl
import zstandard
from polars.testing import assert_frame_equal

from benchmarks import quotes_data as data
from benchmarks.measure import Run, child, in_turn, ratio, say
from benchmarks.quotes_ways import WAYS
from benchmarks.report import Section
from benchmarks.scale import Scale

RATIOS = (1_000, 20)
"""Quotes a print."""
FILES = {
    "flowtape": "flowtape, QuoteJoin",
    "polars": "Polars, join_asof of the sorted whole",
    "duckdb": "DuckDB, ASOF JOIN",
}
RATES = (50_000, 200_000)
"""Quotes a second of a live feed."""
LIVE = {"flowtape": "flowtape, LiveJoin", "hand": "Polars by hand, no late quotes"}
PLAIN = "flowtape, uncompressed"
DECODE = {
    PLAIN: ("quotes_ways:decode_flowtape", ".dbn"),
    "flowtape, zstd": ("quotes_ways:decode_flowtape", ".dbn.zst"),
    "databento, to_df, uncompressed": ("quotes_ways:decode_frame", ".dbn"),
    "databento, to_ndarray, uncompressed (the limit)": ("quotes_ways:decode_records", ".dbn"),
}
READ = "flowtape, trades and quotes to prints, zstd"
LINES = {"trades with cmbp-1, joined here": "trades", "tcbbo, each print with its quote": "tcbbo"}
ONE_CORE = (
    "each in a fresh process on one core; seconds are the processor's, so that what else runs is not in them"
)


def run(scale: Scale) -> list[Section]:
    """Five tables."""
    _agree()
    return [_files(scale), _decoding(scale), _live(scale), _memory(scale), _lines(scale)]


def _agree() -> None:
    """Stop unless every way gives the same quotes."""
    from benchmarks.quotes_live import agree

    say("  do all ways agree?")
    quotes, trades = data.quotes(200_000), data.trades(5_000, data.RATE / 40)
    whole = pl.col("ts", "quote_ts").to_physical()
    found = {name: way(trades, quotes).with_columns(whole).sort("ts") for name, way in WAYS.items()}
    for frame in found.values():
        assert_frame_equal(frame.select(found["flowtape"].columns), found["flowtape"])
    agree()


def _cpu(runs: list[Run]) -> list[float]:
    return [run.told["cpu"] for run in runs]


# files
def _files(scale: Scale) -> Section:
    many, rows = scale.prints // 2, []
    quotes = scale.folder / "quotes.parquet"
    if not quotes.exists():
        data.quotes(many).write_parquet(quotes)
    for each in RATIOS:
        trades = scale.folder / f"quoted-{each}.parquet"
        if not trades.exists():
            data.trades(many // each, data.RATE / each).write_parquet(trades)
        # DuckDB's takes longest by far where there are many trades, and tells nothing new there.
        ways = [way for way in FILES if way != "duckdb" or each == RATIOS[0]]
        runs = in_turn(
            scale.rounds,
            {FILES[way]: partial(child, "quotes_ways:join", way, trades, quotes, core=True) for way in ways},
        )
        ours = _cpu(runs[FILES["flowtape"]])
        for name, of in runs.items():
            cpu = _cpu(of)
            rows.append([
                f"{name}, {each:,} quotes a print", f"{median(cpu):.2f}", f"{many / median(cpu) / 1e6:.2f}",
                f"{many / each / median(cpu):,.0f}", f"{ratio(cpu, ours):.2f}×",
                f"{max(run.peak for run in of) / 2**30:.2f}",
            ])  # fmt: skip
    return Section(
        "Quotes joined to the prints of a file",
        ["way", "seconds", "M quotes/s", "prints/s", "time against flowtape", "peak resident GiB"],
        rows,
        notes=[
            f"{many:,} quotes of {data.CONTRACTS:,} contracts, {data.RATE:,} in a second of tape (a thirtieth of OPRA),"
            f" both sides in memory before; median of {scale.rounds} rounds, {ONE_CORE}.",
            "All give equal quotes (checked before). flowtape takes both in batches, late by up to 5 s, and holds but a"
            " part: the memory is that of the input; the others are given everything at once, in order.",
        ],
    )


# decoding
def _decoding(scale: Scale) -> Section:
    many, each = scale.prints // 5, RATIOS[0]
    quotes, trades = scale.folder / "cmbp-1.dbn", scale.folder / "trades.dbn"
    packed = quotes.with_suffix(".dbn.zst")
    if not packed.exists():
        data.write_dbn(quotes, "cmbp-1", data.quote_records(data.quotes(many)))
        data.write_dbn(trades, "trades", data.trade_records(data.trades(many // each, data.RATE / each)))
        packed.write_bytes(zstandard.ZstdCompressor().compress(quotes.read_bytes()))
    contestants = {
        name: partial(child, function, Path(f"{quotes.with_suffix('')}{end}"), core=True)
        for name, (function, end) in DECODE.items()
    }
    contestants[READ] = partial(child, "quotes_ways:read", trades, packed, core=True)
    runs, rows = in_turn(scale.rounds, contestants), []
    for name, of in runs.items():
        cpu, size = _cpu(of), (packed if "zstd" in name else quotes).stat().st_size
        rows.append([
            name, f"{median(cpu):.2f}", f"{many / median(cpu) / 1e6:.2f}", f"{ratio(cpu, _cpu(runs[PLAIN])):.2f}×",
            f"{size / many:.1f}",
        ])  # fmt: skip
    return Section(
        "Quotes out of DBN files",
        ["way", "seconds", "M quotes/s", "time against flowtape", "bytes a quote"],
        rows,
        notes=[
            f"{many:,} records of cmbp-1, their {data.CONTRACTS:,} symbols in the file's head; median of {scale.rounds}"
            f" rounds, {ONE_CORE}.",
            "flowtape: frames in its units with each quote's contract. The last row is all that a reader does, the"
            f" symbols of both files read, too: decoded, and joined to {many // each:,}"
            " trades.",
        ],
    )


# live
def _live(scale: Scale) -> Section:
    seconds = 3 if scale.full else 1
    ways = [*(("flowtape", rate) for rate in RATES), ("hand", RATES[-1])]
    runs = in_turn(
        scale.rounds,
        {
            f"{LIVE[way]}, {rate:,}": partial(
                child, "quotes_live:live", way, rate, RATIOS[0], seconds, core=True
            )
            for way, rate in ways
        },
    )
    speeds = {name: [run.told["rate"] / run.told["busy"] for run in of] for name, of in runs.items()}
    base, rows = speeds[f"{LIVE['flowtape']}, {RATES[-1]:,}"], []
    for name, of in runs.items():
        told = {key: median(run.told[key] for run in of) for key in of[0].told}
        rows.append([
            name, f"{told['rate']:,.0f}", f"{told['busy']:.2f}", f"{median(speeds[name]):,.0f}",
            f"{ratio(base, speeds[name]):.2f}×", f"{told['batch']:,.0f}", f"{told['p50'] * 1e3:.0f}",
            f"{told['worst'] * 1e3:.0f}",
        ])  # fmt: skip
    columns = "quotes/s taken, cores, quotes/s and core, time a quote against flowtape, batch, wait p50 ms, longest ms"
    return Section(
        "Quotes joined to prints as they come",
        ["way, and quotes/s offered", *columns.split(", ")],
        rows,
        notes=[
            f"{RATIOS[0]:,} quotes a print, {data.CONTRACTS:,} instruments, quotes up to 5 ms later than their time,"
            " once all stands that the join holds (70 s); each batch is what came while the one before was worked on,"
            f" at least 20 ms and at most 100,000 quotes. {seconds} s of feed, median of {scale.rounds} rounds,"
            f" {ONE_CORE}.",
            "By hand: each batch's trades against the last quote of each instrument and the batch's own. Both give"
            " equal quotes where all come in order (checked before); only flowtape mends what comes late.",
        ],
    )


def _memory(scale: Scale) -> Section:
    say("  memory of a live join")
    many = data.CONTRACTS * (20 if scale.full else 1)
    held = child("quotes_live:holding", RATES[-1], core=True).told["bytes"]
    standing = child("quotes_live:standing", many, core=True).told["bytes"]
    return Section(
        "Memory of a live join",
        ["what", "bytes"],
        [["a quote held", f"{held:.0f}"], ["an instrument whose quote stands", f"{standing:.0f}"]],
        notes=[
            "Resident memory over what there was before: 70 s of quotes; and, restored from a store,"
            f" {many:,} instruments, their names with them. There is no peer.",
        ],
    )


def _lines(scale: Scale) -> Section:
    many = 100_000 if scale.full else 20_000
    runs = in_turn(
        scale.rounds,
        {
            name: partial(child, "quotes_live:line", schema, many, RATIOS[0], core=True)
            for name, schema in LINES.items()
        },
    )
    ours, rows = _cpu(next(iter(runs.values()))), []
    for name, of in runs.items():
        cpu = _cpu(of)
        rows.append([name, f"{median(cpu):.2f}", f"{many / median(cpu):,.0f}", f"{ratio(cpu, ours):.2f}×"])
    return Section(
        "A vendor's line, whole",
        ["schema", "seconds", "records/s and core", "time against the first"],
        rows,
        notes=[
            f"{many:,} records from the tests' stand-in for Databento's gateway, a process on another core, over TCP to"
            " the vendor's own client, which hands over record by record, to frames of prints; median of"
            f" {scale.rounds} rounds, {ONE_CORE}. There is no peer: the client is the vendor's.",
        ],
    )
