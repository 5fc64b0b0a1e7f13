"""Where the simulated market's prices stand and which way its flow leans, as pure functions of seed and time.

Options and stocks read the same paths, so that an option's underlying and the stock's own quote agree.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt

import numpy as np
import numpy.typing as npt

from flowtape.simulation.chains import Codes, Floats, Ints, Underlyings
from flowtape.simulation.rows import DRAWS, SLICE_NS

YEAR_NS = 365 * 86_400 * 10**9
_GRID = 60
"""Stretches of a slice: every underlying has a price of its own at their ends and moves in a line between."""
_PRICES, _BRIDGE, _FLOW = 2, 3, 4
"""Which of a seed's streams of random numbers is which; `slices` and `stocks` have the ones after."""


@lru_cache(maxsize=128)
def _lattice(seed: int, stream: int, level: int, place: int, width: int) -> Floats:
    return np.random.default_rng([seed, stream, level, place]).standard_normal(width)


def _noise(seed: int, stream: int, number: int, width: int, levels: range) -> Floats:
    """Noise of several scales at the start of a slice, made without memory, shape (width,).

    At level l a random value stands at every 2**l-th slice, weighs 2**(l/2 − 1) and is joined to the next by
    a line; so the sum over all levels from 0 wanders like a random walk of variance about 1 a slice, but
    never far.
    """
    total = np.zeros(width)
    for level in levels:
        place, past = divmod(number, 1 << level)
        left, right = (_lattice(seed, stream, level, at, width) for at in (place, place + 1))
        total += 2 ** (level / 2 - 1) * (left + past / (1 << level) * (right - left))
    return total


def _log_moves(listed: Underlyings, moves: Floats) -> Floats:
    """Moves of each underlying alone and, last, of the market as a whole → moves of the log of prices."""
    # Half as much again as the yearly volatility says, for an open market moves more than one at rest.
    scale = listed.volatility * 1.5 / sqrt(YEAR_NS / SLICE_NS)
    own = np.sqrt(1 - listed.correlation**2)
    return scale * (listed.correlation * moves[..., -1:] + own * moves[..., :-1])


def prices_at(seed: int, listed: Underlyings, number: int) -> Floats:
    """Every underlying's price at the start of a slice, in 1/10,000 USD, shape (underlyings,)."""
    moves = _noise(seed, _PRICES, number, len(listed.price) + 1, range(13))
    return listed.price * np.exp(_log_moves(listed, moves))


def price_paths(seed: int, listed: Underlyings, number: int) -> Floats:
    """Every underlying's price through a slice, shape (_GRID + 1, underlyings): a Brownian bridge between the
    prices at its two ends."""
    width = len(listed.price)
    steps = np.zeros((_GRID + 1, width + 1))
    rng = np.random.default_rng([seed, _BRIDGE, number])
    np.cumsum(rng.standard_normal((_GRID, width + 1)) / sqrt(_GRID), axis=0, out=steps[1:])
    past = np.linspace(0, 1, _GRID + 1)[:, None]
    left, right = (prices_at(seed, listed, at) for at in (number, number + 1))
    return left * np.exp(past * np.log(right / left) + _log_moves(listed, steps - past * steps[-1]))


def buy_odds(seed: int, listed: Underlyings, number: int) -> npt.NDArray[np.uint16]:
    """Odds in 65,536 that an aggressor buys, by underlying: it drifts over twenty minutes to three hours."""
    drift = _noise(seed, _FLOW, number, len(listed.price), range(1, 5))
    return ((0.462 + 0.11 * np.tanh(drift / 3)) * DRAWS).astype(np.uint16)


def mids(seed: int, listed: Underlyings, number: int, symbol: Codes, within: Ints) -> Floats:
    """The price of each row's underlying at its instant, ns since the slice began, in 1/10,000 USD."""
    paths = price_paths(seed, listed, number)
    place, past = np.divmod(within * (_GRID / SLICE_NS), 1.0)
    start = place.astype(np.int64) * paths.shape[1] + symbol
    left = paths.ravel()[start]
    # To the half cent: the mid of a quote in cents.
    mid: Floats = np.rint((left + past * (paths.ravel()[start + paths.shape[1]] - left)) / 50) * 50
    return mid
