"""Readings of the line: what a symbol's minutes of flow say beside its price, its day and its own past.

Pure functions of minutes. Minutes are whole minutes since 1970, rising; volumes are contracts or shares, prices
1/10,000 USD. Statistics are rounded half to even before anything is decided by them, so that whoever holds an answer
can check its words against its figures.
"""

from flowtape.orderflow.signals.divergence import LEAST, STATES, Divergence, divergence
from flowtape.orderflow.signals.drift import Drift, drift
from flowtape.orderflow.signals.sessions import Day, Hours, Part, days
from flowtape.orderflow.signals.turning import Turns, turning_points

__all__ = [
    "LEAST",
    "STATES",
    "Day",
    "Divergence",
    "Drift",
    "Hours",
    "Part",
    "Turns",
    "days",
    "divergence",
    "drift",
    "turning_points",
]
