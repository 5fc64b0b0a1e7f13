"""The option prints of one slice of the simulated market: their times, contracts, sizes, sides and quotes.

A generator seeded by the slice's number draws whole columns at a time. Rows are generated in pairs: the second row may
be the other leg of a spread, or the next fill of a sweep, of the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, exp, pi, sqrt

import numpy as np
import numpy.typing as npt

from flowtape.simulation.chains import INDEX, SLOTS, VIX, Chains, Floats, Ints, slot_table
from flowtape.simulation.injected import mids_with_effects, odds_with_effects
from flowtape.simulation.paths import YEAR_NS, buy_odds, mids
from flowtape.simulation.rows import (
    CODES,
    DRAWS,
    OPTION,
    OPTION_VENUES,
    QUOTE_AGE,
    SLICE_NS,
    Part,
    Rows,
    among,
    draws,
    of_families,
    twin,
)

_TAPE = 5
"""The stream of random numbers of the option tape."""
_MIX = {
    "AUTO": 33.0, "ISOI": 16.0, "REGULAR": 1.1, "EXHT": 0.2, "SLAN": 17.3, "SLAI": 5.5,
    "MLET": 9.4, "MLAT": 5.9, "MESL": 3.9, "MASL": 1.6, "TLET": 0.9, "TLAT": 0.7, "TESL": 0.4, "TASL": 0.2,
    "MLCT": 0.4, "TLCT": 0.05, "MLFT": 0.4, "MFSL": 0.15, "TLFT": 0.05, "TFSL": 0.03, "CBMO": 0.02,
    "MCTP": 0.02, "SLCN": 0.6, "SLCI": 0.05, "SLFT": 0.8, "LATE": 0.18, "OSEQ": 0.12,
    "CANC": 0.08, "CNCL": 0.05,
}  # fmt: skip
"""The weight of each sale condition among prints."""


def _sizes() -> npt.NDArray[np.int32]:
    """Return contracts by a uniform draw: P(size > x) is about x**-1.05; large sizes are often round numbers."""
    exact = np.floor((1 - (np.arange(DRAWS) + 0.5) / DRAWS) ** (-1 / 1.05))
    unit = np.select([exact >= 500, exact >= 100, exact >= 10], [100, 25, 5], 1)
    often = np.arange(DRAWS) % 5 < 3
    return np.minimum(np.where(often, np.rint(exact / unit) * unit, exact), 10_000).astype(np.int32)


def _moneyness() -> Floats:
    """Return how far out of the money a traded strike is, in standard deviations at expiry, by a uniform draw."""
    u = (np.arange(DRAWS) + 0.5) / DRAWS - 0.5
    out: Floats = 0.3 - 0.55 * np.sign(u) * np.log1p(-2 * np.abs(u))
    return out


def _time_value() -> Floats:
    """Return an option's time value in the normal model (Bachelier, Théorie de la spéculation, 1900).

    It is in standard deviations at expiry, by distance from the money in 1/256 of one.
    """
    distances = np.arange(2048) / 256
    values = [exp(-d * d / 2) / sqrt(2 * pi) - d * erfc(d / sqrt(2)) / 2 for d in distances]
    return np.array(values, dtype=np.float64)


_COMPLEX = [name for name in _MIX if name[:2] in ("ML", "ME", "MA", "MF", "MC", "TL", "TE", "TA", "TF", "CB")]
_BY_PLACE = np.array([CODES[name] for name in _MIX], dtype=np.uint8)
_FIRST = _BY_PLACE[draws(_MIX.values())]
_SECOND = _BY_PLACE[draws(0 if name in _COMPLEX else weight for name, weight in _MIX.items())]
_IS_COMPLEX, _IS_ELECTRONIC = among(_COMPLEX), among(("AUTO", "ISOI", "SLAN", "SLAI"))
_LOT = np.where(of_families("cross", "floor", "compression"), 12, 1).astype(np.int32)
_SIZE, _OUT, _VALUE = _sizes(), _moneyness(), _time_value()
_VENUE = draws(OPTION_VENUES.values()).astype(np.uint8)
_INDEX_VENUE = list(OPTION_VENUES).index("XCBO")


@dataclass(frozen=True, slots=True, eq=False)
class Slice(Part):
    """The option prints of a slice, with the day's contracts and the end of each expiry (ns UTC, shape (kinds,
    slots))."""

    chains: Chains
    expires: Ints

    def rows(self) -> Rows:
        """Return the slice's prints in order of report, as arrays by column; `reported` is in ns UTC."""
        rng = np.random.default_rng([self.seed, _TAPE, self.number])
        columns: Rows = {"condition": _FIRST[self.draw(rng)]}
        self._pair(rng, columns)
        self.time(rng, columns)
        self._contract(rng, columns)
        self._quote(rng, columns)
        self._trade(rng, columns)
        self.cancel(rng, columns, otherwise="AUTO")
        return self.reported(columns, OPTION)

    def _pair(self, rng: np.random.Generator, columns: Rows) -> None:
        pairs = self.count // 2
        condition = columns["condition"]
        first = condition[0 : 2 * pairs : 2]
        condition[1::2] = _SECOND[rng.integers(0, DRAWS, pairs, dtype=np.uint16)]
        columns["spread"] = _IS_COMPLEX[first]
        columns["sweep"] = _IS_ELECTRONIC[first] & (rng.random(pairs, dtype=np.float32) < 0.4)
        columns["twin"] = columns["spread"] | columns["sweep"]
        twin(condition, columns["twin"])

    def _contract(self, rng: np.random.Generator, columns: Rows) -> None:
        listed, together = self.listed, columns["twin"]
        symbol = listed.popularity[rng.integers(0, len(listed.popularity), self.count, dtype=np.uint32)]
        twin(symbol, together)
        kind = listed.kind[symbol]
        slot = slot_table()[kind * DRAWS + self.draw(rng)]
        put = (self.draw(rng) > 0.54 * DRAWS).view(np.uint8)
        out = _OUT[self.draw(rng)]
        twin(slot, together)
        twin(put, together)
        twin(out, columns["sweep"])
        columns["kind"], columns["symbol"], columns["right"] = kind, symbol, put
        series = symbol * SLOTS + slot
        columns["expiry"] = self.chains.expiry.ravel().astype(np.int32)[kind * SLOTS + slot]
        columns["root"] = self.chains.root.ravel()[series]
        mid = mids(self.seed, listed, self.number, symbol, columns["within"])
        columns["underlying"] = mids_with_effects(self.effects, listed.names, symbol, columns["ts"], mid)
        columns["sign"] = 1.0 - 2.0 * put
        columns["deviation"] = columns["underlying"] * self._deviations().ravel()[series]
        step = self.chains.step.ravel()[series]
        aim = columns["underlying"] + columns["sign"] * out * columns["deviation"]
        lowest, highest = self.chains.lowest[symbol], self.chains.highest[symbol]
        columns["strike"] = np.clip(np.rint(aim / step) * step, lowest, highest)

    def _deviations(self) -> Floats:
        """Return the standard deviation of each underlying's move until each expiry, as a share of its price."""
        middle = self.number * SLICE_NS + SLICE_NS // 2
        years = np.maximum(self.expires - middle, SLICE_NS) / YEAR_NS
        return self.listed.volatility[:, None] * np.sqrt(years)[self.listed.kind]

    def _quote(self, rng: np.random.Generator, columns: Rows) -> None:
        listed, symbol, deviation = self.listed, columns["symbol"], columns["deviation"]
        away = columns["underlying"] - columns["strike"]
        place = np.minimum(np.abs(away) * (256 / deviation), len(_VALUE) - 1).astype(np.int32)
        value = np.maximum(columns["sign"] * away, 0.0) + deviation * _VALUE[place]
        tick = np.where(value < 30_000, listed.tick_low[symbol], listed.tick_high[symbol])
        ticks = value / tick
        wobble = 0.5 + rng.random(self.count, dtype=np.float32)
        twin(wobble, columns["sweep"])
        width = np.maximum(np.rint(ticks * listed.spread[symbol] * wobble), 1.0)
        bid = np.maximum(np.rint(ticks - 0.5 * width), 0.0)
        columns["tick"] = tick
        columns["bid"] = (bid * tick).astype(np.int64)
        columns["ask"] = ((bid + width) * tick).astype(np.int64)
        columns["bid_size"], columns["ask_size"] = (_SIZE[self.draw(rng)] * 5 for _ in range(2))
        columns["quote_ts"] = columns["ts"] - QUOTE_AGE[self.draw(rng)]

    def _trade(self, rng: np.random.Generator, columns: Rows) -> None:
        bid, ask = columns["bid"], columns["ask"]
        symbol = columns["symbol"]
        odds = buy_odds(self.seed, self.listed, self.number)[symbol]
        buy = self.draw(rng) < odds_with_effects(self.effects, self.listed.names, symbol, columns["ts"], odds)
        where = self.draw(rng)
        twin(buy, columns["sweep"])
        twin(where, columns["sweep"])
        # Without a bid, the aggressor can only buy.
        buy |= bid == 0
        at_ask = buy ^ ((where > 0.98 * DRAWS) & (bid > 0))
        price = np.where(at_ask, ask, bid)
        cents = (ask - bid) // 100
        inside = np.flatnonzero((where < 0.165 * DRAWS) & (cents > 1))
        wide = cents[inside]
        place = 1 + (rng.random(len(inside)) * (wide - 1)).astype(np.int64)
        at_mid = (wide % 2 == 0) & (where[inside] < 0.07 * DRAWS)
        price[inside] = bid[inside] + 100 * np.where(at_mid, wide // 2, place)
        size = np.minimum(_SIZE[self.draw(rng)] * _LOT[columns["condition"]], 20_000)
        twin(size, columns["spread"])
        venue = _VENUE[self.draw(rng)]
        venue[(columns["kind"] == INDEX) | (columns["kind"] == VIX)] = _INDEX_VENUE
        columns["price"], columns["size"], columns["venue"] = price, size, venue
        columns["true_side"] = buy.view(np.uint8)
        self.disturb(self.draw(rng), at_ask, columns)
