"""Injected effects of known size in the simulated market, to test whether signals find them."""

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
class Effect:
    """An injected effect on a symbol's order flow and price, from `start` until `end` (ns UTC).

    Aggressors of `symbol` (`*`: of all symbols) buy with probability (1 + flow) / 2, which replaces the market's own
    odds. With `flow` 0 both sides are equally likely; with None the odds do not change. The underlying's price rises
    evenly by `price` per cent relative to its own path, and stays there after `end`.

    Raises:
        UsageError: the span is empty, |flow| > 1, or the price change is not from −90 to 900 per cent.
    """

    symbol: str
    start: int
    end: int
    flow: float | None = None
    price: float = 0.0

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise UsageError("effect: the span ends before it begins")
        if self.flow is not None and not -1 <= self.flow <= 1:
            raise UsageError(f"effect: flow {self.flow} is not in -1..1")
        if not -90 <= self.price <= 900:
            raise UsageError(f"effect: price {self.price} is not in -90..900")


def parse_effect(text: str) -> Effect:
    """Return the effect in a text `SYMBOL,START,END,flow=SHARE,price=PER CENT`.

    Instants are ISO 8601, UTC if they have no zone. One of flow and price may be absent.

    Raises:
        UsageError: the text is malformed. The message names the part and its value.
    """
    symbol, *rest = (part.strip() for part in text.split(","))
    if len(rest) < 3 or not symbol:
        raise UsageError(f"effect: {text!r} is not of the form {_FORM}")
    start, end = (_instant(part) for part in rest[:2])
    given: dict[str, float] = {}
    for part in rest[2:]:
        name, _, value = part.partition("=")
        if name not in ("flow", "price") or name in given:
            raise UsageError(f"effect: {part!r} is not one flow=… or price=…")
        try:
            given[name] = float(value)
        except ValueError:
            raise UsageError(f"effect: {name} {value!r} is not a number") from None
    return Effect(symbol.upper(), start, end, **given)


def _instant(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"effect: {text!r} is not an ISO 8601 instant such as 2026-05-12T14:00Z") from None
    aware = found.replace(tzinfo=UTC) if found.tzinfo is None else found
    return int(aware.timestamp()) * 10**9


def odds_with_effects(
    effects: Sequence[Effect], names: pl.Series, symbol: Codes, ts: Ints, odds: npt.NDArray[np.uint16]
) -> Ints:
    """Return the odds in 65,536 that each row's aggressor buys, with those of effects where they apply."""
    found = odds.astype(np.int64)
    for effect in effects:
        if effect.flow is not None:
            mine = _rows(effect, names, symbol) & (ts >= effect.start) & (ts < effect.end)
            found[mine] = round((1 + effect.flow) / 2 * DRAWS)
    return found


def mids_with_effects(
    effects: Sequence[Effect], names: pl.Series, symbol: Codes, ts: Ints, mid: Floats
) -> Floats:
    """Return the underlying's mid (1/10,000 USD) at each row, to the half cent, with the effects on it."""
    for effect in effects:
        if effect.price:
            past = np.clip((ts - effect.start) / (effect.end - effect.start), 0, 1)
            moved = np.rint(mid * (1 + effect.price / 100 * past) / 50) * 50
            mid = np.where(_rows(effect, names, symbol), moved, mid)
    return mid


def _rows(effect: Effect, names: pl.Series, symbol: Codes) -> npt.NDArray[np.bool_]:
    if effect.symbol == EVERY:
        return np.ones(len(symbol), np.bool_)
    known: npt.NDArray[np.bool_] = (names == effect.symbol).to_numpy()[symbol]
    return known
