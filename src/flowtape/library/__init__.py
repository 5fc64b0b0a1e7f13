"""The library: the numbers of the server as frames, from a store, from files or from frames of the caller's own.

A store answers each question of the API:

    with flowtape.open("flow.duckdb") as store:
        line = store.cumulative("SPY", minutes=390, at="2026-05-12T20:00:00Z", right="C")
    flowtape.plot(line).savefig("spy.png")

Without a store, the same steps work on files and frames:

    prints = flowtape.read("tape.csv.gz")
    bars = flowtape.minutes(flowtape.classify(prints))
    line = flowtape.cumulative(bars, "SPY", minutes=390)

Frames are Polars. A pandas frame, or any frame with the Arrow C stream interface, is accepted wherever a frame is.
"""

from flowtape.library.frames import (
    bars_of,
    classify,
    cumulative,
    minutes,
    prints_of,
    read,
    read_minutes,
    sign,
    symbol_in,
)
from flowtape.library.plot import plot
from flowtape.library.store import FlowStore, open  # noqa: A004

__all__ = [
    "FlowStore",
    "bars_of",
    "classify",
    "cumulative",
    "minutes",
    "open",
    "plot",
    "prints_of",
    "read",
    "read_minutes",
    "sign",
    "symbol_in",
]
