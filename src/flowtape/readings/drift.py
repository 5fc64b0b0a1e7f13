"""How far a symbol's flow stands from zero, by its own measure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

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


def drift(net: Ints, squares: Ints, history: Ints) -> Drift:
    """The drift of symbols over a window.

    `net` is each symbol's net volume over the window, `squares` the sum of the squares of its minutes' net volumes,
    `history` (sessions, symbols) the net volume over the same clock minutes of each earlier session.

    `z` measures by the symbol's own past: of k sessions with mean m and standard deviation s,
    t = (net − m) / (s · √(1 + 1/k)) is Student's t with k − 1 degrees of freedom where the sessions are alike (the
    prediction interval of one more observation), and z is the normal deviate of the same tail, so |z| ≥ 2 is as rare
    with four sessions as with forty. There is none with fewer than `LEAST_SESSIONS`, or where they were all equal.

    `volume_z` needs no past: net / √(κ · volume), where κ = Σ netᵢ² / Σ volumeᵢ is the variance a contract adds, as
    the window's own minutes show it, so net / √(Σ netᵢ²), the self-normalised sum.
    """
    from scipy.special import ndtri, stdtr

    sessions = len(history)
    z, has_z = np.zeros(len(net), np.int64), np.zeros(len(net), np.bool_)
    if sessions >= LEAST_SESSIONS:
        past = history.astype(np.float64)
        spread = past.std(axis=0, ddof=1)
        has_z = (history != history[0]).any(axis=0)
        t = (net - past.mean(axis=0)) / np.where(has_z, spread * np.sqrt(1 + 1 / sessions), 1.0)
        # Of the lower tail, where doubles tell small chances apart.
        deviate = -np.sign(t) * ndtri(np.maximum(stdtr(sessions - 1, -np.abs(t)), 1e-300))
        z = np.where(has_z, _hundredths(deviate), 0)
    volume_z = _hundredths(net / np.sqrt(np.maximum(squares, 1).astype(np.float64)))
    score = np.where(has_z, z, volume_z)
    return Drift(z, has_z, volume_z, score, np.abs(score) >= _LIMIT)


def _hundredths(values: npt.NDArray[np.float64]) -> Ints:
    return np.rint(np.clip(100 * values, -_CAP, _CAP)).astype(np.int64)
