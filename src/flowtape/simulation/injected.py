"""Causes planted in the simulated market, so that what finds them can be held against what is known to be there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape.errors import UsageError
from flowtape.simulation.chains import Codes, Floats, Ints
from flowtape.simulation.rows import DRAWS

EVERY = "*"
_FORM = "SYMBOL,START,END,flow=SHARE,price=PER CENT"


@dataclass(frozen=True, slots=True)
class Plant:
    """From `start` until `end` (ns UTC) the aggressors of a symbol (`*`: of all) buy (1 + flow) / 2 of the
    time, in place of the market's own leaning, and the underlying's price goes up by `price` per cent on top of its
    own way, evenly, and stays there. None leaves flow as it is; a flow of 0 is chance alone.

    Raises `UsageError` where the span is empty, |flow| > 1 or the price would not stay above −90 per cent and below
    +900.
    """

    symbol: str
    start: int
    end: int
    flow: float | None = None
    price: float = 0.0

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise UsageError("plant: the span ends before it begins")
        if self.flow is not None and not -1 <= self.flow <= 1:
            raise UsageError(f"plant: flow {self.flow} is not in -1..1")
        if not -90 <= self.price <= 900:
            raise UsageError(f"plant: price {self.price} is not in -90..900")


def parse_plant(text: str) -> Plant:
    """A plant of `SYMBOL,START,END,flow=SHARE,price=PER CENT`, instants as ISO 8601, UTC without a zone; one of flow
    and price may be left out. Raises `UsageError` that names the part and its value."""
    symbol, *rest = (part.strip() for part in text.split(","))
    if len(rest) < 3 or not symbol:
        raise UsageError(f"plant: {text!r} is not of the form {_FORM}")
    start, end = (_instant(part) for part in rest[:2])
    given: dict[str, float] = {}
    for part in rest[2:]:
        name, _, value = part.partition("=")
        if name not in ("flow", "price") or name in given:
            raise UsageError(f"plant: {part!r} is not one flow=… or price=…")
        try:
            given[name] = float(value)
        except ValueError:
            raise UsageError(f"plant: {name} {value!r} is no number") from None
    return Plant(symbol.upper(), start, end, **given)


def _instant(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"plant: {text!r} is no ISO 8601 instant such as 2026-05-12T14:00Z") from None
    aware = found.replace(tzinfo=UTC) if found.tzinfo is None else found
    return int(aware.timestamp()) * 10**9


def planted_odds(
    plants: Sequence[Plant], names: pl.Series, symbol: Codes, ts: Ints, odds: npt.NDArray[np.uint16]
) -> Ints:
    """The odds in 65,536 that each row's aggressor buys: those given, but where something is planted."""
    found = odds.astype(np.int64)
    for plant in plants:
        if plant.flow is not None:
            mine = _rows(plant, names, symbol) & (ts >= plant.start) & (ts < plant.end)
            found[mine] = round((1 + plant.flow) / 2 * DRAWS)
    return found


def planted_mids(plants: Sequence[Plant], names: pl.Series, symbol: Codes, ts: Ints, mid: Floats) -> Floats:
    """The underlying's mid (1/10,000 USD) at each row, to the half cent, with what is planted."""
    for plant in plants:
        if plant.price:
            past = np.clip((ts - plant.start) / (plant.end - plant.start), 0, 1)
            moved = np.rint(mid * (1 + plant.price / 100 * past) / 50) * 50
            mid = np.where(_rows(plant, names, symbol), moved, mid)
    return mid


def _rows(plant: Plant, names: pl.Series, symbol: Codes) -> npt.NDArray[np.bool_]:
    if plant.symbol == EVERY:
        return np.ones(len(symbol), np.bool_)
    known: npt.NDArray[np.bool_] = (names == plant.symbol).to_numpy()[symbol]
    return known
