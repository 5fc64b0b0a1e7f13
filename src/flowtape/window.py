"""The last 10,080 minutes of every symbol, in memory, for the answers that must be fast.

A copy of the store's bars: loaded at start, then fed the same bars that are committed. One book a symbol, its
bars as columns of integers; readers take a book's columns and count in one step and never wait for the writer.
"""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape.minutes import SUMS, VALUES
from flowtape.store import Store
from flowtape.store.catalog import Catalog

MINUTES = 10_080
"""Seven days."""
COLUMNS = ("series", "family", "minute", *VALUES)
_AT = {name: place for place, name in enumerate(COLUMNS)}
_REDUCE: dict[str, np.ufunc] = {
    **dict.fromkeys(SUMS, np.add),
    "high": np.maximum,
    "low": np.minimum,
    "biggest": np.maximum,
    "last_ts": np.maximum,
}

Ints = npt.NDArray[np.int64]


class Book:
    """One symbol's bars: `version` changes whenever they do."""

    __slots__ = ("_bars", "_merged", "version")

    def __init__(self, bars: Ints) -> None:
        self._bars: tuple[Ints, int] = (bars, bars.shape[1])
        self._merged = bars.shape[1]
        self.version = 0

    def bars(self) -> Ints:
        """The bars as they are now: an array of (columns, bars); the same key may stand more than once."""
        columns, count = self._bars
        return columns[:, :count]

    def add(self, bars: Ints, oldest: int) -> None:
        """Add bars; those of minutes before `oldest` are dropped whenever the book is put in order."""
        columns, count = self._bars
        total = count + bars.shape[1]
        if total > columns.shape[1]:
            if total > 2 * self._merged + 256:
                columns = merged(columns[:, :count], oldest)
                count = self._merged = columns.shape[1]
                total = count + bars.shape[1]
            grown = np.empty((len(COLUMNS), total + total // 2 + 64), np.int64)
            grown[:, :count] = columns[:, :count]
            columns = grown
        columns[:, count:total] = bars
        self._bars = (columns, total)
        self.version += 1

    def replace(self, keys: Ints, bars: Ints) -> None:
        """Put `bars` in the place of all with `keys` (series, family, minute by row)."""
        mine = self.bars()
        kept = mine[:, ~np.isin(_key(mine), _key(keys))]
        columns = np.concatenate((kept, bars), axis=1)
        self._bars = (columns, columns.shape[1])
        self._merged = columns.shape[1]
        self.version += 1


class Totals(NamedTuple):
    """A symbol's minutes: `minute` rises; `values` has one array a name asked for, all of one length."""

    minute: Ints
    values: dict[str, Ints]
    as_of: int | None


class Window:
    """All books."""

    def __init__(self, catalog: Catalog, now_minute: int) -> None:
        self._catalog = catalog
        self._books: dict[tuple[str, str], Book] = {}
        self._owners: list[tuple[str, str]] = []
        self._owner_of = np.empty(0, np.int64)
        self._expiry_of = np.empty(0, np.int64)
        self.oldest = now_minute - MINUTES + 1

    def load(self, store: Store) -> None:
        """Take the store's bars in the place of all that is here."""
        bars = store.bars(None, self.oldest, 2**31 - 1)
        versions = {owner: book.version for owner, book in self._books.items()}
        self._books = {}
        self.add(bars)
        for owner, version in versions.items():
            self._books.setdefault(owner, Book(np.empty((len(COLUMNS), 0), np.int64))).version = version + 1

    def advance(self, now_minute: int) -> None:
        """Let the window end at a later minute."""
        self.oldest = max(self.oldest, now_minute - MINUTES + 1)

    def add(self, bars: pl.DataFrame) -> None:
        """Add bars by series number."""
        block, owners, bounds = self._by_owner(bars)
        for place, owner in enumerate(owners):
            part = block[:, bounds[place] : bounds[place + 1]]
            name = self._owners[owner]
            book = self._books.get(name)
            if book is None:
                self._books[name] = Book(part)
            else:
                book.add(part, self.oldest)

    def replace(self, keys: pl.DataFrame, bars: pl.DataFrame) -> None:
        """Put `bars` in the place of all bars with `keys`."""
        padded = keys.with_columns(pl.lit(0, pl.Int64).alias(name) for name in VALUES)
        block, owners, bounds = self._by_owner(padded)
        fresh, fresh_owners, fresh_bounds = self._by_owner(bars)
        parts = {
            owner: fresh[:, fresh_bounds[place] : fresh_bounds[place + 1]]
            for place, owner in enumerate(fresh_owners)
        }
        for place, owner in enumerate(owners):
            book = self._books.get(self._owners[owner])
            if book is not None:
                none = fresh[:, :0]
                book.replace(block[:3, bounds[place] : bounds[place + 1]], parts.get(owner, none))

    def version(self, asset: str, symbol: str) -> int:
        """Changes whenever the symbol's answer may; −1 for a symbol without prints."""
        book = self._books.get((asset, symbol))
        return -1 if book is None else book.version

    def totals(
        self,
        asset: str,
        symbol: str,
        start: int,
        end: int,
        names: tuple[str, ...],
        expiry: date | None = None,
    ) -> Totals:
        """A symbol's minutes in [start, end), summed over expiries, rights and families."""
        book = self._books.get((asset, symbol))
        if book is None:
            return Totals(np.empty(0, np.int64), {name: np.empty(0, np.int64) for name in names}, None)
        bars = book.bars()
        chosen = (bars[_AT["minute"]] >= start) & (bars[_AT["minute"]] < end)
        if expiry is not None:
            chosen &= self._expiry_of[bars[_AT["series"]]] == (expiry - date(1970, 1, 1)).days
        return totals(bars[:, chosen], names)

    def _by_owner(self, bars: pl.DataFrame) -> tuple[Ints, list[int], Ints]:
        """Bars as columns of integers in order of symbol; the symbols; where each begins (and the last ends)."""
        self._learn()
        owners = self._owner_of[bars["series"].to_numpy()] if bars.height else np.empty(0, np.int64)
        # Polars moves the columns on all cores, which at start-up is most of the work.
        ordered = bars.with_columns(pl.Series("owner", owners)).sort("owner", maintain_order=True)
        block, owner = columns_of(ordered), ordered["owner"].to_numpy()
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        return block, owner[starts].tolist(), np.append(starts, bars.height)

    def _learn(self) -> None:
        """Follow the catalog as it grows."""
        # Only what is kept: a number given to a batch that failed may come to mean something else.
        series = self._catalog.series.head(self._catalog.kept_series)
        known = len(self._owner_of)
        if series.height == known:
            return
        fresh = series.slice(known)
        places = {owner: place for place, owner in enumerate(self._owners)}
        numbers = []
        for owner in zip(fresh["asset"], fresh["symbol"], strict=True):
            if owner not in places:
                places[owner] = len(self._owners)
                self._owners.append(owner)
            numbers.append(places[owner])
        days = fresh["expiry"].to_physical().cast(pl.Int64).fill_null(-1).to_numpy()
        self._expiry_of = np.concatenate((self._expiry_of, days))
        self._owner_of = np.concatenate((self._owner_of, np.array(numbers, np.int64)))


def totals(bars: Ints, names: tuple[str, ...]) -> Totals:
    """Bars (columns by `COLUMNS`) summed by minute."""
    minute = bars[_AT["minute"]]
    if not len(minute):
        return Totals(minute, dict.fromkeys(names, minute), None)
    order = np.argsort(minute, kind="stable")
    minute = minute[order]
    starts = np.flatnonzero(np.diff(minute, prepend=minute[0] - 1))
    values = {name: _REDUCE[name].reduceat(bars[_AT[name]][order], starts) for name in names}
    return Totals(minute[starts], values, int(bars[_AT["last_ts"]].max()))


def columns_of(bars: pl.DataFrame) -> Ints:
    """A frame of bars by series number as an array of (columns, bars)."""
    block = np.empty((len(COLUMNS), bars.height), np.int64)
    for place, name in enumerate(COLUMNS):
        block[place] = bars[name].to_numpy()
    return block


def merged(bars: Ints, oldest: int) -> Ints:
    """The bars of minutes from `oldest` on, with one a key."""
    bars = bars[:, bars[_AT["minute"]] >= oldest]
    if not bars.shape[1]:
        return bars
    key = _key(bars)
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    made = np.empty((len(COLUMNS), len(starts)), np.int64)
    made[:3] = bars[:3, order[starts]]
    for name in VALUES:
        made[_AT[name]] = _REDUCE[name].reduceat(bars[_AT[name]][order], starts)
    # In order of minute, so that later reads find them nearly sorted.
    by_minute: Ints = np.argsort(made[_AT["minute"]], kind="stable")
    return made[:, by_minute]


def _key(bars: Ints) -> Ints:
    """(series, family, minute) as one integer."""
    key: Ints = (bars[0] << 36) | (bars[2] << 4) | bars[1]
    return key
