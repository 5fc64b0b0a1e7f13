"""What is kept: prints, minutes, cursors. `open_store` picks the engine by the store's name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import date
from pathlib import Path
from typing import NamedTuple, Protocol

import polars as pl

from flowtape.errors import UsageError
from flowtape.storage.catalog import Catalog
from flowtape.storage.dialect import Dialect


class Point(NamedTuple):
    """A state of a store: how far each of its writers had got. Empty for a store that one process holds."""

    reached: Mapping[int, int]


class Changes(NamedTuple):
    """What other processes committed: `added` bars, and `restated` bars in the place of all with `keys`; `whole` where
    all bars are to be read again. `point` is the state with them."""

    point: Point
    added: pl.DataFrame
    keys: pl.DataFrame | None = None
    restated: pl.DataFrame | None = None
    whole: bool = False


class Store(Protocol):
    """What the rest of the program asks of a store. Rows and bars go by series number (see `catalog`).

    Writes happen inside `transaction()` and are all kept or none; reads may come from any thread. Every
    method raises `StoreError` when the store cannot do it.
    """

    catalog: Catalog
    dialect: Dialect
    shared: bool
    """Whether other processes may write to the store at the same time."""
    claims_version: int
    """Changes when another process claimed days."""

    def transaction(self) -> AbstractContextManager[None]:
        """All writes within are committed together at its end, or none."""

    def snapshot(self) -> AbstractContextManager[None]:
        """All that this thread reads within is one state of the store, whatever is committed meanwhile."""

    def bulk(self) -> AbstractContextManager[None]:
        """Allow the store the memory that writing many rows takes, while the block runs."""

    def close(self) -> None:
        """Give the store back."""

    def check(self) -> None:
        """Raise `StoreError` unless the store is there and can be read; cheap."""

    # identity and sources
    def known(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return which of `rows` (by `catalog.ROW_IDENTITY`) are kept already: `row`, places in `rows` (UInt32), and of
        the kept row `print_id`, `removed_at` and what decides between rows of one key (`identity.PRECEDENCE`)."""

    def sources(self) -> pl.DataFrame:
        """asset, symbol, day, source: where each symbol's trading day comes from."""

    def claim(self, days: pl.DataFrame) -> None:
        """Say so for further days; same columns as `sources`."""

    def drop_day(self, asset: str, symbol: str, day: date) -> None:
        """Forget a symbol's day: prints, bars and its source."""

    def classified(self) -> pl.DataFrame:
        """Return day and classification: under which settings prints of each day were classified
        (`pipeline.batch.classification`), distinct."""

    def set_classified(self, days: list[date], classification: str, *, whole: bool = False) -> None:
        """Record that prints of some days were classified so; with `whole`, all prints of these days."""

    def unsealed(self) -> list[date]:
        """Return the trading days that were written to since they were sealed, oldest first; none where the engine
        itself keeps rows in order."""

    def seal(self, day: date) -> bool:
        """Put the prints of a day in order of symbol and time where too many are out of it, and store its bars.

        To be called of days that are over. Return False where a writer changed the day meanwhile: nothing is changed
        then, and it may be tried later.
        """

    # prints and what became of them
    def append_prints(self, rows: pl.DataFrame) -> None:
        """Keep rows (`catalog.ROWS`) and the series and venues they brought."""

    def replace_prints(self, rows: pl.DataFrame) -> None:
        """Put rows (`catalog.STORED`) in the place of those of the same key and `print_id`, each of which is kept."""

    def remove_prints(self, rows: pl.DataFrame) -> None:
        """Remove kept rows (`catalog.STORED`)."""

    def corrections(self, start: int, end: int) -> pl.DataFrame:
        """The slots (`catalog.ROW_SLOT`) of the rows of [start, end) ns that correct others."""

    def counted(
        self, asset: str, symbol: str, start: int, end: int, at: int | None, min_size: int = 1
    ) -> str:
        """Return the SQL of the prints of a symbol that count: in [start, end) ns, of `min_size` or more, neither a
        cancel nor removed by one before `at` (None: ever). Its columns are those of the stored prints, `t` (ns) and
        `minute` (since 1970)."""

    def select(self, sql: str) -> pl.DataFrame:
        """Return what a statement over `counted` gives."""

    def query(self, sql: str) -> pl.DataFrame:
        """Return the rows of a user's statement over the documented views, which may only read."""

    def select_rows(self, sql: str) -> pl.DataFrame:
        """Return prints as rows (`catalog.ROWS`); `sql` is what follows the columns, from `FROM` on."""

    def prints(self, series: pl.Series, start: int, end: int, min_size: int = 1) -> pl.DataFrame:
        """Rows (`catalog.STORED`) of [start, end) ns of some series, of `min_size` or more."""

    def underlying(self, series: pl.Series, start: int, end: int) -> pl.DataFrame:
        """The underlying's last mid of each minute, on prints in [start, end) ns of some series: `minute` (since
        1970, rising) and `price` (1/10,000 USD). Last is by event order (`identity.EVENT_ORDER`)."""

    def prints_of(self, keys: pl.DataFrame, start: int, end: int) -> pl.DataFrame:
        """Rows (`catalog.STORED`) of [start, end) ns that match `keys` in all of its columns."""

    def removed_since(self, series: pl.Series, start: int, end: int, at: int) -> pl.DataFrame:
        """Rows of [start, end) ns of some series that a cancel from `at` on removed."""

    def cancelled_groups(self, start: int, end: int) -> pl.DataFrame:
        """series, strike, size, price of the cancels kept in [start, end) ns, distinct, and `last`, the time in
        ns of the latest of each."""

    def set_removed(self, rows: pl.DataFrame) -> None:
        """Store the `removed_at` of kept rows (`catalog.STORED`), null where no cancel removed the row."""

    # minutes
    def append_bars(self, bars: pl.DataFrame) -> None:
        """Add bars by `catalog.BAR_KEY`; bars with the same key are summed when read.

        A store that makes bars of its prints takes none: not here, and not by `replace_bars`.
        """

    def replace_bars(self, keys: pl.DataFrame, bars: pl.DataFrame) -> None:
        """Put `bars` in the place of all bars with `keys` (`catalog.BAR_KEY`)."""

    def bars(self, symbols: pl.Series | None, start: int, end: int) -> pl.DataFrame:
        """Return bars of minutes [start, end) since 1970: of some symbols (numbers), one row a key; of all (None), as
        they are kept."""

    def extent(self, symbol: int, end: int) -> tuple[int | None, int | None]:
        """Return, over the bars of a symbol (number) in minutes before `end`, the smallest `first_ts` (None of options)
        and the largest `last_ts`, in ns; None without bars."""

    def compact(self, start: int, end: int) -> None:
        """Store the bars of minutes [start, end) as one row a key."""

    def clear_minutes(self, start: int, end: int) -> None:
        """Forget the bars of [start, end) ns, to be made again from prints."""

    # cursors
    def take_over(self, source: str) -> None:
        """Be the one process that writes a source from now on: what another that did writes later counts no more, and
        its next commit raises `TakenOver`."""

    def release(self, source: str) -> None:
        """Let others write a source."""

    def cursor(self, source: str) -> str | None:
        """Where a source was left, as its feed wrote it."""

    def cursors(self, beginning: str) -> dict[str, str]:
        """The cursors of all sources whose names begin so."""

    def set_cursor(self, source: str, position: str) -> None:
        """Remember where a source was left."""

    def standing(self, source: str) -> pl.DataFrame:
        """The quotes kept with a source's cursor (`orderflow.quotes.STANDING`)."""

    def set_standing(self, source: str, quotes: pl.DataFrame) -> None:
        """Keep quotes with a source's cursor, in the place of older ones of the same instruments."""

    # many processes on one store
    def point(self) -> Point:
        """The state that this thread reads: within a snapshot that one, else the newest."""

    def changes(self, before: Point, oldest: int) -> Changes:
        """What other processes committed since a state, of minutes from `oldest` (since 1970) on."""

    def span(self) -> tuple[int, int] | None:
        """The oldest and newest print's time in ns, None for an empty store."""


MIGRATE = "Carry it over with: flowtape store migrate --store STORE"
INGEST_AGAIN = (
    "Ingest your files again into a new store: flowtape ingest FILES --store NEW_STORE, then use NEW_STORE in place of"
    " this one"
)


def other_format(found: str, known: str, mend: str = MIGRATE) -> str:
    """Return why a store of another format version is not opened, and what to do.

    `found` and `known` are version numbers as text: the one the store has (empty where it has none) and the one this
    program writes. `mend` says what to do with an older store.
    """
    if found.isdecimal() and int(found) > int(known):
        return (
            f"its format is version {found}, newer than version {known}, which this program reads and writes."
            " Nothing in it is changed. Use a newer flowtape"
        )
    return (
        f"its format is version {found or 'unknown'}, older than version {known}, which this program reads and writes."
        f" Nothing in it is changed. {mend}"
    )


def shared(name: str | Path) -> bool:
    """Whether a store's name is that of one many processes may use at a time."""
    return "://" in str(name)


def shown(name: str) -> str:
    """A store's name as it may be told, without a password. Raises `UsageError` where it cannot be understood."""
    if shared(name):
        from flowtape.storage.clickhouse.connection import parse

        return str(parse(name))
    return name


_PREFIX = re.compile(r"([A-Za-z][A-Za-z0-9_+.-]*):")


def check_name(name: str) -> None:
    """Raise `UsageError` where the name of an embedded store is not that of a file.

    DuckDB takes `md:x`, `sqlite:x` and the like for other databases, whose extensions it fetches from the network, and
    `:memory:` for a store that ends with the process.
    """
    if name.strip().lower() in ("", ":memory:", ":default:"):
        raise UsageError(f"store: {name!r} keeps nothing; give the path of a file")
    prefix = _PREFIX.match(name)
    if prefix is not None:
        raise UsageError(
            f"store: {name!r} would be a store of the kind {prefix[1]!r}, and there is none; a file of this name is"
            f" './{name}'"
        )


def open_store(name: str | Path, read_only: bool = False) -> Store:
    """Open a store by its path or its address (`clickhouse://`, `clickhouses://`, `chdb://`), made where there is none.

    Raises `StoreError`, `StoreBusy`; `UsageError` where an address cannot be understood, or a name is no file's.
    """
    if shared(name):
        from flowtape.storage.clickhouse.connection import parse
        from flowtape.storage.clickhouse.store import ClickStore

        return ClickStore(parse(str(name)), read_only=read_only)
    check_name(str(name))
    from flowtape.storage.duckdb import DuckStore

    return DuckStore(Path(name), read_only=read_only)
