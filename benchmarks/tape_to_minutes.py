"""A day's tape to minute bars in memory: flowtape, pandas, Polars by hand, DuckDB, and decoding alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median

import polars as pl
from polars.testing import assert_frame_equal

from benchmarks.measure import Run, child, in_turn, ratio, say
from benchmarks.report import Aim, Section
from benchmarks.scale import Scale
from flowtape.orderflow.minute_bars import NOTIONALS, NS_PER_MINUTE, VOLUMES

WAYS = {
    "flowtape": "minutes_ways:by_flowtape",
    "Polars by hand": "minutes_ways:by_polars",
    "DuckDB SQL": "minutes_sql:by_duckdb",
    "pandas": "minutes_ways:by_pandas",
    "decode alone (the limit)": "minutes_ways:by_decode",
}
LIMIT = "decode alone (the limit)"
VALUES = (
    *VOLUMES,
    *(f"{side}_notional" for side in NOTIONALS),
    "trades",
    "high",
    "low",
    "biggest",
    "last_ts",
)
"""What all ways give."""
SMALL = Scale(prints=200_000, underlyings=300)


def run(scale: Scale) -> list[Section]:
    """One table for each key."""
    _agree()
    path = scale.tape()
    contract = in_turn(scale.rounds, _contestants(path, "contract"))
    symbol = in_turn(scale.rounds, _contestants(path, "symbol"))
    return [
        _section(scale, "by asset, symbol, expiry, right, family and minute", contract, _aims(contract)),
        _section(scale, "by asset, symbol, right and minute", symbol, _aims(symbol, ", by right")),
    ]


def _contestants(path: Path, key: str) -> dict[str, partial[Run]]:
    return {name: partial(child, function, path, key) for name, function in WAYS.items()}


def _aims(runs: dict[str, list[Run]], key: str = "") -> list[Aim]:
    times = {name: [run.seconds for run in of] for name, of in runs.items()}
    ours = times["flowtape"]
    pandas, limit = ratio(times["pandas"], ours), ratio(ours, times[LIMIT])
    others = {name: ratio(times[name], ours) for name in ("Polars by hand", "DuckDB SQL")}
    behind = ", ".join(f"{name} takes {of:.2f}×" for name, of in others.items())
    what = f"tape to minutes{key}"
    peaks = {name: max(run.peak for run in of) for name, of in runs.items()}
    memory = peaks["flowtape"] / peaks["Polars by hand"]
    return [
        Aim(f"{what}, against pandas", "at least 5× as fast", f"{pandas:.2f}×", pandas >= 5),
        Aim(
            f"{what}, against Polars and DuckDB",
            "ahead of both",
            f"{behind} our time",
            min(others.values()) > 1,
        ),
        Aim(f"{what}, against decoding alone", "at most 4× its time", f"{limit:.2f}×", limit <= 4),
        Aim(f"{what}, peak memory", "at most that of Polars by hand", f"{memory:.2f}×", memory <= 1),
    ]


def _section(scale: Scale, key: str, runs: dict[str, list[Run]], aims: list[Aim]) -> Section:
    ours = [run.seconds for run in runs["flowtape"]]
    rows = []
    for name, of in runs.items():
        seconds = [run.seconds for run in of]
        rows.append([
            name, f"{median(seconds):.2f}", f"{scale.prints / median(seconds) / 1e6:.2f}",
            f"{ratio(seconds, ours):.2f}×", f"{max(run.peak for run in of) / 2**30:.2f}",
        ])  # fmt: skip
    return Section(
        f"Tape to minutes in memory, {key}",
        ["way", "seconds", "M prints/s", "time against flowtape", "peak resident GiB"],
        rows,
        aims,
        [
            f"{scale.prints:,} simulated prints of one day over {scale.underlyings:,} underlyings, from Parquet in "
            f"the page cache; median of {scale.rounds} rounds, each way in a fresh process, imports not counted.",
            "All ways give equal bars (checked before the first round on a smaller day). flowtape reads every "
            "column, checks every row's bounds, looks for rows sent twice and finds when each bar's largest print "
            "came; the others do none of this.",
        ],
    )


def _agree() -> None:
    """Stop unless every way gives the same bars."""
    say("  do all ways agree?")
    from importlib import import_module

    path = SMALL.tape()
    for key in ("contract", "symbol"):
        results = {}
        for name, function in WAYS.items():
            module, _, called = function.partition(":")
            if name != LIMIT:
                results[name] = canonical(
                    getattr(import_module(f"benchmarks.{module}"), called)(str(path), key)
                )
        for result in results.values():
            assert_frame_equal(result, results["flowtape"])


def canonical(bars: object) -> pl.DataFrame:
    """Bars of any library in one form and order."""
    from benchmarks.minutes_ways import KEYS
    from flowtape.model.conditions import FAMILIES

    frame = bars if isinstance(bars, pl.DataFrame) else pl.from_pandas(bars)
    keys = [name for name in KEYS["contract"] if name in frame.columns]
    if "family" in keys and frame.schema["family"].is_integer():
        frame = frame.with_columns(pl.col("family").cast(pl.UInt8).cat.to(pl.Enum(FAMILIES)))
    if frame.schema["minute"].is_temporal():
        frame = frame.with_columns(
            pl.col("minute").cast(pl.Datetime("ns", "UTC")).to_physical() // NS_PER_MINUTE
        )
    if frame.schema["last_ts"].is_temporal():
        frame = frame.with_columns(pl.col("last_ts").cast(pl.Datetime("ns", "UTC")).to_physical())
    texts = [name for name in keys if name != "expiry"]
    return frame.select(
        pl.col(texts).cast(pl.String), *(pl.col(name).cast(pl.Date) for name in keys if name == "expiry"),
        pl.col("minute").cast(pl.Int64), pl.col(*VALUES).cast(pl.Int64),
    ).sort(pl.all())  # fmt: skip
