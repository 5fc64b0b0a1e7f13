"""The stock prints of one slice of the simulated market.

A stock's quote surrounds the price that its options use. Rows are generated in pairs: the second row may be the next
fill of a sweep of the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowtape.simulation.injected import mids_with_effects, odds_with_effects
from flowtape.simulation.paths import buy_odds, mids
from flowtape.simulation.rows import (
    CODES,
    DRAWS,
    OPTION_VENUES,
    QUOTE_AGE,
    STOCK,
    STOCK_VENUES,
    VENUES,
    Part,
    Rows,
    draws,
    twin,
)

_TAPE = 6
"""The stream of random numbers of the stock tape."""
_CENT = 100
_BLOCK = 10_000
"""The number of shares from which a print is negotiated off the exchanges."""
_LEAN = round(0.027 * DRAWS)
"""An addition to the odds of a buy. Options are sold more often than bought; stocks are balanced."""
_MIX = {"STK_REGULAR": 99.78, "STK_SOLD": 0.14, "CANC": 0.08}
"""The weight of each sale condition among prints."""


def _sizes() -> npt.NDArray[np.int32]:
    """Return shares by a uniform draw: 55 % odd lots, mostly small, and round lots with P(size > x) about x**-1.35,
    some of them with an odd lot added."""
    u = (np.arange(DRAWS) + 0.5) / DRAWS
    odd = np.floor(100 ** (u / 0.55))
    lots = np.floor((1 - np.clip(u - 0.55, 0, None) / 0.45) ** (-1 / 1.35))
    rest = np.where(np.arange(DRAWS) % 8 == 0, np.arange(DRAWS) % 99, 0)
    return np.where(u < 0.55, odd, np.minimum(100 * lots + rest, 200_000)).astype(np.int32)


_CONDITION = np.array([CODES[name] for name in _MIX], dtype=np.uint8)[draws(_MIX.values())]
_NORMAL = CODES["STK_REGULAR"]
_SIZE = _sizes()
_VENUE = (draws(STOCK_VENUES.values()) + len(OPTION_VENUES)).astype(np.uint8)
_TRF = VENUES.index("FINN")
"""The largest trade reporting facility."""


@dataclass(frozen=True, slots=True, eq=False)
class StockSlice(Part):
    """The stock prints of a slice."""

    def rows(self) -> Rows:
        """Return the slice's prints in order of report, as arrays by column; `reported` is in ns UTC."""
        rng = np.random.default_rng([self.seed, _TAPE, self.number])
        columns: Rows = {"condition": _CONDITION[self.draw(rng)]}
        first = columns["condition"][0 : self.count // 2 * 2 : 2]
        columns["twin"] = (first == _NORMAL) & (self.draw(rng)[: len(first)] < 0.3 * DRAWS)
        twin(columns["condition"], columns["twin"])
        self.time(rng, columns)
        self._quote(rng, columns)
        self._trade(rng, columns)
        self.cancel(rng, columns, otherwise="STK_REGULAR")
        return self.reported(columns, STOCK)

    def _quote(self, rng: np.random.Generator, columns: Rows) -> None:
        listed = self.listed
        places = rng.integers(0, len(listed.stock_popularity), self.count, dtype=np.uint32)
        symbol = listed.stock_popularity[places]
        twin(symbol, columns["twin"])
        plain = mids(self.seed, listed, self.number, symbol, columns["within"])
        mid = mids_with_effects(self.effects, listed.names, symbol, columns["ts"], plain)
        wobble = 0.5 + rng.random(self.count, dtype=np.float32)
        twin(wobble, columns["twin"])
        # The spread grows with that of the options and with volatility: a cent or two for large names, several for
        # illiquid ones.
        share = 0.01 / _CENT * listed.spread * listed.volatility
        width = np.maximum(np.rint(mid * share[symbol] * wobble), 1.0)
        bid = np.rint(mid / _CENT - 0.5 * width)
        columns["symbol"], columns["root"] = symbol, symbol
        for name in ("expiry", "right", "strike", "underlying"):
            columns[name] = np.zeros(self.count, dtype=np.uint8)
        columns["bid"] = bid.astype(np.int64) * _CENT
        columns["ask"] = (bid + width).astype(np.int64) * _CENT
        columns["bid_size"], columns["ask_size"] = (
            _SIZE[self.draw(rng)] // 100 * 100 + 100 for _ in range(2)
        )
        columns["quote_ts"] = columns["ts"] - QUOTE_AGE[self.draw(rng)] // 4

    def _trade(self, rng: np.random.Generator, columns: Rows) -> None:
        bid, ask = columns["bid"], columns["ask"]
        symbol = columns["symbol"]
        odds = (buy_odds(self.seed, self.listed, self.number) + _LEAN)[symbol]
        buy = self.draw(rng) < odds_with_effects(self.effects, self.listed.names, symbol, columns["ts"], odds)
        where = self.draw(rng)
        twin(buy, columns["twin"])
        twin(where, columns["twin"])
        at_ask = buy ^ (where > 0.98 * DRAWS)
        price = np.where(at_ask, ask, bid)
        at_mid = np.flatnonzero(where < 0.07 * DRAWS)
        price[at_mid] = (bid[at_mid] + ask[at_mid]) // 2
        # A dealer may improve a customer's price by less than half a cent; an exchange may not.
        improved = np.flatnonzero((where >= 0.07 * DRAWS) & (where < 0.12 * DRAWS))
        better = rng.integers(1, _CENT // 2, len(improved))
        price[improved] += np.where(buy[improved], -better, better)
        size, venue = _SIZE[self.draw(rng)], _VENUE[self.draw(rng)]
        venue[size >= _BLOCK] = _TRF
        venue[improved] = _TRF
        columns["price"], columns["size"], columns["venue"] = price, size, venue
        columns["true_side"] = buy.view(np.uint8)
        columns["tick"] = np.broadcast_to(np.int64(_CENT), self.count)
        self.disturb(self.draw(rng), at_ask, columns)
