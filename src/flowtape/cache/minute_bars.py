"""Minute bars of one asset in memory.

The bars are stored by (symbol, right, minute): one packed block for each UTC day, and a tail of small blocks, one
for each later change, merged as they grow. Blocks never change. A reader takes the current `View` once and needs no
lock. The one writer replaces the view. A long tail is merged into the blocks of its days on a separate thread,
while readers and the writer go on.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import polars as pl

from flowtape.cache.blocks import RESTATED, VOID, Block, Rows, block_of_frame, keys_of, whole
from flowtape.cache.columns import minute_of, run_key, run_of, symbol_minute, unique
from flowtape.cache.view import View, summed
from flowtape.model.exact import Ints
from flowtape.orderflow.minute_bars import FIELDS, SUMS, VALUES

MINUTES = 10_080
"""Seven days."""
SMALL, TAIL, LOG = 12_288, 40_960, 500_000
_DAY = 1440
_BLOCKS = 64
"""Blocks of a tail from which the writer waits for the merging thread."""

Listener = Callable[[Ints, Ints], None]
"""Called after a change with symbol numbers and minutes, arrays of one length; both empty if all may have changed."""


class MinuteBars:
    """The bars of one asset; `edges` says whether they have `minute_bars.EDGES` (stocks). One writer, any number of
    readers.

    Frames of bars have `catalog.BAR_KEY` and `minute_bars.FIELDS`.

    Args:
        oldest: the first minute that is kept.
        small: the most rows that the writer merges at a time.
        tail: rows of the tail from which they are merged into their days.
        log: the number of changed minutes that `changed_since` knows.
    """

    def __init__(
        self, oldest: int, *, edges: bool, small: int = SMALL, tail: int = TAIL, log: int = LOG
    ) -> None:
        self.version = 0
        self.listeners: list[Listener] = []
        self._small, self._most, self._most_changes = small, tail, log
        self._names = FIELDS if edges else VALUES
        self._edges = edges
        self._view = View((), (), oldest, edges=edges)
        self._swap = threading.Lock()
        # Blocks at the head of the tail that the merging thread has taken.
        self._taken = 0
        self._merging: threading.Thread | None = None
        self._versions: dict[int, int] = {}
        self._log: deque[tuple[int, Ints]] = deque()
        self._logged, self._forgotten = 0, 0

    # reading
    def view(self) -> View:
        """Return the current bars; all reads of one view agree."""
        return self._view

    @property
    def oldest(self) -> int:
        """The first minute that is kept."""
        return self._view.oldest

    def newest(self, symbol: int) -> int | None:
        """Return the time of a symbol's newest print (ns UTC), None without one."""
        return self._view.newest(symbol)

    def symbol_version(self, symbol: int) -> int:
        """Return a number that rises whenever bars of a symbol change; −1 for a symbol that never had any."""
        return self._versions.get(symbol, -1)

    def changed_since(self, symbol: int, version: int) -> Ints | None:
        """Return the minutes of a symbol that changed after a version, rising; None if the log no longer has them."""
        with self._swap:
            changes, forgotten = list(self._log), self._forgotten
        if version < forgotten:
            return None
        parts = []
        for at, pairs in reversed(changes):
            if at <= version:
                break
            low, high = np.searchsorted(pairs, run_key(np.array([symbol, symbol + 1]), 0))
            parts.append(minute_of(pairs[low:high]))
        return unique(parts)

    @property
    def rows(self) -> int:
        """Rows in memory."""
        return sum(map(len, (*self._view.bases, *self._view.tail)))

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(block.nbytes for block in (*self._view.bases, *self._view.tail))

    # writing
    def load(self, parts: Iterable[pl.DataFrame]) -> None:
        """Replace all bars by those of `parts`. Readers see the old bars until the last part is loaded."""
        loader = Loader(edges=self._edges)
        for part in parts:
            loader.add(part)
        self.replace(loader)

    def replace(self, loader: Loader) -> None:
        """Replace all bars by those that were loaded."""
        bases = loader.blocks()
        self.wait()
        symbols = unique([block.symbols for block in bases]).tolist()
        with self._swap:
            self._view = View(bases, (), self.oldest, edges=self._edges)
            self._versions |= dict.fromkeys(symbols, 0)
            self._forget()
        none = np.empty(0, np.int64)
        self._tell(none, none)
        _release()

    def _forget(self) -> None:
        """Record that any bar may have changed."""
        self.version += 1
        self._log.clear()
        self._logged, self._forgotten = 0, self.version
        self._versions = dict.fromkeys(self._versions, self.version)

    def change(
        self, added: pl.DataFrame, keys: pl.DataFrame | None = None, restated: pl.DataFrame | None = None
    ) -> None:
        """Add bars and replace the bars with `keys` by `restated`, at once for all readers.

        A key without a bar in `restated` has no print any more.
        """
        fresh = [self._block(added)] if added.height else []
        if keys is not None and restated is not None and keys.height:
            fresh.append(self._restated(keys_of(keys), self._block(restated), fresh))
        if not fresh:
            return
        with self._swap:
            tail = [*self._view.tail[self._taken :], *fresh]
        while len(tail) > 1 and len(tail[-2]) <= 2 * len(tail[-1]) and len(tail[-2]) <= self._small:
            tail[-2:] = [Rows([whole(block) for block in tail[-2:]], edges=self._edges).merged(packed=False)]
        pairs = unique([symbol_minute(block.key) for block in fresh])
        with self._swap:
            view = self._view
            self._view = View(view.bases, (*view.tail[: self._taken], *tail), view.oldest, edges=self._edges)
            # After the view: a cached answer must not be older than its version.
            self._note(pairs)
        self._merge_when_grown()
        self._tell(run_of(pairs), minute_of(pairs))

    def _block(self, bars: pl.DataFrame) -> Block:
        return block_of_frame(bars, edges=self._edges, packed=False)

    def _restated(self, keys: Ints, made: Block, fresh: Sequence[Block]) -> Block:
        """Return the corrections that change the bars with `keys` into those of `made`, on top of `fresh` blocks."""
        view, keys = self._view, unique([keys, made.key])
        before = summed((*view.bases, *view.tail, *fresh), keys, SUMS)
        place = np.searchsorted(keys, made.key)
        kind = np.full(len(keys), VOID, np.uint8)
        kind[place] = RESTATED
        columns = {}
        for name in self._names:
            columns[name] = np.zeros(len(keys), np.int64)
            columns[name][place] = made.columns[name][:]
        columns |= {name: columns[name] - before[name] for name in SUMS}
        return Block(keys, columns, kind)

    def _note(self, pairs: Ints) -> None:
        """Record which minutes of which symbols changed."""
        self.version += 1
        self._versions.update(dict.fromkeys(unique([run_of(pairs)]).tolist(), self.version))
        self._log.append((self.version, pairs))
        self._logged += len(pairs)
        while self._logged > self._most_changes:
            self._forgotten, forgotten = self._log[0][0], self._log[0][1]
            self._log.popleft()
            self._logged -= len(forgotten)

    def _tell(self, symbols: Ints, minutes: Ints) -> None:
        for listener in self.listeners:
            listener(symbols, minutes)

    def begin(self, oldest: int) -> None:
        """Move the first minute; earlier minutes have no bars until they are loaded."""
        with self._swap:
            view = self._view
            bases = tuple(block for block in view.bases if block.last >= oldest)
            self._view = View(bases, view.tail, oldest, edges=self._edges)

    # merging
    def _merge_when_grown(self) -> None:
        tail = self._view.tail
        if self._merging is not None and len(tail) > _BLOCKS:
            self.wait()
        if self._taken or sum(map(len, tail)) <= self._most:
            return
        self._taken = len(tail)
        self._merging = threading.Thread(target=self._merge, name="merge-minute-bars")
        self._merging.start()

    def wait(self) -> None:
        """Wait until no merge is running."""
        if self._merging is not None:
            self._merging.join()
            self._merging = None

    def _merge(self) -> None:
        """Merge the taken blocks of the tail into the blocks of their days."""
        try:
            self._merge_taken()
        finally:
            # After an error the writer can take the blocks again.
            self._taken = 0
            _release()

    def _merge_taken(self) -> None:
        view = self._view
        bases = {block.first // _DAY: block for block in view.bases}
        parts: dict[int, list[tuple[Block, slice | Ints]]] = {}
        for block in view.tail[: self._taken]:
            minute = minute_of(block.key)
            days = np.where(minute >= view.oldest, minute // _DAY, -1)
            for day in unique([days[days >= 0]]).tolist():
                first = [whole(bases[day])] if day in bases else []
                parts.setdefault(day, list(first)).append((block, np.flatnonzero(days == day)))
        for day, rows in parts.items():
            bases[day] = Rows(rows, edges=self._edges).merged(packed=True)
            bases[day].prepare()
        with self._swap:
            view = self._view
            kept = tuple(
                bases[day] for day in sorted(bases) if len(bases[day]) and bases[day].last >= view.oldest
            )
            self._view = View(kept, view.tail[self._taken :], view.oldest, edges=self._edges)
            self._taken = 0


def _release() -> None:
    """Return the memory of freed columns to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


class Loader:
    """Bars being loaded into memory, packed by UTC day; `edges` as for `MinuteBars`."""

    def __init__(self, *, edges: bool) -> None:
        self._edges = edges
        self._parts: dict[int, list[Block]] = {}
        self._days: dict[int, Block] = {}

    def add(self, part: pl.DataFrame) -> None:
        """Add a frame of bars."""
        day = part["minute"] // _DAY
        days = day.unique().sort().to_list()
        for one in days:
            mine = part if len(days) == 1 else part.filter(day == one)
            self._parts.setdefault(one, []).append(block_of_frame(mine, edges=self._edges, packed=True))

    def pack(self) -> None:
        """Merge the frames taken so far, day by day."""
        for day, parts in self._parts.items():
            if day in self._days:
                parts.insert(0, self._days[day])
            one = len(parts) == 1
            merged = Rows([whole(part) for part in parts], edges=self._edges)
            self._days[day] = parts[0] if one else merged.merged(packed=True)
        self._parts.clear()

    def blocks(self) -> tuple[Block, ...]:
        """Return the blocks in order of days, with the caches of answers computed."""
        self.pack()
        for block in self._days.values():
            block.prepare()
        return tuple(self._days[day] for day in sorted(self._days))
