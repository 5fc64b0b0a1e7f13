"""Tail probabilities: Student's t, and the normal quantile."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_SMALLEST = 1e-300
"""The smallest probability that has a quantile here."""
_TINY = 1e-290
_TERMS = 500
_CLOSE = 1e-15


def normal_quantile(probability: Floats) -> Floats:
    """Return the standard normal quantile of each probability in [0, 1), those below 1e-300 taken as 1e-300.

    The algorithm is Wichura's AS 241 (Applied Statistics 37, 1988) as `statistics.NormalDist` has it.
    """
    quantile = NormalDist().inv_cdf
    return np.array([quantile(max(one, _SMALLEST)) for one in probability.tolist()], np.float64)


def student_tail(t: Floats, degrees: int) -> Floats:
    """Return P(T ≤ −|t|) of Student's t with `degrees` degrees of freedom, for each t.

    P = ½ I_x(ν/2, ½) with x = ν / (ν + t²), where I is the regularised incomplete beta function (Abramowitz and
    Stegun, Handbook of Mathematical Functions, 26.5.27 and 26.7.1). The relative error is near
    1e-14, in small tails too.
    """
    squares = t * t
    x, y = degrees / (degrees + squares), squares / (degrees + squares)
    a, b = degrees / 2, 0.5
    # The fraction converges fast on one side of the mean of the beta distribution; the other is its complement.
    direct = x < (a + 1) / (a + b + 2)
    tail = np.empty_like(x)
    tail[direct] = _beta(x[direct], y[direct], a, b)
    tail[~direct] = 1 - _beta(y[~direct], x[~direct], b, a)
    return tail / 2


def _beta(x: Floats, y: Floats, a: float, b: float) -> Floats:
    """Return I_x(a, b), with y = 1 − x, by the continued fraction 26.5.8 of Abramowitz and Stegun in Lentz's way."""
    with np.errstate(divide="ignore"):
        scale = np.exp(a * np.log(x) + b * np.log(y)) / (a * _complete_beta(a, b))
    c = np.ones_like(x)
    d = 1 / _not_zero(1 - (a + b) * x / (a + 1))
    fraction = d.copy()
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _not_zero(1 + term * d)
            c = _not_zero(1 + term / c)
            fraction *= c * d
        if (np.abs(c * d - 1) < _CLOSE).all():
            break
    return scale * fraction


def _complete_beta(a: float, b: float) -> float:
    return math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))


def _not_zero(values: Floats) -> Floats:
    return np.where(np.abs(values) < _TINY, _TINY, values)
