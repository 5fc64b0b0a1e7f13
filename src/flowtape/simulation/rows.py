"""A slice's prints as columns, and the code that its options and stocks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape.model.conditions import CANCEL, CONDITIONS, price_flags
from flowtape.model.prints import (
    CONDITION_NAMES,
    SCHEMA,
    SIZE_SCALE,
    SIZES,
    Asset,
    Condition,
    Right,
    Side,
    arranged,
)
from flowtape.simulation.chains import Ints, Underlyings

if TYPE_CHECKING:
    from flowtape.simulation.injected import Effect

SOURCE = "simulated"
"""The source of simulated prints."""
SLICE_NS = 600 * 10**9
TAPE_SCHEMA = {**SCHEMA, "true_side": Side, "source": pl.Categorical}
"""`prints.SCHEMA`, the true aggressor side, and the source."""

Bools = npt.NDArray[np.bool_]
Rows = dict[str, npt.NDArray[Any]]
"""Prints as arrays of one length, by column. Names are indices into a list, prices are in 1/10,000 USD, sizes in
contracts or shares. Both assets have the same columns; a stock's expiry, right, strike and underlying are undefined."""

DRAWS = 65_536
"""The number of values of a uniform draw."""
OPTION, STOCK = range(2)
"""The index of an asset in `Asset`."""
OPTION_VENUES = {
    "XCBO": 13, "XPHL": 10, "ARCO": 10, "XISX": 7, "XNDQ": 6, "BATO": 7, "AMXO": 7, "MPRL": 6, "XMIO": 6,
    "EMLD": 5, "XBOX": 6, "EDGO": 4, "C2OX": 3, "GMNI": 3, "MCRY": 2, "XBXO": 2, "MXOP": 2, "SPHR": 1,
}  # fmt: skip
"""The options exchanges by ISO 10383 code, with a rough weight among prints."""
STOCK_VENUES = {
    "FINN": 40, "FINY": 4, "FINC": 1, "XNAS": 14, "ARCX": 9, "XNYS": 8, "EDGX": 6, "BATS": 5, "IEXG": 3,
    "MEMX": 3, "EPRL": 2.5, "EDGA": 1.2, "BATY": 1, "XPSX": 0.7, "XBOS": 0.6, "XCIS": 0.5, "XASE": 0.4,
    "XCHI": 0.3, "LTSE": 0.1,
}  # fmt: skip
"""The stock exchanges likewise, after FINRA's trade reporting facilities."""
VENUES = [*OPTION_VENUES, *STOCK_VENUES]

CODES = {name: code for code, name in enumerate(CONDITION_NAMES)}
_FAMILY = {condition.name: condition.family for condition in CONDITIONS}
_SERIES = {
    "asset": pl.Series(Asset.categories, dtype=Asset),
    "condition": pl.Series(CONDITION_NAMES, dtype=Condition),
    "venue": pl.Series(VENUES, dtype=pl.Categorical),
    "right": pl.Series(["C", "P"], dtype=Right),
    "true_side": pl.Series(["sell", "buy"], dtype=Side),
}
_CONTRACT = ("expiry", "right", "strike", "underlying")
"""The columns that a stock does not have."""
_QUOTE = ("bid", "ask", "bid_size", "ask_size", "quote_ts")
_SHARED = ("symbol", "root", "price", "size", *_CONTRACT, *_QUOTE, "venue", "true_side", "unquoted")
"""The columns in which a cancel agrees with its print."""
_TAKEN = ("ts", "condition", *_SHARED)


def size_unit() -> pl.Expr:
    """Return `SIZE_SCALE` of each row's `asset`."""
    stock = pl.col("asset").cast(pl.String) == "stock"
    return pl.when(stock).then(SIZE_SCALE["stock"]).otherwise(SIZE_SCALE["option"])


def draws(weights: Iterable[float]) -> Ints:
    """Return an array that maps a uniform draw of 0 … 65,535 to indices, in proportion to their weights."""
    bounds = np.cumsum(list(weights))
    return np.searchsorted(bounds / bounds[-1], (np.arange(DRAWS) + 0.5) / DRAWS)


def among(names: Iterable[str]) -> Bools:
    """Return, by a condition's index, whether it is one of the names."""
    return np.isin(np.arange(len(CONDITION_NAMES)), [CODES[name] for name in names])


def of_families(*families: str) -> Bools:
    """Return, by a condition's index, whether it belongs to one of the families."""
    return among(name for name, family in _FAMILY.items() if family in families)


def _quote_ages() -> Ints:
    """Return the age in ns of a print's quote by a uniform draw: log-normal, median 40 ms."""
    ages = np.random.default_rng(0).lognormal(np.log(4e7), 2.2, DRAWS)
    return np.clip(ages, 1_000, 6e11).astype(np.int64)


QUOTE_AGE = _quote_ages()
_IS_LATE, _IS_CANCEL = of_families("late"), of_families(CANCEL)


def twin(values: npt.NDArray[Any], where: Bools) -> None:
    """Copy the first row's value to the second row of each pair for which `where` is true."""
    pairs = 2 * len(where)
    np.copyto(values[1:pairs:2], values[0:pairs:2], where=where)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The prints of one asset in one slice.

    The fields are the market's seed, the listed instruments, the slice's number, the asset's number of prints earlier
    that day and in this slice, and the injected effects. The methods fill whole columns; each names the columns it
    needs.
    """

    seed: int
    listed: Underlyings
    number: int
    before: int
    count: int
    effects: tuple[Effect, ...]

    def draw(self, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
        """Return a uniform draw of 0 … 65,535 for each row."""
        return rng.integers(0, DRAWS, self.count, dtype=np.uint16)

    def time(self, rng: np.random.Generator, columns: Rows) -> None:
        """Set when each row happens and is reported, from `condition`. Both rows of a pair in `twin` happen at once."""
        passed = np.cumsum(rng.standard_exponential(self.count + 1))
        within = np.minimum((passed[:-1] * (SLICE_NS / passed[-1])).astype(np.int64), SLICE_NS - 1)
        twin(within, columns["twin"])
        remaining = SLICE_NS - within
        delay = np.zeros(self.count, dtype=np.int64)
        slow = np.flatnonzero((self.draw(rng) < 0.02 * DRAWS) & ~_IS_CANCEL[columns["condition"]])
        delay[slow] = rng.integers(10**6, 5 * 10**7, len(slow))
        late = np.flatnonzero(_IS_LATE[columns["condition"]])
        delay[late] = rng.standard_exponential(len(late)) * 4e10 + 1e9
        columns["within"] = within
        columns["ts"] = within + self.number * SLICE_NS
        columns["reported"] = columns["ts"] + delay % remaining

    def disturb(self, odds: npt.NDArray[np.uint16], at_ask: Bools, columns: Rows) -> None:
        """Make a few prints outside the quote and a few quotes crossed, locked or missing, from `price`, `tick` and the
        quote."""
        through = np.flatnonzero(odds < 0.003 * DRAWS)
        move = np.where(at_ask[through], columns["tick"][through], -columns["tick"][through])
        columns["price"][through] = np.maximum(columns["price"][through] + move, 100)
        crossed = np.flatnonzero(odds > 0.998 * DRAWS)
        columns["bid"][crossed], columns["ask"][crossed] = columns["ask"][crossed], columns["bid"][crossed]
        locked = np.flatnonzero((odds > 0.5 * DRAWS) & (odds < 0.501 * DRAWS))
        columns["bid"][locked] = columns["ask"][locked]
        columns["unquoted"] = (odds > 0.6 * DRAWS) & (odds < 0.602 * DRAWS)

    def cancel(self, rng: np.random.Generator, columns: Rows, otherwise: str) -> None:
        """Make each cancel a copy of an earlier print. If there is none, it becomes a print with the condition
        `otherwise`. Needs every column."""
        condition = columns["condition"]
        rows = np.flatnonzero(_IS_CANCEL[condition])
        cancels, targets = cancelled(rng, rows, columns["reported"])
        condition[rows] = np.where(np.isin(rows, cancels), condition[rows], CODES[otherwise])
        for name in _SHARED:
            columns[name][cancels] = columns[name][targets]

    def reported(self, columns: Rows, asset: int) -> Rows:
        """Return the columns of a tape in order of report, with sequence numbers through the day."""
        order = np.argsort(columns["reported"], kind="stable")
        rows = {name: columns[name][order] for name in ("reported", *_TAKEN)}
        rows["seq"] = np.arange(self.before + 1, self.before + 1 + self.count)
        rows["asset"] = np.full(self.count, asset, dtype=np.uint8)
        return rows


def cancelled(rng: np.random.Generator, rows: Ints, reported: Ints) -> tuple[Ints, Ints]:
    """Return the rows that become cancels, and the row that each cancels: one reported earlier that is not a cancel and
    has no other cancel."""
    targets = (rng.random(len(rows)) * rows).astype(np.int64)
    found = ~np.isin(targets, rows) & (reported[targets] < reported[rows])
    first = np.zeros(len(rows), dtype=np.bool_)
    first[np.unique(targets, return_index=True)[1]] = True
    found &= first
    return rows[found], targets[found]


def between(rows: Rows, start: int, end: int) -> Rows:
    """Return the rows that were reported in [start, end), ns UTC."""
    low, high = np.searchsorted(rows["reported"], (start, end))
    return {name: values[low:high] for name, values in rows.items()}


def merged(parts: Sequence[Rows]) -> Rows:
    """Return the rows of a slice's parts in order of report. At equal times, the first part's come first."""
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate([part["reported"] for part in parts]), kind="stable")
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def frame(listed: Underlyings, pieces: Sequence[Rows]) -> pl.DataFrame:
    """Return rows of one or more slices as one frame of `TAPE_SCHEMA`."""
    if not pieces:
        return pl.DataFrame(schema=TAPE_SCHEMA)
    rows = {name: np.concatenate([piece[name] for piece in pieces]) for name in (*_TAKEN, "seq", "asset")}
    series = {**_SERIES, "symbol": listed.names, "root": listed.roots}
    named = [pl.lit(names).gather(pl.col(name)).alias(name) for name, names in series.items()]
    contract = pl.when(pl.col("asset") == OPTION).then(pl.col(_CONTRACT))
    quoted = pl.when(~pl.col("unquoted")).then(pl.col(_QUOTE))
    tape = pl.DataFrame(rows).lazy().with_columns(contract, quoted)
    sizes = pl.col(SIZES).cast(pl.Int64) * size_unit()
    made = tape.with_columns(*named).with_columns(price_flags(), sizes).collect()
    extra = made.select("true_side", source=pl.lit(SOURCE, pl.Categorical))
    return arranged(made).hstack(extra)
