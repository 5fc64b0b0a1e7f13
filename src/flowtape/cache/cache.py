"""The minute bars of the last 10,080 minutes of every symbol, in memory, for fast answers.

A copy of the store's minute bars: loaded at the start, then updated with the bars of every commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl

from flowtape.cache.filtered import Filtered
from flowtape.cache.minute_bars import Loader, MinuteBars
from flowtape.model.exact import Ints
from flowtape.model.prints import Asset
from flowtape.storage import Store
from flowtape.storage.catalog import Catalog

MINUTES = 10_080
"""Seven days."""
_DAY = 1440
_PIECE = 500
"""Symbols whose bars are read at a time."""


class Cache:
    """The minute bars of both assets. One writer, any number of readers.

    Symbols are identified by their numbers in the catalog of the store.
    """

    def __init__(self, catalog: Catalog, now_minute: int) -> None:
        self._catalog = catalog
        self.oldest = now_minute - MINUTES + 1
        self._bars = {asset: MinuteBars(self.oldest, edges=asset == "stock") for asset in Asset.categories}
        self._learned = (-1, 0)
        self._stock = np.empty(0, np.bool_)
        self.filtered = Filtered()

    def of(self, asset: str) -> MinuteBars:
        """Return the bars of an asset."""
        return self._bars[asset]

    def versions(self) -> dict[str, int]:
        """Return the version of each asset's bars."""
        return {asset: bars.version for asset, bars in self._bars.items()}

    def number(self, asset: str, symbol: str) -> int:
        """Return the number of a symbol, −1 if it is unknown."""
        found = self._catalog.symbol_id(asset, symbol)
        return -1 if found is None else found

    def version(self, asset: str, symbol: str) -> int:
        """Return a number that rises whenever a symbol's answers may change; −1 for a symbol without bars."""
        return self._bars[asset].symbol_version(self.number(asset, symbol))

    def listen(self, told: Callable[[str, frozenset[str]], None]) -> None:
        """Call `told` after each change, in the writer's thread, with the asset and the symbols that changed.

        An empty set of symbols means that any may have changed.
        """
        for asset, bars in self._bars.items():

            def of_numbers(symbols: Ints, minutes: Ints, asset: str = asset) -> None:
                # The number of a symbol is the number of its first series.
                names = self._catalog.series["symbol"].gather(np.unique(symbols).astype(np.uint32))
                told(asset, frozenset(names.cast(pl.String).to_list()))

            bars.listeners.append(of_numbers)

    def load(self, store: Store, progress: Callable[[float], None] = lambda done: None) -> None:
        """Replace all bars with those of the store. Readers see the old bars until loading is done.

        `progress` is called with the share that is done, from 0 to 1. An exception that it raises ends the loading.
        """
        loaders = {asset: Loader(edges=asset == "stock") for asset in self._bars}
        # A day and some symbols at a time, so that memory holds few bars twice.
        numbers = self._catalog.series["symbol_id"].unique().sort()
        pieces = [
            numbers[place : place + _PIECE] if len(numbers) > _PIECE else None
            for place in range(0, max(1, len(numbers)), _PIECE)
        ]
        bounds = [self.oldest, *range(self.oldest - self.oldest % _DAY + _DAY, self.oldest + MINUTES, _DAY)]
        for place, (start, end) in enumerate(zip(bounds, [*bounds[1:], 2**31 - 1], strict=True)):
            progress(place / len(bounds))
            for symbols in pieces:
                for asset, bars in self._by_asset(store.bars(symbols, start, end)):
                    loaders[asset].add(bars)
            for loader in loaders.values():
                loader.pack()
        for asset, loader in loaders.items():
            self._bars[asset].replace(loader)

    def change(
        self, added: pl.DataFrame, keys: pl.DataFrame | None = None, restated: pl.DataFrame | None = None
    ) -> None:
        """Add bars and replace all bars with `keys` by `restated`, at once for all readers."""
        parts: dict[str, list[pl.DataFrame]] = {asset: [added.clear()] for asset in self._bars}
        for asset, bars in self._by_asset(added):
            parts[asset][0] = bars
        if keys is not None and restated is not None:
            for frame in (keys, restated):
                split = dict(self._by_asset(frame))
                for asset, part in parts.items():
                    part.append(split.get(asset, frame.clear()))
        for asset, part in parts.items():
            self._bars[asset].change(*part)

    def _by_asset(self, bars: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield the rows of each asset that has rows."""
        if bars.is_empty():
            return
        self._learn()
        stock = self._stock[bars["symbol_id"].to_numpy()]
        for asset, mine in (("option", ~stock), ("stock", stock)):
            if mine.all():
                yield asset, bars
            elif mine.any():
                yield asset, bars.filter(mine)

    def _learn(self) -> None:
        """Read new symbols from the catalog."""
        # Only stored numbers: an uncommitted number may later be given to another symbol.
        series = self._catalog.offered_series
        learned = (self._catalog.epoch, series.height)
        if learned == self._learned:
            return
        numbers = series["symbol_id"].to_numpy()
        self._stock = np.zeros(numbers.max(initial=-1) + 1, np.bool_)
        self._stock[numbers] = (series["asset"] == "stock").to_numpy()
        self._learned = learned

    def advance(self, now_minute: int) -> None:
        """Move the end of the window to a later minute."""
        oldest = now_minute - MINUTES + 1
        if oldest > self.oldest:
            self._begin(oldest)

    def begin(self, now_minute: int) -> None:
        """Move the end of the window to any minute; the window is loaded next."""
        self._begin(now_minute - MINUTES + 1)

    def _begin(self, oldest: int) -> None:
        self.oldest = oldest
        for bars in self._bars.values():
            bars.begin(oldest)
