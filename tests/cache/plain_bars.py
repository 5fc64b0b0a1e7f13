"""Minute bars in plain Python: a dictionary of bars, each a dictionary of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import polars as pl

from flowtape.orderflow.minute_bars import EDGES, FIELDS, NOTIONALS, NS_PER_MINUTE, SUMS
from flowtape.storage.catalog import BAR_KEY

Key = tuple[int, int, int]
"""Symbol, right, minute."""
Bar = dict[str, int]


def bar(prints: Iterable[tuple[int, int, int, str]], minute: int, *, stock: bool = False) -> Bar:
    """Return the bar of some prints: (ns within the minute, price, size, side)."""
    prints = sorted(prints)
    made: Bar = dict.fromkeys(SUMS, 0)
    for _, price, size, side in prints:
        upper, lower = NOTIONALS[side]
        notional = made[upper] * 2**32 + made[lower] + price * size
        made[f"{side}_volume"] += size
        made[upper], made[lower] = divmod(notional, 2**32)
        made["trades"] += 1
    largest = max(size for _, _, size, _ in prints)
    start = minute * NS_PER_MINUTE
    made["high"] = max(price for _, price, _, _ in prints)
    made["low"] = min(price for _, price, _, _ in prints)
    made["biggest"] = largest
    made["biggest_ts"] = start + min(ns for ns, _, size, _ in prints if size == largest)
    made["last_ts"] = start + prints[-1][0]
    if stock:
        for edge, one in (("open", prints[0]), ("close", prints[-1])):
            made |= {edge: one[1], f"{edge}_ts": start + one[0], f"{edge}_seq": 0, f"{edge}_venue": -(2**62)}
        made |= {"first_ts": start + prints[0][0], "sets_range": 1, "sets_ends": 1}
    return made


def merged(bars: list[Bar]) -> Bar:
    """Return the bar of all prints of some bars."""
    made: Bar = {name: sum(one[name] for one in bars) for name in SUMS}
    for upper, lower in NOTIONALS.values():
        made[upper], made[lower] = divmod(made[upper] * 2**32 + made[lower], 2**32)
    made["high"], made["low"] = max(one["high"] for one in bars), min(one["low"] for one in bars)
    made["biggest"], negative = max((one["biggest"], -one["biggest_ts"]) for one in bars)
    made["biggest_ts"] = -negative
    made["last_ts"] = max(one["last_ts"] for one in bars)
    if "open" in bars[0]:
        for edge, choose in (("open", min), ("close", max)):
            names = (f"{edge}_ts", f"{edge}_seq", f"{edge}_venue", edge)
            made |= dict(zip(names, choose(tuple(one[name] for name in names) for one in bars), strict=True))
        made |= {"first_ts": min(one["first_ts"] for one in bars), "sets_range": 1, "sets_ends": 1}
    return made


def frame(bars: Iterable[tuple[Key, Bar]]) -> pl.DataFrame:
    """Return bars as a frame for `MinuteBars`."""
    rows = [dict(zip(BAR_KEY, key, strict=True)) | values for key, values in bars]
    schema = dict.fromkeys((*BAR_KEY, *FIELDS), pl.Int64)
    return pl.DataFrame(rows, schema=schema)


def keys(which: Iterable[Key]) -> pl.DataFrame:
    """Return keys as a frame for `MinuteBars`."""
    return pl.DataFrame(list(which), schema=dict.fromkeys(BAR_KEY, pl.Int64), orient="row")


class Oracle:
    """The content of `MinuteBars`, in plain Python."""

    def __init__(self, oldest: int) -> None:
        self.bars: dict[Key, Bar] = {}
        self.oldest = oldest
        self.changes: list[set[tuple[int, int]]] = []

    def change(self, added: list[tuple[Key, Bar]], restated: dict[Key, Bar | None]) -> None:
        for key, one in added:
            self.bars[key] = merged([self.bars[key], one]) if key in self.bars else one
        for key, corrected in restated.items():
            self.bars.pop(key, None)
            if corrected is not None:
                self.bars[key] = corrected
        pairs = {(key[0], key[2]) for key in [*(key for key, _ in added), *restated]}
        if pairs:
            self.changes.append(pairs)

    def line(self, symbol: int, start: int, end: int, right: int | None) -> dict[int, Bar]:
        """Return the bars of a symbol by minute, of a right or of all."""
        found: dict[int, list[Bar]] = {}
        for (mine, its, minute), one in sorted(self.bars.items()):
            within = max(start, self.oldest) <= minute < end
            if mine == symbol and right in (None, its) and within:
                found.setdefault(minute, []).append(one)
        return {minute: merged(found[minute]) for minute in sorted(found)}

    def cross_section(self, start: int, end: int, right: int | None) -> dict[int, dict[str, Any]]:
        """Return by symbol the merged bar, and notional and volume of the last minute."""
        found = {}
        for symbol in sorted({key[0] for key in self.bars}):
            line = self.line(symbol, start, end, right)
            if line:
                last = line[max(line)]
                found[symbol] = merged(list(line.values())) | {
                    "last_volume": sum(last[f"{side}_volume"] for side in NOTIONALS),
                    "last_notional": sum(last[up] * 2**32 + last[low] for up, low in NOTIONALS.values()),
                }
        return found

    def squares(self, symbol: int, start: int, end: int, sign: Callable[[int], int]) -> int:
        """Return Σ net² over minutes; `sign` gives the weight of a right."""
        net: dict[int, int] = {}
        for (mine, right, minute), one in self.bars.items():
            if mine == symbol and max(start, self.oldest) <= minute < end:
                volume = sign(right) * (one["buy_volume"] - one["sell_volume"])
                net[minute] = net.get(minute, 0) + volume
        return sum(value**2 for value in net.values())


def names(*, stock: bool) -> tuple[str, ...]:
    """Return the fields of a line that an asset has."""
    return FIELDS if stock else tuple(name for name in FIELDS if name not in EDGES)
