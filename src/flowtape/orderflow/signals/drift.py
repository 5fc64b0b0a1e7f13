"""Drift: how unusual a symbol's net flow is, compared with the symbol's own history."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flowtape.model.exact import Ints, Numbers
from flowtape.orderflow.signals.tails import normal_quantile, student_tail

LEAST_SESSIONS = 3
"""The least number of earlier sessions for a standard deviation."""
_LIMIT = 200
"""|z| from which a symbol is stretched, in hundredths."""
_CAP = 9_999


class Drift(NamedTuple):
    """Arrays of one length, one row for each symbol.

    `z` and `volume_z` are in hundredths. `has_z` is whether there is a `z`. `score` is `z` where there is one, else
    `volume_z`; it ranks symbols. `stretched` is whether |score| is 2 or more.
    """

    z: Ints
    has_z: npt.NDArray[np.bool_]
    volume_z: Ints
    score: Ints
    stretched: npt.NDArray[np.bool_]


def drift(net: Numbers, squares: Numbers, past_net: Numbers, past_squares: Numbers) -> Drift:
    """Return the drift of symbols over a window.

    `volume_z` is the self-normalised sum u = net / √(Σ netᵢ²) over the window's minutes. It equals net / √(κ · volume)
    with κ = Σ netᵢ² / Σ volumeᵢ, the variance that one contract adds.

    `z` compares u with the symbol's u in k earlier sessions, of mean m and standard deviation s. The prediction
    interval of one more observation gives t = (u − m) / (s · √(1 + 1/k)), Student's t with k − 1 degrees of freedom.
    `z` is the normal deviate with the same tail probability, so |z| ≥ 2 is as rare with four sessions as with forty. It
    compares u and not the net volume, because one block can make a session's volume many times another's, and Student's
    t does not hold for such tails. There is no `z` with fewer than `LEAST_SESSIONS` sessions, or where all their u are
    equal.

    Args:
        net: each symbol's net volume over the window.
        squares: for each symbol, the sum of the squares of its minutes' net volumes.
        past_net: `net` over the same clock minutes of earlier sessions, shape (sessions, symbols).
        past_squares: `squares` likewise.
    """
    sessions = len(past_net)
    z, has_z = np.zeros(len(net), np.int64), np.zeros(len(net), np.bool_)
    scaled = _scaled(net, squares)
    if sessions >= LEAST_SESSIONS:
        past = _scaled(past_net, past_squares)
        has_z = (past != past[0]).any(axis=0)
        spread = past.std(axis=0, ddof=1) * np.sqrt(1 + 1 / sessions)
        t = (scaled - past.mean(axis=0)) / np.where(has_z, spread, 1.0)
        # The lower tail, where doubles tell small probabilities apart.
        deviate = -np.sign(t) * normal_quantile(student_tail(t, sessions - 1))
        z = np.where(has_z, _hundredths(deviate), 0)
    volume_z = _hundredths(scaled)
    score = np.where(has_z, z, volume_z)
    return Drift(z, has_z, volume_z, score, np.abs(score) >= _LIMIT)


def _scaled(net: Numbers, squares: Numbers) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = net.astype(np.float64) / np.sqrt(
        np.maximum(squares, 1).astype(np.float64)
    )
    return found


def _hundredths(values: npt.NDArray[np.float64]) -> Ints:
    return np.rint(np.clip(100 * values, -_CAP, _CAP)).astype(np.int64)
