"""The path of a batch of prints into the store and the cache.

A batch is prepared, committed in one transaction, then published to the cache. No reader sees a print that is not
committed.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta

import polars as pl

from flowtape.cache.cache import Cache
from flowtape.model.conditions import is_cancel
from flowtape.model.prints import SCHEMA as PRINTS
from flowtape.model.prints import check, conform, trading_days
from flowtape.orderflow.classify import in_force
from flowtape.orderflow.identity import PRECEDENCE, better, current, unique
from flowtape.orderflow.minute_bars import NS_PER_MINUTE
from flowtape.pipeline.batch import Change, Prepared, bar_keys, bars_of
from flowtape.pipeline.cancellation import Cancels
from flowtape.pipeline.classification import Classifications, classified
from flowtape.pipeline.corrections import Corrections
from flowtape.pipeline.provenance import DaySources
from flowtape.pipeline.rebuild import rebuild_day
from flowtape.pipeline.recent import RecentRows
from flowtape.pipeline.report import Progress, Report
from flowtape.readers import Tape
from flowtape.readers.ahead import ahead
from flowtape.storage import Point, Store
from flowtape.storage.catalog import BAR_KEY, clustered

COMPACT_MINUTES = 10


class Ingestor:
    """Ingests prints into a store and a cache. All methods may be called from any thread."""

    def __init__(
        self, store: Store, window: Cache | None = None, max_quote_age: timedelta | None = None
    ) -> None:
        self.store = store
        self.window = window
        self.max_quote_age = max_quote_age
        self.generation = 0
        self.classifications = Classifications(store, max_quote_age)
        self._lock = threading.RLock()
        self._sources = DaySources(store)
        self._corrections = Corrections(store)
        self._cancels = Cancels(store)
        self._recent = RecentRows(store)
        self._position = Point({})
        self._compacted: int | None = None
        self._newest = 0

    def simulated(self, asset: str, symbol: str) -> bool:
        """Return whether any of a symbol's days comes from a simulated tape."""
        return self._sources.simulated(asset, symbol)

    def simulated_any(self, asset: str) -> bool:
        """Return whether any symbol of an asset has a day from a simulated tape."""
        return self._sources.simulated_any(asset)

    def ingest(
        self,
        tape: Tape,
        replace: bool = False,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
    ) -> Report:
        """Ingest a tape batch by batch, one transaction each.

        With `stop` set, it ends after the current batch. Raises `TapeError` if the file breaks off, `StoreError` if
        a commit fails. The batches before the error are stored, and the tape may be ingested again.
        """
        report = Report(tape.source)
        # The next batch is read and classified while this one is committed.
        for batch, prepared in ahead((batch, self._prepare(batch.prints)) for batch in tape.batches):
            if stop is not None and stop.is_set():
                break
            self._take(prepared, tape.source, report, replace=replace)
            report.rows += batch.rows - batch.prints.height
            report.rejected = tape.rejects.count
            if progress is not None:
                progress(report, batch.done)
        report.rejected = tape.rejects.count
        report.official += tape.official
        report.corrections += tape.corrections.total()
        report.notes.update(tape.corrections)
        report.notes.update(tape.notes)
        return report

    def take(
        self,
        prints: pl.DataFrame,
        source: str,
        *,
        replace: bool = False,
        cursors: Mapping[str, str] | None = None,
        standing: Mapping[str, pl.DataFrame] | None = None,
    ) -> Report:
        """Commit one batch of prints, then publish it to the cache.

        Args:
            prints: with the columns of `prints.SCHEMA`, in any order; may be empty.
            source: the source under which the prints are stored.
            replace: whether the batch replaces the days of another source.
            cursors: by feed, the cursor that is stored with the batch.
            standing: by feed, the prevailing quotes that are stored with its cursor.

        Raises `StoreError` if the store refuses. Then nothing of the batch is stored or published.
        """
        report = Report(source)
        empty = isinstance(prints, pl.DataFrame) and prints.is_empty()
        prepared = None if empty else self._prepare(prints)
        if prepared is not None or cursors:
            self._take(prepared, source, report, replace=replace, cursors=cursors, standing=standing)
        return report

    def _take(
        self,
        batch: Prepared | None,
        source: str,
        report: Report,
        *,
        replace: bool = False,
        cursors: Mapping[str, str] | None = None,
        standing: Mapping[str, pl.DataFrame] | None = None,
    ) -> None:
        with self._lock:
            with self._transaction():
                change = None
                if batch is not None:
                    change = self._keep(self._fitting(batch), source, replace, report)
                if cursors:
                    self._keep_cursors(cursors, standing or {})
            self.generation += 1
            if batch is not None and change is not None:
                _count(batch, report)
                self._publish(change)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit all writes within, or none. After a failure no memory of uncommitted rows remains."""
        try:
            with self.store.transaction():
                yield
        except BaseException:
            for memory in (
                self._recent,
                self._cancels,
                self.classifications,
                self._corrections,
                self._sources,
            ):
                memory.forget()
            raise

    def _prepare(self, prints: pl.DataFrame) -> Prepared:
        """Return a batch with everything that is known without the store."""
        if isinstance(prints, pl.DataFrame) and prints.schema == PRINTS:
            check(prints)
        else:
            prints = conform(prints)
        uncorrected = current(prints)
        fresh = unique(uncorrected)
        fresh = classified(fresh, self.max_quote_age)
        epoch, rows = self.store.catalog.encode(fresh)
        fresh = fresh.with_columns(rows["series"], rows["symbol_id"])
        counted = ~is_cancel()
        unquoted = counted & ~in_force(fresh, None).fill_null(value=False)
        many = fresh.select(counted.sum().alias("counted"), unquoted.sum().alias("unquoted")).row(0)
        return Prepared(
            fresh,
            rows,
            counted=many[0],
            unquoted=many[1],
            given=prints.height,
            epoch=epoch,
            duplicates=uncorrected.height - fresh.height,
            corrected=prints.height - uncorrected.height,
        )

    def _fitting(self, batch: Prepared) -> Prepared:
        """Return the batch with valid catalog numbers; a failed commit may have invalidated those it was prepared
        with."""
        if batch.epoch == self.store.catalog.epoch:
            return batch
        epoch, rows = self.store.catalog.encode(batch.prints)
        prints = batch.prints.with_columns(rows["series"], rows["symbol_id"])
        return dataclasses.replace(batch, prints=prints, rows=rows, epoch=epoch)

    def _keep(self, batch: Prepared, source: str, replace: bool, report: Report) -> Change:
        """Write a batch in the open transaction; return its changes to the minute bars."""
        days = trading_days(batch.prints["ts"])
        held, dropped = self._sources.assign(batch.rows["series"], days, source, replace, report.refusals)
        if dropped:
            self._cancels.forget()
            self._corrections.forget()
        if held is not None:
            report.refused += int(held.sum())
            batch, days = batch.only(~held), days.filter(~held)
        corrected = self._corrections.apply(batch, days.unique())
        if corrected.dropped is not None:
            report.corrections += int(corrected.dropped.sum())
            batch = batch.only(~corrected.dropped)
            days = days.filter(~corrected.dropped)
        gone = self.store.catalog.decode(corrected.gone)
        amended = bar_keys(gone.filter(pl.col("removed_at").is_null(), ~is_cancel()))
        known = self._recent.known(batch.rows)
        of_days = days
        if known.height:
            amended = pl.concat([amended, self._amend(batch, known, report)])
            new = ~pl.int_range(batch.rows.height, dtype=pl.UInt32, eager=True).is_in(known["row"].implode())
            batch, days = batch.only(new), days.filter(new)
        report.added += batch.rows.height - corrected.replacing
        report.corrections += corrected.replacing
        self.store.append_prints(clustered(batch.rows))
        self._recent.add(batch.rows)
        # Without a cache a store that makes its bars of the prints needs none.
        bars = bars_of(batch.prints if self.window is not None or self.store.shared else batch.prints.head(0))
        self.store.append_bars(bars)
        self.classifications.add(of_days)
        cancels = batch.prints.select(is_cancel()).to_series()
        report.cancels += int(cancels.sum())
        if bars.height:
            self._newest = max(self._newest, bars.select(pl.col("minute").max()).item())
        report.volumes = batch.volumes()
        change = Change(bars, dropped=dropped)
        rows = pl.concat([batch.rows, corrected.gone.select(batch.rows.columns)])
        days = pl.concat([days, trading_days(gone["ts"])])
        cancels = pl.concat([cancels, pl.repeat(False, gone.height, eager=True).alias(cancels.name)])
        cancelled = self._cancels.match(rows, days, cancels, report)
        self._restate(pl.concat([amended, *cancelled]).unique(), change)
        return change

    def _amend(self, batch: Prepared, known: pl.DataFrame, report: Report) -> pl.DataFrame:
        """Return the keys of the bars that change where rows of the batch are stored already.

        Of two rows with one key, the one with the better quote is stored (`identity.PRECEDENCE`), whichever arrived
        first.
        """
        mine = batch.rows.select(pl.col(PRECEDENCE).name.prefix("new_"))[known["row"]]
        greater = mine.hstack(known.select(PRECEDENCE)).select(better("new_", "")).to_series()
        replacing = known["row"].filter(greater)
        report.replaced_quotes += len(replacing)
        report.duplicates += known.height - len(replacing)
        if replacing.is_empty():
            return bar_keys(batch.prints.head(0))
        kept = known.filter(greater).select("print_id", "removed_at")
        self.store.replace_prints(batch.rows[replacing].hstack(kept))
        return bar_keys(batch.prints[replacing].filter(~is_cancel()))

    def _restate(self, keys: pl.DataFrame, change: Change) -> None:
        """Make the bars with some keys again from their counted prints."""
        # Without a cache, and in a store that derives bars from prints, there are no bars to restate.
        if keys.is_empty() or (self.window is None and not self.store.shared):
            return
        low, high = keys.select(pl.col("minute").min(), high=pl.col("minute").max()).row(0)
        minutes = keys.select("symbol_id", "minute").unique()
        affected = self.store.prints_of(minutes, low * NS_PER_MINUTE, (high + 1) * NS_PER_MINUTE)
        bars = bars_of(self.store.catalog.decode(affected)).join(keys, on=BAR_KEY, how="semi")
        self.store.replace_bars(keys, bars)
        change.keys, change.restated = keys, bars

    def _keep_cursors(self, cursors: Mapping[str, str], standing: Mapping[str, pl.DataFrame]) -> None:
        for feed, cursor in cursors.items():
            self.store.set_cursor(feed, cursor)
        for feed, quotes in standing.items():
            self.store.set_standing(feed, quotes)
        self._compact()

    def _compact(self) -> None:
        """Merge the bars of closed minutes from time to time, since a live feed adds bars to one minute with each
        commit."""
        if self._compacted is None:
            self._compacted = self._newest
        elif self._newest - self._compacted > COMPACT_MINUTES:
            self.store.compact(self._compacted, self._newest)
            self._compacted = self._newest

    def _publish(self, change: Change) -> None:
        """Publish the changes of a commit to the cache."""
        if self.window is None:
            return
        if change.dropped:
            self._load()
            return
        self.window.change(change.bars, change.keys, change.restated)

    def load(self, progress: Callable[[float], None] = lambda done: None) -> None:
        """Replace the cache with the bars of the store. Raises `StoreError`.

        `progress` is called with the share that is done, from 0 to 1. An exception that it raises ends the loading.
        """
        with self._lock:
            self._load(progress)

    def _load(self, progress: Callable[[float], None] = lambda done: None) -> None:
        if self.window is not None:
            with self.store.snapshot():
                self._position = self.store.point()
                self.window.load(self.store, progress)

    def follow(self) -> None:
        """Publish commits of other processes to the cache. Raises `StoreError`."""
        with self._lock:
            if self.window is None:
                return
            changes = self.store.changes(self._position, self.window.oldest)
            if changes.point == self._position:
                return
            self._sources.refresh()
            if changes.whole:
                self.classifications.forget()
                self._load()
            else:
                self.window.change(changes.added, changes.keys, changes.restated)
                self._position = changes.point
            self.generation += 1

    def reload(self, now_minute: int) -> None:
        """Load the cache again, ending at `now_minute`, after the clock was set back."""
        with self._lock:
            if self.window is not None:
                self.window.begin(now_minute)
                self._load()

    def rebuild_outdated(self) -> dict[date, int]:
        """Rebuild every day that was classified under other settings; return the number of bars of each."""
        return {day: self.rebuild(day) for day in self.classifications.look()}

    def rebuild(self, day: date) -> int:
        """Classify a day's prints again and rebuild its minute bars, in one commit and bounded memory.

        Returns the number of bars. Raises `StoreError`.
        """
        with self._lock:
            with self._transaction():
                made = rebuild_day(self.store, day, self.max_quote_age)
                self.classifications.replace(day)
            outdated = self.classifications.outdated
            self.classifications.outdated = [other for other in outdated if other != day]
            self.generation += 1
            self._load()
        return made


def _count(batch: Prepared, report: Report) -> None:
    report.rows += batch.given
    report.counted += batch.counted
    report.unquoted += batch.unquoted
    report.duplicates += batch.duplicates
    report.corrections += batch.corrected
