"""The prices and the flow of the simulated market, as pure functions of seed and time.

Options and stocks use the same paths, so an option's underlying price agrees with the stock's quote.
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
"""The number of stretches of a slice. An underlying has a price at their ends, and moves linearly in between."""
_PRICES, _BRIDGE, _FLOW = 2, 3, 4
"""The numbers of a seed's streams of random numbers. `slices` and `stocks` use the next ones."""


@lru_cache(maxsize=128)
def _lattice(seed: int, stream: int, level: int, place: int, width: int) -> Floats:
    return np.random.default_rng([seed, stream, level, place]).standard_normal(width)


def _noise(seed: int, stream: int, number: int, width: int, levels: range) -> Floats:
    """Return noise of several scales at the start of a slice, computed without state, shape (width,).

    Level l has a random value at every 2**l-th slice, with the weight 2**(l/2 − 1), and interpolates linearly between
    them. The sum over all levels from 0 resembles a random walk with a variance of about 1 a slice, but stays bounded.
    """
    total = np.zeros(width)
    for level in levels:
        place, past = divmod(number, 1 << level)
        left, right = (_lattice(seed, stream, level, at, width) for at in (place, place + 1))
        total += 2 ** (level / 2 - 1) * (left + past / (1 << level) * (right - left))
    return total


def _log_moves(listed: Underlyings, moves: Floats) -> Floats:
    """Return moves of the log of prices from moves of each underlying alone and, last, of the whole market."""
    # The yearly volatility is scaled by 1.5, because an open market moves more than a closed one.
    scale = listed.volatility * 1.5 / sqrt(YEAR_NS / SLICE_NS)
    own = np.sqrt(1 - listed.correlation**2)
    return scale * (listed.correlation * moves[..., -1:] + own * moves[..., :-1])


def prices_at(seed: int, listed: Underlyings, number: int) -> Floats:
    """Return every underlying's price at the start of a slice, in 1/10,000 USD, shape (underlyings,)."""
    moves = _noise(seed, _PRICES, number, len(listed.price) + 1, range(13))
    return listed.price * np.exp(_log_moves(listed, moves))


def price_paths(seed: int, listed: Underlyings, number: int) -> Floats:
    """Return every underlying's price through a slice, shape (_GRID + 1, underlyings): a Brownian bridge between the
    prices at its two ends."""
    width = len(listed.price)
    steps = np.zeros((_GRID + 1, width + 1))
    rng = np.random.default_rng([seed, _BRIDGE, number])
    np.cumsum(rng.standard_normal((_GRID, width + 1)) / sqrt(_GRID), axis=0, out=steps[1:])
    past = np.linspace(0, 1, _GRID + 1)[:, None]
    left, right = (prices_at(seed, listed, at) for at in (number, number + 1))
    return left * np.exp(past * np.log(right / left) + _log_moves(listed, steps - past * steps[-1]))


def buy_odds(seed: int, listed: Underlyings, number: int) -> npt.NDArray[np.uint16]:
    """Return the odds in 65,536 that an aggressor buys, by underlying. They drift over twenty minutes to three
    hours."""
    drift = _noise(seed, _FLOW, number, len(listed.price), range(1, 5))
    return ((0.462 + 0.11 * np.tanh(drift / 3)) * DRAWS).astype(np.uint16)


def mids(seed: int, listed: Underlyings, number: int, symbol: Codes, within: Ints) -> Floats:
    """Return the price of each row's underlying at its instant (ns since the slice began), in 1/10,000 USD."""
    paths = price_paths(seed, listed, number)
    place, past = np.divmod(within * (_GRID / SLICE_NS), 1.0)
    start = place.astype(np.int64) * paths.shape[1] + symbol
    left = paths.ravel()[start]
    # Rounded to the half cent, as the mid of a quote in cents.
    mid: Floats = np.rint((left + past * (paths.ravel()[start + paths.shape[1]] - left)) / 50) * 50
    return mid
