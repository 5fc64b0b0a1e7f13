"""The source of each symbol's trading day: the first one that brought prints, unless another replaces it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import polars as pl

from flowtape.errors import FlowtapeError
from flowtape.storage import Store

SIMULATED = "simulated"
LIVE = " (live)"
"""The suffix of the source of a live feed whose rows have other keys than the same vendor's files. The files
replace the feed's rows day by day."""
Day = tuple[str, str, date]
"""Asset, symbol and trading day."""


_DAY = ("asset", "symbol", "day")
_SERIES = 2**32
"""The factor that packs a day's number and a series' number into one integer, for comparison in bulk."""
_REMEMBERED = 1_000_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """A symbol's trading day that the store has from another source."""

    asset: str
    symbol: str
    day: date
    held_by: str


class DaySources:
    """The source of each symbol's trading day in a store. Used by one thread at a time, within the transaction that
    writes the prints."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._settled: dict[str, set[int]] = {}
        self._epoch = store.catalog.epoch
        self._read()

    def _read(self) -> None:
        version = self._store.claims_version
        kept = self._store.sources().iter_rows()
        self._holders = {(asset, symbol, day): source for asset, symbol, day, source in kept}
        self._simulated = {key[:2] for key, source in self._holders.items() if source == SIMULATED}
        self._settled.clear()
        self._version = version

    def refresh(self) -> None:
        """Read the sources that other processes have stored since. Raises `StoreError`."""
        if self._store.claims_version != self._version:
            self._read()

    def simulated(self, asset: str, symbol: str) -> bool:
        """Return whether any of a symbol's days comes from a simulated tape."""
        return (asset, symbol) in self._simulated

    def simulated_any(self, asset: str) -> bool:
        """Return whether any symbol of an asset has a day from a simulated tape."""
        return any(known == asset for known, _ in self._simulated)

    def forget(self) -> None:
        """Drop the memory of uncommitted days after a failed commit."""
        self._settled.clear()
        try:
            self._read()
        except FlowtapeError:
            # The store cannot be read: read the sources again before the next batch.
            self._version = -1

    def assign(
        self, series: pl.Series, days: pl.Series, source: str, replace: bool, refusals: set[Refusal]
    ) -> tuple[pl.Series | None, set[tuple[str, str]]]:
        """Assign the trading days of some rows to `source`, where no other source has them.

        Returns a mask of the rows whose day another source has (None for none), and the (asset, symbol) pairs with
        a day that was dropped to be replaced.
        """
        self.refresh()
        keys = days.to_physical().cast(pl.Int64) * _SERIES + series
        settled = self._settled_for(source)
        open_keys = [key for key in keys.unique().to_list() if key not in settled]
        if not open_keys:
            return None, set()
        met = self._met(open_keys)
        new: list[Day] = []
        theirs: set[Day] = set()
        dropped: set[tuple[str, str]] = set()
        for day in met.select(_DAY).unique().iter_rows():
            holder = self._holders.get(day)
            if holder is not None and holder != source:
                if not replace and holder != source + LIVE:
                    asset, symbol, of = day
                    refusals.add(Refusal(asset, symbol, of, holder))
                    theirs.add(day)
                    continue
                self._store.drop_day(*day)
                self._settled.clear()
                dropped.add(day[:2])
                holder = None
            if holder is None:
                new.append(day)
        self._take(new, source)
        mine = pl.Series([day not in theirs for day in met.select(_DAY).iter_rows()], dtype=pl.Boolean)
        self._settled_for(source).update(met["key"].filter(mine))
        return (keys.is_in(met["key"].filter(~mine).implode()) if theirs else None), dropped

    def _settled_for(self, source: str) -> set[int]:
        """Return the keys of days and series that are known to belong to a source."""
        epoch = self._store.catalog.epoch
        if epoch != self._epoch or sum(map(len, self._settled.values())) > _REMEMBERED:
            self._settled.clear()
            self._epoch = epoch
        return self._settled.setdefault(source, set())

    def _met(self, keys: list[int]) -> pl.DataFrame:
        key = pl.Series("key", keys, pl.Int64)
        owners = self._store.catalog.series.select("asset", "symbol")[(key % _SERIES).cast(pl.UInt32)]
        day = (key // _SERIES).cast(pl.Int32).cast(pl.Date).alias("day")
        return pl.DataFrame([key, owners["asset"].cast(pl.String), owners["symbol"].cast(pl.String), day])

    def _take(self, days: list[Day], source: str) -> None:
        if not days:
            return
        self._holders |= dict.fromkeys(days, source)
        schema = {"asset": pl.String, "symbol": pl.String, "day": pl.Date}
        frame = pl.DataFrame(days, schema, orient="row")
        self._store.claim(frame.with_columns(pl.lit(source).alias("source")))
        if source == SIMULATED:
            self._simulated |= {day[:2] for day in days}
