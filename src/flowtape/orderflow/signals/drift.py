"""How far a symbol's flow stands from zero, by its own measure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flowtape.model.exact import Ints, Numbers
from flowtape.orderflow.signals.tails import normal_quantile, student_tail

LEAST_SESSIONS = 3
"""With fewer earlier sessions their spread says nothing."""
_LIMIT = 200
"""|z| from which a symbol is stretched, in hundredths."""
_CAP = 9_999


class Drift(NamedTuple):
    """Arrays of one length, a row a symbol: `z` and `volume_z` in hundredths, `has_z` whether there is a `z`, `score`
    the one that ranks (`z` where there is one), `stretched` whether |score| is 2 or more."""

    z: Ints
    has_z: npt.NDArray[np.bool_]
    volume_z: Ints
    score: Ints
    stretched: npt.NDArray[np.bool_]


def drift(net: Numbers, squares: Numbers, past_net: Numbers, past_squares: Numbers) -> Drift:
    """The drift of symbols over a window.

    `net` is each symbol's net volume over the window, `squares` the sum of the squares of its minutes' net volumes;
    `past_net` and `past_squares` (sessions, symbols) the same over the same clock minutes of each earlier session.

    `volume_z` needs no past: u = net / √(κ · volume), where κ = Σ netᵢ² / Σ volumeᵢ is the variance a contract adds, as
    the window's own minutes show it, so u = net / √(Σ netᵢ²), the self-normalised sum.

    `z` measures by the symbol's own past: where the u of k earlier sessions have mean m and standard deviation s,
    t = (u − m) / (s · √(1 + 1/k)) is Student's t with k − 1 degrees of freedom (the prediction interval of one more
    observation), and z the normal deviate of the same tail, so |z| ≥ 2 is as rare with four sessions as with forty.
    It is u that is compared, not the volume itself, for one block makes a session's volume many times another's, and
    what has such tails is no Student's t. There is none with fewer than `LEAST_SESSIONS`, or where all were equal.
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
