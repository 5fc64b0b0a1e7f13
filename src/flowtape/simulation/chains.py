"""The instruments of the simulated market: underlyings, expiries, strikes and ticks.

The first forty underlyings have real names, so that a demonstration looks like a tape. Their prices and volatilities
are round numbers. All further names are fictitious.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape.model.prints import PRICE_SCALE

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.integer[Any]]

KINDS = ("daily", "index", "vix", "weekly", "monthly")
"""The expiry schedules of underlyings. The position of a kind is its number."""
DAILY, INDEX, VIX, WEEKLY, MONTHLY = range(len(KINDS))
SLOTS = 16
"""The number of expiries of a chain, nearest first. Kinds with fewer have no weight on the last ones."""
MAX_UNDERLYINGS = 100_000

_NAMED = (
    # name, price in USD, yearly volatility, kind
    ("SPY", 600.0, 0.16, "daily"), ("SPX", 6000.0, 0.16, "index"), ("QQQ", 520.0, 0.21, "daily"),
    ("NVDA", 140.0, 0.48, "weekly"), ("TSLA", 340.0, 0.62, "weekly"), ("AAPL", 230.0, 0.27, "weekly"),
    ("VIX", 17.0, 0.95, "vix"), ("IWM", 225.0, 0.22, "daily"), ("AMZN", 210.0, 0.32, "weekly"),
    ("AMD", 130.0, 0.50, "weekly"), ("META", 600.0, 0.34, "weekly"), ("PLTR", 75.0, 0.65, "weekly"),
    ("MSFT", 430.0, 0.24, "weekly"), ("GOOGL", 180.0, 0.30, "weekly"), ("MSTR", 350.0, 0.90, "weekly"),
    ("AVGO", 190.0, 0.48, "weekly"), ("NFLX", 900.0, 0.36, "weekly"), ("COIN", 280.0, 0.80, "weekly"),
    ("INTC", 24.0, 0.50, "weekly"), ("BABA", 95.0, 0.42, "weekly"), ("SMCI", 40.0, 0.95, "weekly"),
    ("SOFI", 14.0, 0.60, "weekly"), ("HOOD", 38.0, 0.70, "weekly"), ("GLD", 245.0, 0.16, "weekly"),
    ("TLT", 92.0, 0.15, "weekly"), ("MARA", 20.0, 1.00, "weekly"), ("GME", 27.0, 0.85, "weekly"),
    ("BAC", 46.0, 0.25, "weekly"), ("F", 11.0, 0.35, "weekly"), ("MU", 100.0, 0.48, "weekly"),
    ("JPM", 245.0, 0.24, "weekly"), ("BA", 170.0, 0.34, "weekly"), ("DIS", 112.0, 0.26, "weekly"),
    ("SLV", 29.0, 0.28, "weekly"), ("EEM", 44.0, 0.18, "weekly"), ("XLF", 50.0, 0.18, "weekly"),
    ("HYG", 79.0, 0.06, "weekly"), ("FXI", 31.0, 0.33, "weekly"), ("UBER", 70.0, 0.38, "weekly"),
    ("RUT", 2250.0, 0.22, "index"),
)  # fmt: skip
_WEEKLY_ROOT = {"SPX": "SPXW", "VIX": "VIXW", "RUT": "RUTW"}
_STEPS = np.array([0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0])
_KIND_STEP = {"daily": 1.0, "index": 5.0, "vix": 1.0}
_SLOT_WEIGHTS = {
    "daily": (54, 12, 7, 4, 4, 2, 2, 1, 3, 2, 1, 3, 2, 1, 1, 1),
    "index": (54, 12, 7, 4, 4, 2, 2, 1, 3, 2, 1, 3, 2, 1, 1, 0),
    "vix": (38, 12, 6, 22, 12, 6, 3, 1),
    "weekly": (56, 14, 6, 4, 3, 2, 8, 4, 1, 1, 1),
    "monthly": (60, 20, 9, 6, 4, 1),
}


@dataclass(frozen=True, slots=True, eq=False)
class Underlyings:
    """The fixed properties of n underlyings, most popular first; arrays of shape (n,).

    `price` is the level around which a price moves. `price` and the ticks (below and from 3 USD) are in 1/10,000 USD.
    `spread` is a share of an option's value. `correlation` is with the whole market.
    """

    names: pl.Series
    roots: pl.Series
    weekly_root: Ints
    kind: Ints
    price: Floats
    volatility: Floats
    correlation: Floats
    spread: Floats
    tick_low: Floats
    tick_high: Floats
    popularity: Codes
    """Maps a uniform draw of 0 … 2**20 − 1 to an underlying, in proportion to its share of trades."""
    stock_popularity: Codes
    """The same for the underlyings that are stocks and not indices."""


@dataclass(frozen=True, slots=True, eq=False)
class Chains:
    """The contracts listed on one day.

    Expiries are days since 1970, of shape (kinds, slots). Roots are indices into `Underlyings.roots` and strike steps
    are in 1/10,000 USD, both of shape (underlyings, slots). `lowest` and `highest` bound each underlying's strikes.
    """

    expiry: Ints
    root: Ints
    step: Floats
    lowest: Floats
    highest: Floats


def _made_up(count: int) -> list[str]:
    names: list[str] = []
    for letters in (3, 4):
        for tail in product(string.ascii_uppercase, repeat=letters):
            if len(names) >= count:
                return names
            names.append("Z" + "".join(tail))
    return names


@lru_cache(maxsize=8)
def underlyings(seed: int, count: int) -> Underlyings:
    """Return the first `count` underlyings of a seed's market. Popularity falls as rank**-1.05."""
    rng = np.random.default_rng([seed, 1])
    made = max(0, count - len(_NAMED))
    rank = np.arange(len(_NAMED), len(_NAMED) + made)
    named = _NAMED[:count]
    names = [row[0] for row in named] + _made_up(made)
    price = np.r_[[row[1] for row in named], np.clip(rng.lognormal(3.6, 0.9, made), 4, 900)]
    volatility = np.r_[[row[2] for row in named], rng.uniform(0.25, 0.95, made)]
    made_kind = np.where(rank < 600, WEEKLY, MONTHLY)
    kind = np.r_[[KINDS.index(row[3]) for row in named], made_kind].astype(np.int64)
    daily, index = kind == DAILY, np.isin(kind, [INDEX, VIX])
    fine = np.arange(count) < 400
    weekly = [name for name in names if name in _WEEKLY_ROOT]
    weekly_root = np.arange(count)
    weekly_root[[names.index(name) for name in weekly]] = count + np.arange(len(weekly))
    weights = np.arange(1, count + 1) ** -1.05
    shares = np.cumsum(weights) / weights.sum()
    popularity = np.searchsorted(shares, (np.arange(2**20) + 0.5) / 2**20).astype(np.int32)
    return Underlyings(
        names=pl.Series(names, dtype=pl.Categorical),
        roots=pl.Series(names + [_WEEKLY_ROOT[name] for name in weekly], dtype=pl.Categorical),
        weekly_root=weekly_root,
        kind=kind,
        price=price * PRICE_SCALE,
        volatility=volatility,
        correlation=np.select([kind == VIX, index, daily], [-0.85, 0.999, 0.97], 0.55),
        spread=np.r_[np.where(kind == WEEKLY, 0.022, 0.012)[: len(named)],
                     np.minimum(0.03 * (rank / 40) ** 0.3, 0.12)],
        tick_low=np.where(index | ~fine, 500.0, 100.0),
        tick_high=np.where(daily, 100.0, np.where(index | ~fine, 1000.0, 500.0)),
        popularity=popularity,
        stock_popularity=popularity[~index[popularity]],
    )  # fmt: skip


@lru_cache(maxsize=1)
def slot_table() -> npt.NDArray[np.uint8]:
    """Return the expiry slot by (kind, a uniform draw of 0 … 65,535), flattened."""
    rows = []
    for kind in KINDS:
        shares = np.cumsum(_SLOT_WEIGHTS[kind]) / np.sum(_SLOT_WEIGHTS[kind])
        rows.append(np.searchsorted(shares, (np.arange(65_536) + 0.5) / 65_536))
    return np.concatenate(rows).astype(np.uint8)


def third_friday(year: int, month: int) -> date:
    """Return the monthly expiry of equity options."""
    first = date(year, month, 1)
    return first + timedelta(days=(4 - first.weekday()) % 7 + 14)


def _months(day: date, count: int) -> list[tuple[int, int]]:
    return [
        (day.year + (day.month - 1 + ahead) // 12, (day.month - 1 + ahead) % 12 + 1) for ahead in range(count)
    ]


def _weekdays(start: date, weekdays: tuple[int, ...], count: int) -> list[date]:
    days = (start + timedelta(days=ahead) for ahead in range(count * 7))
    return [day for day in days if day.weekday() in weekdays][:count]


def _vix_monthly(year: int, month: int) -> date:
    """Return the Wednesday thirty days before the next month's third Friday."""
    return third_friday(year + month // 12, month % 12 + 1) - timedelta(days=30)


def expiries(kind: str, day: date) -> list[tuple[date, bool]]:
    """Return the `SLOTS` expiries listed on a day for a kind of underlying, nearest first, and whether each is a
    monthly one. The simulation has no holidays."""
    monthly = _vix_monthly if kind == "vix" else third_friday
    months = [found for month in _months(day, 48) if (found := monthly(*month)) >= day]
    if kind == "monthly":
        near: list[date] = []
        months = months[:2] + months[2::3]
    elif kind == "weekly":
        near = _weekdays(day, (4,), 6)
    elif kind == "vix":
        near = [found for found in _weekdays(day, (2,), 4) if found not in months][:3]
    else:
        near = _weekdays(day, (0, 1, 2, 3, 4), 8)
        near += _weekdays(near[-1] + timedelta(days=1), (4,), 3)
    known = set(months)
    far = [found for found in months if found not in near]
    return [(found, found in known) for found in (near + far)[:SLOTS]]


def chains(listed: Underlyings, day: date, spot: Floats) -> Chains:
    """Return the contracts of one day, with strikes around `spot`, the prices at its open (1/10,000 USD)."""
    table = [expiries(kind, day) for kind in KINDS]
    expiry = np.array(
        [[(found - date(1970, 1, 1)).days for found, _ in row] for row in table], dtype=np.int64
    )
    monthly = np.array([[flag for _, flag in row] for row in table])[listed.kind]
    ahead = (expiry - (day - date(1970, 1, 1)).days)[listed.kind]
    coarser = np.select([ahead > 120, ahead > 45], [5.0, 2.0], 1.0)
    middles = np.sqrt(_STEPS[1:] * _STEPS[:-1])
    step = _STEPS[np.searchsorted(middles, spot / PRICE_SCALE * 0.012)]
    for kind, own in _KIND_STEP.items():
        step = np.where(listed.kind == KINDS.index(kind), own, step)
    step = step * PRICE_SCALE
    return Chains(
        expiry=expiry,
        root=np.where(monthly, np.arange(len(spot))[:, None], listed.weekly_root[:, None]),
        step=step[:, None] * coarser,
        lowest=np.maximum(np.ceil(spot * 0.4 / step), 1) * step,
        highest=np.floor(spot * 2.0 / step + 1) * step,
    )
