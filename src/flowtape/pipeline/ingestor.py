"""The one path from prints to store and window: identity, sources, cancels, side, minutes, commit."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TypeVar

import polars as pl

from flowtape.cache.window import Window
from flowtape.model.conditions import is_cancel
from flowtape.model.prints import SCHEMA as PRINTS
from flowtape.model.prints import SIZE_SCALE, Side, check, conform, day_bounds, trading_days
from flowtape.orderflow.cancels import maybe_in, resolve
from flowtape.orderflow.classify import in_force
from flowtape.orderflow.identity import PRECEDENCE, better, current, unique
from flowtape.orderflow.minute_bars import NS_PER_MINUTE, merge
from flowtape.pipeline.ahead import ahead
from flowtape.pipeline.batch import Change, Prepared, bar_keys, bars_of
from flowtape.pipeline.classification import Classifications, classified
from flowtape.pipeline.corrections import Corrections
from flowtape.pipeline.provenance import Claims, Refusal
from flowtape.readers import Tape
from flowtape.storage import Point, Store
from flowtape.storage.catalog import BAR_KEY, GROUP, clustered

T = TypeVar("T")
_GROUP_AND_TIME = (*(pl.col(name).cast(pl.Int64) for name in GROUP), pl.col("ts").to_physical())
COMPACT_MINUTES = 10


@dataclass(slots=True)
class Report:
    """What became of the rows of a tape.

    `rows` = `added` + `duplicates` + `replaced_quotes` + `corrections` + `official` + `rejected` + `refused`.
    """

    source: str
    rows: int = 0
    added: int = 0
    duplicates: int = 0
    """Rows of prints that are kept already, with no better quote."""
    replaced_quotes: int = 0
    """Rows of prints that are kept already, whose quote replaced the kept one."""
    corrections: int = 0
    """Rows that replaced another by their source's mark, and rows that were, or had been, replaced so."""
    official: int = 0
    """Rows that repeat a print as an official open or close."""
    rejected: int = 0
    refused: int = 0
    cancels: int = 0
    removed: int = 0
    counted: int = 0
    """Prints among the rows, each once, whether they were kept already or not."""
    unquoted: int = 0
    """Of `counted`: those that have no quote in force in this tape."""
    refusals: set[Refusal] = field(default_factory=set)
    notes: Counter[str] = field(default_factory=Counter)
    volumes: dict[tuple[str, str], float] = field(default_factory=dict)
    """Contracts or shares of a batch shown, by asset and side."""


Progress = Callable[[Report, float], None]


class Engine:
    """Takes prints into a store and a window. All methods may be called from any thread."""

    def __init__(
        self, store: Store, window: Window | None = None, max_quote_age: timedelta | None = None
    ) -> None:
        self.store = store
        self.window = window
        self.max_quote_age = max_quote_age
        self.generation = 0
        self.classifications = Classifications(store, max_quote_age)
        self._lock = threading.RLock()
        self._groups: dict[date, pl.DataFrame] = {}
        self._claims = Claims(store)
        self._corrections = Corrections(store)
        self._position = Point({})
        self._compacted: int | None = None
        self._newest = 0
        self._group: AbstractContextManager[None] | None = None
        self._shown: list[tuple[pl.DataFrame, str]] = []
        self._owed = False

    def simulated(self, asset: str, symbol: str) -> bool:
        """Whether any of a symbol's days comes from a simulated tape."""
        return self._claims.simulated(asset, symbol)

    def simulated_any(self, asset: str) -> bool:
        """Whether any symbol of an asset has a day from a simulated tape."""
        return self._claims.simulated_any(asset)

    def ingest(
        self,
        tape: Tape,
        replace: bool = False,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
    ) -> Report:
        """Take a whole tape, batch by batch, each committed on its own.

        Raises `TapeError` where the file breaks off (what came before is kept, and repeating is safe),
        `StoreError` where a commit fails. Stops between two batches once `stop` is set.
        """
        report = Report(tape.source)
        # While one batch is committed, the next is read and signed.
        for batch, prepared in ahead((batch, self._prepare(batch.prints)) for batch in tape.batches):
            if stop is not None and stop.is_set():
                break
            self._take(prepared, tape.source, replace=replace, report=report)
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
        cursor: str | None = None,
        report: Report | None = None,
    ) -> Report:
        """Take one batch of prints (`prints.SCHEMA`) and commit it with its minutes and the source's cursor."""
        report = report or Report(source)
        self._take(self._prepare(prints), source, replace=replace, cursor=cursor, report=report)
        return report

    def show(self, prints: pl.DataFrame, source: str) -> Report:
        """Take one batch of prints into the window at once; the store keeps it with the next `commit`.

        Raises `StoreError` where the store refuses; the batch is then not taken, and what was shown since the last
        commit is taken again by the next call that succeeds. Memory holds it until then.
        """
        report = Report(source)
        batch = self._prepare(prints)
        with self._lock:
            self._make_good()
            change = self._in_group(lambda: self._fitting_step(batch, source, report))
            self._shown.append((prints, source))
            self._show(change)
            report.volumes = self._volumes(change.bars)
        return report

    def commit(
        self, cursors: Mapping[str, str] | None = None, standing: Mapping[str, pl.DataFrame] | None = None
    ) -> None:
        """Keep what was shown, and with it cursors and standing quotes by source. Raises `StoreError`."""
        with self._lock:
            self._make_good()
            if cursors:
                self._in_group(lambda: self._keep_places(cursors, standing or {}))
            self._close_group()

    def _volumes(self, bars: pl.DataFrame) -> dict[tuple[str, str], float]:
        assets = self.store.catalog.series["asset"].gather(bars["symbol_id"].cast(pl.UInt32))
        sums = bars.group_by(assets.cast(pl.String)).agg(
            pl.col(f"{side}_volume").sum() for side in Side.categories
        )
        return {
            (asset, side): many / SIZE_SCALE[asset]
            for asset, *rest in sums.iter_rows()
            for side, many in zip(Side.categories, rest, strict=True)
        }

    def load(self, progress: Callable[[float], None] = lambda done: None) -> None:
        """Take the window from the store in the place of all it holds. Raises `StoreError`.

        `progress` is called with the share that is done, from 0 to 1; what it raises ends the loading.
        """
        with self._lock:
            self._settle_group()
            self._load(progress)

    def _load(self, progress: Callable[[float], None] = lambda done: None) -> None:
        if self.window is not None:
            with self.store.snapshot():
                self._position = self.store.point()
                self.window.load(self.store, progress)

    def follow(self) -> None:
        """Take into the window what other processes have committed since. Raises `StoreError`."""
        with self._lock:
            if self.window is None:
                return
            changes = self.store.changes(self._position, self.window.oldest)
            if changes.point == self._position:
                return
            self._claims.refresh()
            if changes.whole:
                self.classifications.forget()
                self._settle_group()
                self._load()
            else:
                self.window.change(changes.added, changes.keys, changes.restated)
                self._position = changes.point
            self.generation += 1

    def reload(self, now_minute: int) -> None:
        """Take the window from the store anew, to end at a minute: for a clock that was set back."""
        with self._lock:
            self._settle_group()
            if self.window is not None:
                self.window.begin(now_minute)
                self._load()

    def _in_group(self, work: Callable[[], T]) -> T:
        """Do some of the work of the open group, in a transaction that `_close_group` ends."""
        if self._group is None:
            group = self.store.transaction()
            group.__enter__()
            self._group = group
        try:
            return work()
        except BaseException as error:
            self._lose_group(error)
            raise

    def _close_group(self) -> None:
        group, self._group = self._group, None
        if group is None:
            return
        try:
            group.__exit__(None, None, None)
        except BaseException:
            self._owed = True
            self._undo()
            raise
        self._shown.clear()
        self.generation += 1
        if self.window is not None:
            self.window.settle()

    def _lose_group(self, error: BaseException) -> None:
        group, self._group = self._group, None
        self._owed = True
        self._undo_after(group, error)

    def _undo_after(self, group: AbstractContextManager[None] | None, error: BaseException) -> None:
        try:
            if group is not None:
                group.__exit__(type(error), error, error.__traceback__)
        finally:
            self._undo()

    def _make_good(self) -> None:
        """After a group was lost: keep what was shown in it, and take the window from the store again."""
        if not self._owed:
            return
        try:
            with self.store.transaction():
                for prints, source in self._shown:
                    self._fitting_step(self._prepare(prints), source, Report(source))
        except BaseException:
            self._undo()
            raise
        self._owed = False
        self._shown.clear()
        self.generation += 1
        self._load()

    def _keep_places(self, cursors: Mapping[str, str], standing: Mapping[str, pl.DataFrame]) -> None:
        for source, cursor in cursors.items():
            self.store.set_cursor(source, cursor)
        for source, quotes in standing.items():
            self.store.set_standing(source, quotes)
        self._compact()

    def _settle_group(self) -> None:
        """What another writer must do before its own transaction."""
        self._make_good()
        self._close_group()

    def _prepare(self, prints: pl.DataFrame) -> Prepared:
        """All that a batch needs before the store is asked."""
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
            bars_of(fresh),
            counted=many[0],
            unquoted=many[1],
            given=prints.height,
            epoch=epoch,
            duplicates=uncorrected.height - fresh.height,
            corrected=prints.height - uncorrected.height,
        )

    def _take(
        self, batch: Prepared, source: str, *, replace: bool, report: Report, cursor: str | None = None
    ) -> None:
        _count(batch, report)
        with self._lock:
            self._settle_group()
            try:
                with self.store.transaction():
                    change = self._step(self._fitting(batch), source, replace, report)
                    if cursor is not None:
                        self._keep_places({source: cursor}, {})
            except BaseException:
                self._undo()
                raise
            self.generation += 1
            self._show(change)

    def _fitting(self, batch: Prepared) -> Prepared:
        """The batch with numbers that hold: those it was prepared with may have been forgotten since."""
        if batch.epoch == self.store.catalog.epoch:
            return batch
        epoch, rows = self.store.catalog.encode(batch.prints)
        prints = batch.prints.with_columns(rows["series"], rows["symbol_id"])
        bars = bars_of(prints)
        return dataclasses.replace(batch, prints=prints, rows=rows, bars=bars, epoch=epoch)

    def _fitting_step(self, batch: Prepared, source: str, report: Report) -> Change:
        _count(batch, report)
        return self._step(self._fitting(batch), source, replace=False, report=report)

    def rebuild_outdated(self) -> dict[date, int]:
        """Rebuild every day that was classified under other settings; returns the number of bars of each."""
        return {day: self.rebuild(day) for day in self.classifications.look()}

    def rebuild(self, day: date, parts: int = 8) -> int:
        """Classify a day's prints again and make its minute bars from them, in one commit and bounded memory.

        Returns the number of bars.
        """
        start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
        made = 0
        with self._lock:
            self._settle_group()
            try:
                with self.store.transaction():
                    self.store.clear_minutes(start, end)
                    for part in range(parts):
                        made += self._rebuild_part(start, end, part, parts)
                    self.classifications.replace(day)
            except BaseException:
                self._undo()
                raise
            outdated = self.classifications.outdated
            self.classifications.outdated = [other for other in outdated if other != day]
            self.generation += 1
            self._load()
        return made

    def _rebuild_part(self, start: int, end: int, part: int, parts: int) -> int:
        known = self.store.catalog.series
        # By symbol: a bar is made of all series of its symbol.
        rows = self.store.prints(known.filter(pl.col("symbol_id") % parts == part)["series"], start, end)
        bars = bars_of(self._reclassify(rows))
        self.store.append_bars(bars)
        return bars.height

    def _reclassify(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Classify stored rows (`catalog.STORED`) and match their cancels again; store what differs; return prints with
        `removed_at`."""
        before = self.store.catalog.decode(rows.drop("removed_at"))
        prints = resolve(classified(before.drop("side", "family"), self.max_quote_age))
        now = rows.with_columns(
            prints["side"].to_physical().cast(pl.UInt8),
            prints["family"].to_physical().cast(pl.UInt8),
            prints["removed_at"].dt.replace_time_zone(None),
        )
        differ = (rows["side"] != now["side"]) | (rows["family"] != now["family"])
        if differ.any():
            self.store.replace_prints(now.filter(differ))
        moved = rows["removed_at"].ne_missing(now["removed_at"])
        if moved.any():
            self.store.set_removed(now.filter(moved))
        return prints

    def _undo(self) -> None:
        """After a failed commit memory must hold no more than the store does."""
        self._groups.clear()
        self.classifications.forget()
        self._corrections.forget()
        self._claims.forget()

    def _show(self, change: Change) -> None:
        if self.window is None:
            return
        if change.dropped:
            self._load()
            return
        self.window.change(change.bars, change.keys, change.restated)

    def _step(self, batch: Prepared, source: str, replace: bool, report: Report) -> Change:
        days = trading_days(batch.prints["ts"])
        held, dropped = self._claims.claim(batch.rows["series"], days, source, replace, report.refusals)
        if dropped:
            self._groups.clear()
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
        known = self.store.known(batch.rows) if batch.rows.height else pl.DataFrame()
        of_days = days
        if known.height:
            amended = pl.concat([amended, self._amend(batch, known, report)])
            new = ~pl.int_range(batch.rows.height, dtype=pl.UInt32, eager=True).is_in(known["row"].implode())
            batch, days = batch.only(new), days.filter(new)
        report.added += batch.rows.height - corrected.replacing
        report.corrections += corrected.replacing
        self.store.append_prints(clustered(batch.rows))
        self.store.append_bars(batch.bars)
        self.classifications.add(of_days)
        cancels = batch.prints.select(is_cancel()).to_series()
        report.cancels += int(cancels.sum())
        if batch.bars.height:
            self._newest = max(self._newest, batch.bars.select(pl.col("minute").max()).item())
        change = Change(batch.bars, dropped=dropped)
        rows = pl.concat([batch.rows, corrected.gone.select(batch.rows.columns)])
        days = pl.concat([days, trading_days(gone["ts"])])
        cancels = pl.concat([cancels, pl.repeat(False, gone.height, eager=True).alias(cancels.name)])
        cancelled = self._changed_by_cancels(rows, days, cancels, report)
        self._restate(pl.concat([amended, *cancelled]).unique(), change)
        return change

    def _amend(self, batch: Prepared, known: pl.DataFrame, report: Report) -> pl.DataFrame:
        """Of rows that are kept already, let the one with the better quote stand (`identity.PRECEDENCE`), whichever
        came first; gives the keys of the bars that changes."""
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

    def _changed_by_cancels(
        self, rows: pl.DataFrame, days: pl.Series, cancels: pl.Series, report: Report
    ) -> list[pl.DataFrame]:
        """Match cancels anew, whichever of print and cancel came first; gives the keys of the bars that changes."""
        changed: list[pl.DataFrame] = []
        for day in days.unique():
            start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
            of_day = days == day
            if day not in self._groups:
                self._groups[day] = self.store.cancelled_groups(start, end).cast(pl.Int64)
            if self._groups[day].is_empty() and not cancels.any():
                continue
            fresh = rows.filter(of_day & cancels).select(_GROUP_AND_TIME)
            groups = pl.concat([self._groups[day], fresh.rename({"ts": "last"})])
            groups = self._groups[day] = groups.group_by(GROUP).agg(pl.col("last").max())
            if groups.is_empty():
                continue
            # What comes after the last cancel of its group changes nothing that was settled before.
            near = rows.filter(maybe_in(rows, groups, GROUP) & of_day).select(_GROUP_AND_TIME)
            touched = near.join(groups, on=GROUP).filter(pl.col("ts") <= pl.col("last"))
            if touched.height:
                changed.append(self._resolve(touched.select(GROUP).unique(), start, end, report))
        return changed

    def _restate(self, keys: pl.DataFrame, change: Change) -> None:
        """Make bars again from the prints that stand."""
        if keys.is_empty():
            return
        low, high = keys.select(pl.col("minute").min(), high=pl.col("minute").max()).row(0)
        minutes = keys.select("symbol_id", "minute").unique()
        affected = self.store.prints_of(minutes, low * NS_PER_MINUTE, (high + 1) * NS_PER_MINUTE)
        bars = bars_of(self.store.catalog.decode(affected)).join(keys, on=BAR_KEY, how="semi")
        self.store.replace_bars(keys, bars)
        change.keys, change.restated = keys, bars

    def _resolve(self, groups: pl.DataFrame, start: int, end: int, report: Report) -> pl.DataFrame:
        """Match the cancels of some groups anew; gives the keys of the bars that changes."""
        rows = self.store.prints_of(groups, start, end)
        kept = self.store.catalog.decode(rows)
        before = kept["removed_at"]
        now = resolve(kept.drop("removed_at"))
        moved = before.ne_missing(now["removed_at"])
        if not moved.any():
            return bar_keys(now.head(0))
        changed = rows.with_columns(now["removed_at"].dt.replace_time_zone(None)).filter(moved)
        self.store.set_removed(changed)
        report.removed += len(now) - now["removed_at"].null_count() - (len(before) - before.null_count())
        return bar_keys(now.filter(before.is_null() != now["removed_at"].is_null()))

    def _compact(self) -> None:
        """A live feed adds to the same minutes commit after commit; put closed minutes together now and then."""
        if self._compacted is None:
            self._compacted = self._newest
        elif self._newest - self._compacted > COMPACT_MINUTES:
            self.store.compact(self._compacted, self._newest)
            self._compacted = self._newest


def _count(batch: Prepared, report: Report) -> None:
    report.rows += batch.given
    report.counted += batch.counted
    report.unquoted += batch.unquoted
    report.duplicates += batch.duplicates
    report.corrections += batch.corrected


def wrong_minutes(store: Store, day: date) -> tuple[int, int]:
    """Return how many of a day's minute bars differ from what its stored prints make, and how many there are.

    Raises `StoreError`.
    """
    start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
    series, symbols = store.catalog.series["series"], store.catalog.series["symbol_id"].unique()
    with store.snapshot():
        prints = store.catalog.decode(store.prints(series, start, end))
        kept = store.bars(symbols, start // NS_PER_MINUTE, end // NS_PER_MINUTE).cast(pl.Int64)
    made = merge(bars_of(prints).cast(pl.Int64), BAR_KEY).select(kept.columns)
    wrong = pl.concat([made, kept]).group_by(kept.columns).len().filter(pl.col("len") == 1)
    return wrong.select(BAR_KEY).unique().height, kept.height
