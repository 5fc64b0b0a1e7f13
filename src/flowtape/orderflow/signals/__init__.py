"""Signals from a symbol's minutes of flow: its price, its sessions, its earlier days.

Pure functions of minutes. Minutes are integers since 1970, rising; volumes are contracts or shares, prices 1/10,000
USD. Statistics are rounded half to even before a label is derived from them, so a reader of an answer can check its
labels against its figures.
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
