"""The prints of one slice of the simulated market: when, what, how much, at which side of which quote.

Everything is drawn from a generator seeded by the slice's number, whole columns at a time. Rows are made in
pairs: the second of a pair may be the other leg of a spread, or the next fill of a sweep, of the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import erfc, exp, pi, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape.conditions import CANCEL, CONDITIONS
from flowtape.feeds.chains import INDEX, SLOTS, VIX, Chains, Codes, Floats, Ints, Underlyings, slot_table
from flowtape.prints import CONDITION_NAMES, SCHEMA, Asset, Condition, Right, Side

SOURCE = "simulated"
SLICE_NS = 600 * 10**9
TAPE_SCHEMA = {**SCHEMA, "true_side": Side, "source": pl.Categorical}
"""`prints.SCHEMA`, the side that truly was the aggressor, and the source."""

Bools = npt.NDArray[np.bool_]
Rows = dict[str, npt.NDArray[Any]]
"""Prints as arrays of one length by column; names are places in a list, prices are in 1/10,000 USD."""

_DRAWS = 65_536
_GRID = 60
"""Stretches of a slice: every underlying has a price of its own at their ends and moves in a line between."""
_YEAR_NS = 365 * 86_400 * 10**9
_PRICES, _BRIDGE, _FLOW, _TAPE = 2, 3, 4, 5
"""Which of a seed's streams of random numbers is which."""

_MIX = {
    "AUTO": 33.0, "ISOI": 16.0, "REGULAR": 1.1, "EXHT": 0.2, "SLAN": 17.3, "SLAI": 5.5,
    "MLET": 9.4, "MLAT": 5.9, "MESL": 3.9, "MASL": 1.6, "TLET": 0.9, "TLAT": 0.7, "TESL": 0.4, "TASL": 0.2,
    "MLCT": 0.4, "TLCT": 0.05, "MLFT": 0.4, "MFSL": 0.15, "TLFT": 0.05, "TFSL": 0.03, "CBMO": 0.02,
    "MCTP": 0.02, "SLCN": 0.6, "SLCI": 0.05, "SLFT": 0.8, "LATE": 0.18, "OSEQ": 0.12,
    "CANC": 0.08, "CNCL": 0.05,
}  # fmt: skip
"""Weight of each sale condition among prints."""
_VENUES = {
    "XCBO": 13, "XPHL": 10, "ARCO": 10, "XISX": 7, "XNDQ": 6, "BATO": 7, "AMXO": 7, "MPRL": 6, "XMIO": 6,
    "EMLD": 5, "XBOX": 6, "EDGO": 4, "C2OX": 3, "GMNI": 3, "MCRY": 2, "XBXO": 2, "MXOP": 2, "SPHR": 1,
}  # fmt: skip
"""The options exchanges by ISO 10383 code, with a rough weight among prints."""


def _draws(weights: Iterable[float]) -> Ints:
    """Places by a uniform draw of 0 … 65,535, each as often as its weight says."""
    bounds = np.cumsum(list(weights))
    return np.searchsorted(bounds / bounds[-1], (np.arange(_DRAWS) + 0.5) / _DRAWS)


def _sizes() -> npt.NDArray[np.int32]:
    """Contracts by a uniform draw: P(size > x) about x**-1.05, larger ones often in round numbers."""
    exact = np.floor((1 - (np.arange(_DRAWS) + 0.5) / _DRAWS) ** (-1 / 1.05))
    unit = np.select([exact >= 500, exact >= 100, exact >= 10], [100, 25, 5], 1)
    often = np.arange(_DRAWS) % 5 < 3
    return np.minimum(np.where(often, np.rint(exact / unit) * unit, exact), 10_000).astype(np.int32)


def _quote_ages() -> Ints:
    """Nanoseconds from a quote to the print it stood before, by a uniform draw: log-normal, median 40 ms."""
    ages = np.random.default_rng(0).lognormal(np.log(4e7), 2.2, _DRAWS)
    return np.clip(ages, 1_000, 6e11).astype(np.int64)


def _moneyness() -> Floats:
    """How far out of the money a traded strike lies, in standard deviations at expiry, by a uniform draw."""
    u = (np.arange(_DRAWS) + 0.5) / _DRAWS - 0.5
    out: Floats = 0.3 - 0.55 * np.sign(u) * np.log1p(-2 * np.abs(u))
    return out


def _time_value() -> Floats:
    """An option's value beyond its intrinsic one in the normal model (Bachelier, Théorie de la spéculation,
    1900), in standard deviations at expiry, by distance from the money in 1/256 of one."""
    distances = np.arange(2048) / 256
    values = [exp(-d * d / 2) / sqrt(2 * pi) - d * erfc(d / sqrt(2)) / 2 for d in distances]
    return np.array(values, dtype=np.float64)


_CODES = {name: code for code, name in enumerate(CONDITION_NAMES)}
_FAMILY = {condition.name: condition.family for condition in CONDITIONS}
_COMPLEX = [name for name in _MIX if name[:2] in ("ML", "ME", "MA", "MF", "MC", "TL", "TE", "TA", "TF", "CB")]
_BY_PLACE = np.array([_CODES[name] for name in _MIX], dtype=np.uint8)
_FIRST = _BY_PLACE[_draws(_MIX.values())]
_SECOND = _BY_PLACE[_draws(0 if name in _COMPLEX else weight for name, weight in _MIX.items())]


def _among(names: Iterable[str]) -> Bools:
    return np.isin(np.arange(len(CONDITION_NAMES)), [_CODES[name] for name in names])


def _of_families(*families: str) -> Bools:
    return _among(name for name, family in _FAMILY.items() if family in families)


_IS_COMPLEX, _IS_ELECTRONIC = _among(_COMPLEX), _among(("AUTO", "ISOI", "SLAN", "SLAI"))
_IS_LATE, _IS_CANCEL = _of_families("late"), _of_families(CANCEL)
_LOT = np.where(_of_families("cross", "floor", "compression"), 12, 1).astype(np.int32)
_SIZE, _QUOTE_AGE, _OUT, _VALUE = _sizes(), _quote_ages(), _moneyness(), _time_value()
_VENUE = _draws(_VENUES.values()).astype(np.uint8)
_INDEX_VENUE = list(_VENUES).index("XCBO")
_SERIES = {
    "condition": pl.Series(CONDITION_NAMES, dtype=Condition),
    "venue": pl.Series(list(_VENUES), dtype=pl.Categorical),
    "right": pl.Series(["C", "P"], dtype=Right),
    "true_side": pl.Series(["sell", "buy"], dtype=Side),
}
_SHARED = (
    "symbol", "root", "expiry", "right", "strike", "price", "size", "bid", "ask", "bid_size", "ask_size",
    "quote_ts", "venue", "underlying", "true_side", "unquoted",
)  # fmt: skip
"""What a cancel has in common with the print it cancels."""
_QUOTE = ("bid", "ask", "bid_size", "ask_size", "quote_ts")
_TAKEN = ("ts", "condition", *_SHARED)


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
    scale = listed.volatility * 1.5 / sqrt(_YEAR_NS / SLICE_NS)
    own = np.sqrt(1 - listed.correlation**2)
    return scale * (listed.correlation * moves[..., -1:] + own * moves[..., :-1])


def prices_at(seed: int, listed: Underlyings, number: int) -> Floats:
    """Every underlying's price at the start of a slice, in 1/10,000 USD, shape (underlyings,)."""
    moves = _noise(seed, _PRICES, number, len(listed.price) + 1, range(13))
    return listed.price * np.exp(_log_moves(listed, moves))


def _price_paths(seed: int, listed: Underlyings, number: int) -> Floats:
    """Every underlying's price through a slice, shape (_GRID + 1, underlyings): a Brownian bridge between the
    prices at its two ends."""
    width = len(listed.price)
    steps = np.zeros((_GRID + 1, width + 1))
    rng = np.random.default_rng([seed, _BRIDGE, number])
    np.cumsum(rng.standard_normal((_GRID, width + 1)) / sqrt(_GRID), axis=0, out=steps[1:])
    past = np.linspace(0, 1, _GRID + 1)[:, None]
    left, right = (prices_at(seed, listed, at) for at in (number, number + 1))
    return left * np.exp(past * np.log(right / left) + _log_moves(listed, steps - past * steps[-1]))


def _buy_odds(seed: int, listed: Underlyings, number: int) -> npt.NDArray[np.uint16]:
    """Odds in 65,536 that an aggressor buys, by underlying: it drifts over twenty minutes to three hours."""
    drift = _noise(seed, _FLOW, number, len(listed.price), range(1, 5))
    return ((0.462 + 0.11 * np.tanh(drift / 3)) * _DRAWS).astype(np.uint16)


def _twin(values: npt.NDArray[Any], where: Bools) -> None:
    """Give the second row of a pair the first one's value, where `where`, of one place a pair, says so."""
    pairs = 2 * len(where)
    np.copyto(values[1:pairs:2], values[0:pairs:2], where=where)


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One slice to be made: the market's seed, what is listed, when each expiry ends (ns UTC, shape (kinds,
    slots)), the slice's number, and how many prints the day has had before it and has in it."""

    seed: int
    listed: Underlyings
    chains: Chains
    expires: Ints
    number: int
    before: int
    count: int

    def rows(self) -> Rows:
        """The slice's prints in order of report, as arrays by column; `reported` is in ns UTC."""
        rng = np.random.default_rng([self.seed, _TAPE, self.number])
        columns: Rows = {"condition": _FIRST[self._draw(rng)]}
        self._pair(rng, columns)
        self._time(rng, columns)
        self._contract(rng, columns)
        self._quote(rng, columns)
        self._trade(rng, columns)
        self._cancel(rng, columns)
        order = np.argsort(columns["reported"], kind="stable")
        rows = {name: columns[name][order] for name in ("reported", *_TAKEN)}
        return {**rows, "seq": np.arange(self.before + 1, self.before + 1 + self.count)}

    def _draw(self, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
        return rng.integers(0, _DRAWS, self.count, dtype=np.uint16)

    def _pair(self, rng: np.random.Generator, columns: Rows) -> None:
        pairs = self.count // 2
        condition = columns["condition"]
        first = condition[0 : 2 * pairs : 2]
        condition[1::2] = _SECOND[rng.integers(0, _DRAWS, pairs, dtype=np.uint16)]
        columns["spread"] = _IS_COMPLEX[first]
        columns["sweep"] = _IS_ELECTRONIC[first] & (rng.random(pairs, dtype=np.float32) < 0.4)
        columns["twin"] = columns["spread"] | columns["sweep"]
        _twin(condition, columns["twin"])

    def _time(self, rng: np.random.Generator, columns: Rows) -> None:
        passed = np.cumsum(rng.standard_exponential(self.count + 1))
        within = np.minimum((passed[:-1] * (SLICE_NS / passed[-1])).astype(np.int64), SLICE_NS - 1)
        _twin(within, columns["twin"])
        remaining = SLICE_NS - within
        delay = np.zeros(self.count, dtype=np.int64)
        slow = np.flatnonzero((self._draw(rng) < 0.02 * _DRAWS) & ~_IS_CANCEL[columns["condition"]])
        delay[slow] = rng.integers(10**6, 5 * 10**7, len(slow))
        late = np.flatnonzero(_IS_LATE[columns["condition"]])
        delay[late] = rng.standard_exponential(len(late)) * 4e10 + 1e9
        columns["within"] = within
        columns["ts"] = within + self.number * SLICE_NS
        columns["reported"] = columns["ts"] + delay % remaining

    def _contract(self, rng: np.random.Generator, columns: Rows) -> None:
        listed, twin = self.listed, columns["twin"]
        symbol = listed.popularity[rng.integers(0, len(listed.popularity), self.count, dtype=np.uint32)]
        _twin(symbol, twin)
        kind = listed.kind[symbol]
        slot = slot_table()[kind * _DRAWS + self._draw(rng)]
        put = (self._draw(rng) > 0.54 * _DRAWS).view(np.uint8)
        out = _OUT[self._draw(rng)]
        _twin(slot, twin)
        _twin(put, twin)
        _twin(out, columns["sweep"])
        columns["kind"], columns["symbol"], columns["right"] = kind, symbol, put
        series = symbol * SLOTS + slot
        columns["expiry"] = self.chains.expiry.ravel().astype(np.int32)[kind * SLOTS + slot]
        columns["root"] = self.chains.root.ravel()[series]
        columns["underlying"] = self._underlying(symbol, columns["within"])
        columns["sign"] = 1.0 - 2.0 * put
        columns["deviation"] = columns["underlying"] * self._deviations().ravel()[series]
        step = self.chains.step.ravel()[series]
        aim = columns["underlying"] + columns["sign"] * out * columns["deviation"]
        lowest, highest = self.chains.lowest[symbol], self.chains.highest[symbol]
        columns["strike"] = np.clip(np.rint(aim / step) * step, lowest, highest)

    def _underlying(self, symbol: Codes, within: Ints) -> Floats:
        paths = _price_paths(self.seed, self.listed, self.number)
        place, past = np.divmod(within * (_GRID / SLICE_NS), 1.0)
        start = place.astype(np.int64) * paths.shape[1] + symbol
        left = paths.ravel()[start]
        # To the half cent: the mid of a quote in cents.
        mid: Floats = np.rint((left + past * (paths.ravel()[start + paths.shape[1]] - left)) / 50) * 50
        return mid

    def _deviations(self) -> Floats:
        """Standard deviation of each underlying's move until each expiry, as a share of its price."""
        middle = self.number * SLICE_NS + SLICE_NS // 2
        years = np.maximum(self.expires - middle, SLICE_NS) / _YEAR_NS
        return self.listed.volatility[:, None] * np.sqrt(years)[self.listed.kind]

    def _quote(self, rng: np.random.Generator, columns: Rows) -> None:
        listed, symbol, deviation = self.listed, columns["symbol"], columns["deviation"]
        away = columns["underlying"] - columns["strike"]
        place = np.minimum(np.abs(away) * (256 / deviation), len(_VALUE) - 1).astype(np.int32)
        value = np.maximum(columns["sign"] * away, 0.0) + deviation * _VALUE[place]
        tick = np.where(value < 30_000, listed.tick_low[symbol], listed.tick_high[symbol])
        ticks = value / tick
        wobble = 0.5 + rng.random(self.count, dtype=np.float32)
        _twin(wobble, columns["sweep"])
        width = np.maximum(np.rint(ticks * listed.spread[symbol] * wobble), 1.0)
        bid = np.maximum(np.rint(ticks - 0.5 * width), 0.0)
        columns["tick"] = tick
        columns["bid"] = (bid * tick).astype(np.int64)
        columns["ask"] = ((bid + width) * tick).astype(np.int64)
        columns["bid_size"], columns["ask_size"] = (_SIZE[self._draw(rng)] * 5 for _ in range(2))
        columns["quote_ts"] = columns["ts"] - _QUOTE_AGE[self._draw(rng)]

    def _trade(self, rng: np.random.Generator, columns: Rows) -> None:
        bid, ask = columns["bid"], columns["ask"]
        buy = self._draw(rng) < _buy_odds(self.seed, self.listed, self.number)[columns["symbol"]]
        where = self._draw(rng)
        _twin(buy, columns["sweep"])
        _twin(where, columns["sweep"])
        # An option without a bid can only be bought.
        buy |= bid == 0
        at_ask = buy ^ ((where > 0.98 * _DRAWS) & (bid > 0))
        price = np.where(at_ask, ask, bid)
        cents = (ask - bid) // 100
        inside = np.flatnonzero((where < 0.165 * _DRAWS) & (cents > 1))
        wide = cents[inside]
        place = 1 + (rng.random(len(inside)) * (wide - 1)).astype(np.int64)
        at_mid = (wide % 2 == 0) & (where[inside] < 0.07 * _DRAWS)
        price[inside] = bid[inside] + 100 * np.where(at_mid, wide // 2, place)
        size = np.minimum(_SIZE[self._draw(rng)] * _LOT[columns["condition"]], 20_000)
        _twin(size, columns["spread"])
        venue = _VENUE[self._draw(rng)]
        venue[(columns["kind"] == INDEX) | (columns["kind"] == VIX)] = _INDEX_VENUE
        columns["price"], columns["size"], columns["venue"] = price, size, venue
        columns["true_side"] = buy.view(np.uint8)
        self._disturb(self._draw(rng), at_ask, columns)

    def _disturb(self, odds: npt.NDArray[np.uint16], at_ask: Bools, columns: Rows) -> None:
        """A few prints through the quote, and a few quotes crossed, locked or missing."""
        through = np.flatnonzero(odds < 0.003 * _DRAWS)
        move = np.where(at_ask[through], columns["tick"][through], -columns["tick"][through])
        columns["price"][through] = np.maximum(columns["price"][through] + move, 100)
        crossed = np.flatnonzero(odds > 0.998 * _DRAWS)
        columns["bid"][crossed], columns["ask"][crossed] = columns["ask"][crossed], columns["bid"][crossed]
        locked = np.flatnonzero((odds > 0.5 * _DRAWS) & (odds < 0.501 * _DRAWS))
        columns["bid"][locked] = columns["ask"][locked]
        columns["unquoted"] = (odds > 0.6 * _DRAWS) & (odds < 0.602 * _DRAWS)

    def _cancel(self, rng: np.random.Generator, columns: Rows) -> None:
        """Make each cancel the double of an earlier print; one for which none is found is a print itself."""
        condition = columns["condition"]
        rows = np.flatnonzero(_IS_CANCEL[condition])
        cancels, targets = cancelled(rng, rows, columns["reported"])
        condition[rows] = np.where(np.isin(rows, cancels), condition[rows], _CODES["AUTO"])
        for name in _SHARED:
            columns[name][cancels] = columns[name][targets]


def cancelled(rng: np.random.Generator, rows: Ints, reported: Ints) -> tuple[Ints, Ints]:
    """Which of the rows that are to be cancels find a print to cancel, and the print's row: one reported
    earlier, no cancel itself, and cancelled by no other."""
    targets = (rng.random(len(rows)) * rows).astype(np.int64)
    found = ~np.isin(targets, rows) & (reported[targets] < reported[rows])
    first = np.zeros(len(rows), dtype=np.bool_)
    first[np.unique(targets, return_index=True)[1]] = True
    found &= first
    return rows[found], targets[found]


def between(rows: Rows, start: int, end: int) -> Rows:
    """Those of the rows that were reported in [start, end), ns UTC."""
    low, high = np.searchsorted(rows["reported"], (start, end))
    return {name: values[low:high] for name, values in rows.items()}


def frame(listed: Underlyings, pieces: Sequence[Rows]) -> pl.DataFrame:
    """Rows of one or more slices as one frame of `TAPE_SCHEMA`."""
    if not pieces:
        return pl.DataFrame(schema=TAPE_SCHEMA)
    rows = {name: np.concatenate([piece[name] for piece in pieces]) for name in (*_TAKEN, "seq")}
    series = {**_SERIES, "symbol": listed.names, "root": listed.roots}
    named = [pl.lit(names).gather(pl.col(name)).alias(name) for name, names in series.items()]
    quoted = pl.when(~pl.col("unquoted")).then(pl.col(_QUOTE))
    constant = {"asset": pl.lit("option", Asset), "source": pl.lit(SOURCE, pl.Categorical)}
    tape = pl.DataFrame(rows).lazy().with_columns(*named, quoted, **constant)
    return tape.select(pl.col(name).cast(dtype) for name, dtype in TAPE_SCHEMA.items()).collect()
