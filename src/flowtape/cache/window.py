"""The last 10,080 minutes of every symbol, in memory, for the answers that must be fast.

A copy of the store's bars: loaded at start, then fed the same bars that are committed. One book a symbol, its bars as
columns of integers; readers take a book's columns and count in one step and never wait for the writer. Beside the books
stands one board an asset, of all symbols' minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape.cache.cross_section import FIELDS as BOARD_FIELDS
from flowtape.cache.cross_section import Bars, Board, BoardTotals
from flowtape.model.prints import Asset
from flowtape.model.query import EVERYTHING, Filter
from flowtape.orderflow.minute_bars import EDGES, FIELDS, VALUES, combined
from flowtape.storage import Store
from flowtape.storage.catalog import BAR_KEY, RIGHTS, Catalog

MINUTES = 10_080
"""Seven days."""
_PARTS = 7
COLUMNS = (*BAR_KEY, *FIELDS)
_AT = {name: place for place, name in enumerate(COLUMNS)}
_WIDTH = {"option": len(COLUMNS) - len(EDGES), "stock": len(COLUMNS)}
"""Columns of a book: options have no edges."""

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


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
            grown = np.empty((len(columns), total + total // 2 + 64), np.int64)
            grown[:, :count] = columns[:, :count]
            columns = grown
        columns[:, count:total] = bars
        self._bars = (columns, total)
        self.version += 1

    def change(self, added: Ints, keys: Ints, bars: Ints) -> None:
        """Add bars and put `bars` in the place of all with `keys` (`BAR_KEY` by row), those just added among them, in
        one step."""
        mine = np.concatenate((self.bars(), added), axis=1)
        kept = mine[:, ~np.isin(_key(mine), _key(keys))]
        columns = np.concatenate((kept, bars), axis=1)
        self._bars = (columns, columns.shape[1])
        self._merged = columns.shape[1]
        self.version += 1


class Totals(NamedTuple):
    """A symbol's minutes: `minute` rises; `values` has one array for each name of `minutes.FIELDS` that was asked for,
    all of one length and in the units of bars. `as_of` is the newest print's time in ns, None without one."""

    minute: Ints
    values: dict[str, Ints]
    as_of: int | None


class _Parts(NamedTuple):
    """Bars by owner: the block's columns from `bounds[i]` to `bounds[i + 1]` are those of `owners[i]`."""

    block: Ints
    owners: list[int]
    bounds: Ints

    def of(self) -> dict[int, Ints]:
        """The columns of each owner."""
        return {
            owner: self.block[:, self.bounds[place] : self.bounds[place + 1]]
            for place, owner in enumerate(self.owners)
        }


class Window:
    """All books and boards."""

    def __init__(self, catalog: Catalog, now_minute: int) -> None:
        self._catalog = catalog
        self._books: dict[tuple[str, str], Book] = {}
        self._boards = {asset: Board() for asset in Asset.categories}
        self._owners: list[tuple[str, str]] = []
        self._ranked: dict[str, list[tuple[int, str]]] = {asset: [] for asset in Asset.categories}
        self._owner_of = np.empty(0, np.int64)
        self.oldest = now_minute - MINUTES + 1

    def load(self, store: Store, progress: Callable[[float], None] = lambda done: None) -> None:
        """Take the store's bars in the place of all that is here; readers see what was here until it is done.

        `progress` is called with the share that is done, from 0 to 1; what it raises ends the loading.
        """
        fresh = Window(self._catalog, self.oldest + MINUTES - 1)
        fresh._boards = {asset: Board(board.version) for asset, board in self._boards.items()}
        # Day by day, so that memory holds one day twice and not the week.
        parts = [self.oldest + MINUTES * place // _PARTS for place in range(_PARTS)]
        for place, (start, end) in enumerate(zip(parts, [*parts[1:], 2**31 - 1], strict=True)):
            progress(place / _PARTS)
            fresh.change(store.bars(None, start, end))
        for owner, book in self._books.items():
            made = fresh._books.setdefault(owner, Book(np.empty((_WIDTH[owner[0]], 0), np.int64)))
            made.version = book.version + 1
        for board in fresh._boards.values():
            board.version += 1
        self._books, self._boards, self._ranked = fresh._books, fresh._boards, fresh._ranked
        self._owners, self._owner_of = fresh._owners, fresh._owner_of

    def advance(self, now_minute: int) -> None:
        """Let the window end at a later minute."""
        self.oldest = max(self.oldest, now_minute - MINUTES + 1)

    def begin(self, now_minute: int) -> None:
        """Let the window end at any minute, earlier ones too; to be loaded next."""
        self.oldest = now_minute - MINUTES + 1

    def change(
        self, added: pl.DataFrame, keys: pl.DataFrame | None = None, restated: pl.DataFrame | None = None
    ) -> None:
        """Add bars; then, for all readers at once, put `restated` in the place of all with `keys`."""
        fresh = self._by_owner(added)
        parts = fresh.of()
        lost, made = {}, {}
        if keys is not None and restated is not None:
            lost = self._by_owner(keys.with_columns(pl.lit(0, pl.Int64).alias(name) for name in FIELDS)).of()
            made = self._by_owner(restated).of()
        for owner in parts.keys() | lost.keys():
            self._change_book(owner, parts.get(owner), lost.get(owner), made.get(owner))
        self._tell_boards(fresh, parts, lost)

    def _change_book(self, owner: int, added: Ints | None, keys: Ints | None, restated: Ints | None) -> None:
        name = self._owners[owner]
        width = _WIDTH[name[0]]
        part, fresh = (
            np.empty((width, 0), np.int64) if bars is None else bars[:width] for bars in (added, restated)
        )
        book = self._books.get(name)
        if book is None and keys is None:
            self._books[name] = Book(part)
            return
        if book is None:
            book = self._books[name] = Book(fresh[:, :0])
        if keys is None:
            book.add(part, self.oldest)
        else:
            book.change(part, keys[: len(BAR_KEY)], fresh)

    def _tell_boards(self, added: _Parts, parts: dict[int, Ints], lost: dict[int, Ints]) -> None:
        owners, counts = np.array(added.owners, np.int64), np.diff(added.bounds)
        stock = np.array([asset == "stock" for asset, _ in self._owners], np.bool_)[owners]
        plain = ~np.isin(owners, list(lost))
        for asset, board in self._boards.items():
            mine = plain & (stock == (asset == "stock"))
            which = np.repeat(mine, counts)
            block = added.block if which.all() else added.block[:, which]
            board.add(np.repeat(owners[mine], counts[mine]), *_board_columns(block), self.oldest)
        for place, keys in lost.items():
            minutes = np.unique(
                np.append(keys[2], parts[place][2] if place in parts else []).astype(np.int64)
            )
            bars = self._books[self._owners[place]].bars()
            bars = bars[:, np.isin(bars[_AT["minute"]], minutes)]
            self._boards[self._owners[place][0]].replace(place, minutes, *_board_columns(bars))

    def board(self, asset: str, start: int, end: int, which: Filter = EVERYTHING) -> BoardTotals:
        """All symbols of an asset, summed over minutes [start, end), of what passes a filter that minutes can tell.

        Boards are kept of all prints together; for another filter one is made of the symbols' bars.
        """
        owners = self._by_name(asset)
        if which == EVERYTHING:
            return self._boards[asset].totals(owners, start, end)
        return Board.of([self._passing(asset, owners, start, end, which)]).totals(owners, start, end)

    def _passing(
        self, asset: str, owners: list[tuple[int, str]], start: int, end: int, which: Filter
    ) -> Bars:
        places, blocks = [], [np.empty((_WIDTH[asset], 0), np.int64)]
        for place, symbol in owners:
            book = self._books.get((asset, symbol))
            bars = blocks[0] if book is None else book.bars()
            minute = bars[_AT["minute"]]
            blocks.append(bars[:, (minute >= start) & (minute < end)])
            places.append(place)
        owner = np.repeat(np.array(places, np.int64), [block.shape[1] for block in blocks[1:]])
        block = np.concatenate(blocks, axis=1)
        passes = passing(block, which)
        return Bars(owner[passes], *_board_columns(block[:, passes]))

    def _by_name(self, asset: str) -> list[tuple[int, str]]:
        """An asset's owners, number and symbol, in order of their symbols."""
        if sum(map(len, self._ranked.values())) != len(self._owners):
            every = sorted(enumerate(self._owners), key=itemgetter(1))
            self._ranked = {
                kind: [(place, symbol) for place, (of, symbol) in every if of == kind]
                for kind in self._boards
            }
        return self._ranked[asset]

    def version(self, asset: str, symbol: str) -> int:
        """Changes whenever the symbol's answer may; −1 for a symbol without prints."""
        book = self._books.get((asset, symbol))
        return -1 if book is None else book.version

    def board_version(self, asset: str) -> int:
        """Changes whenever any symbol's answer may."""
        return self._boards[asset].version

    def totals(
        self,
        asset: str,
        symbol: str,
        start: int,
        end: int,
        names: tuple[str, ...],
        which: Filter = EVERYTHING,
    ) -> Totals:
        """A symbol's minutes in [start, end), summed over what passes a filter that minutes can tell."""
        book = self._books.get((asset, symbol))
        if book is None:
            return Totals(np.empty(0, np.int64), {name: np.empty(0, np.int64) for name in names}, None)
        bars = book.bars()
        chosen = (bars[_AT["minute"]] >= start) & (bars[_AT["minute"]] < end)
        if which != EVERYTHING:
            bars = bars[:, chosen]
            chosen = passing(bars, which)
        return totals(bars[:, chosen], names)

    def newest(self, asset: str, symbol: str) -> int | None:
        """The time of a symbol's newest print in ns UTC, None where the window has none."""
        book = self._books.get((asset, symbol))
        bars = None if book is None else book.bars()
        return None if bars is None or not bars.shape[1] else int(bars[_AT["last_ts"]].max())

    def _by_owner(self, bars: pl.DataFrame) -> _Parts:
        """Bars as columns of integers in order of owner and minute."""
        self._learn()
        owners = self._owner_of[bars["symbol_id"].to_numpy()] if bars.height else np.empty(0, np.int64)
        if bars.height and bars["open"].null_count() == bars.height:
            bars = bars.drop(EDGES)
        # One integer sorts faster than two columns, and Polars moves the others on all cores, which at start-up
        # is most of the work.
        order = pl.Series("order", owners << 32) + bars["minute"].cast(pl.Int64)
        ordered = bars.with_columns(order.alias("order")).sort("order", maintain_order=True)
        owner = ordered["order"].to_numpy() >> 32
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        return _Parts(columns_of(ordered), owner[starts].tolist(), np.append(starts, bars.height))

    def _learn(self) -> None:
        """Follow the catalog as it grows."""
        # Only what a store was given: other numbers may yet come to mean something else.
        series = self._catalog.offered_series
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
        self._owner_of = np.concatenate((self._owner_of, np.array(numbers, np.int64)))


def passing(bars: Ints, which: Filter) -> Bools:
    """Return which bars (columns by `COLUMNS`) pass a filter of the right; any other filter goes by prints."""
    if which.right is None:
        return np.ones(bars.shape[1], np.bool_)
    passes: Bools = bars[_AT["right"]] == RIGHTS.index(which.right)
    return passes


def totals(bars: Ints, names: tuple[str, ...]) -> Totals:
    """Bars (columns by `COLUMNS`) summed by minute."""
    minute = bars[_AT["minute"]]
    if not len(minute):
        return Totals(minute, dict.fromkeys(names, minute), None)
    order = np.argsort(minute, kind="stable")
    minute = minute[order]
    starts = np.flatnonzero(np.diff(minute, prepend=minute[0] - 1))
    values = combined(lambda name: bars[_AT[name]][order], starts, names, edges=len(bars) == len(COLUMNS))
    return Totals(minute[starts], values, int(bars[_AT["last_ts"]].max()))


def _board_columns(bars: Ints) -> tuple[Ints, dict[str, Ints]]:
    return bars[_AT["minute"]], {name: bars[_AT[name]] for name in BOARD_FIELDS}


def columns_of(bars: pl.DataFrame) -> Ints:
    """Return bars by `COLUMNS` as an array of (columns, bars); without edges where the frame has none."""
    columns = COLUMNS if "open" in bars.columns else COLUMNS[: _WIDTH["option"]]
    # In one query: each costs more than what it does to a small batch.
    whole = bars.select(pl.col(name).to_physical().cast(pl.Int64).fill_null(0) for name in columns)
    return whole.to_numpy(order="fortran").T


def merged(bars: Ints, oldest: int) -> Ints:
    """The bars of minutes from `oldest` on, with one a key."""
    bars = bars[:, bars[_AT["minute"]] >= oldest]
    if not bars.shape[1]:
        return bars
    key = _key(bars)
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    made = np.empty((len(bars), len(starts)), np.int64)
    made[:3] = bars[:3, order[starts]]
    edges = len(bars) == len(COLUMNS)
    names = FIELDS if edges else VALUES
    for name, values in combined(lambda name: bars[_AT[name]][order], starts, names, edges=edges).items():
        made[_AT[name]] = values
    # In order of minute, so that later reads find them nearly sorted.
    by_minute: Ints = np.argsort(made[_AT["minute"]], kind="stable")
    return made[:, by_minute]


def _key(bars: Ints) -> Ints:
    """Return (symbol, minute, right) as one integer."""
    key: Ints = (bars[0] << 36) | (bars[2] << 4) | bars[1]
    return key
