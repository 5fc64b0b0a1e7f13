"""Massive flat files of US options and stocks: `trades_v1` CSV, joined with `quotes_v1` CSV as of each trade.

An option's ticker is `O:` and an OSI symbol without padding. Times are nanoseconds. A trade is joined by its
`sip_timestamp`, which has the clock of the quotes. Both files are sorted by ticker and time, or by time.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from itertools import chain
from pathlib import Path

import polars as pl

from flowtape.errors import TapeError
from flowtape.model.conditions import BY_MASSIVE, stock_conditions, weightiest
from flowtape.model.prints import MAX_STRIKE, NEW_YORK, SCHEMA, Asset, Condition, underlyings
from flowtape.orderflow.quotes import QuoteJoin, note_days_without_quotes
from flowtape.readers import Batch, Options, Rejects, Tape, common, frames
from flowtape.readers.common import Chunk, Csv, Field
from flowtape.readers.tickers import symbols_of

OPTIONS, STOCKS = "massive:us_options_opra", "massive:us_stocks_sip"
TRADES = ("ticker", "conditions", "correction", "exchange", "price", "size")
QUOTES = ("ticker", "sip_timestamp", "bid_price", "bid_size", "ask_price", "ask_size")
CLOCKS = ("sip_timestamp", "participant_timestamp")
RESTATED = {
    7: "original of an error",
    8: "original of a cancel",
    10: "cancel record",
    11: "error record",
    12: "correction record",
}
"""Correction indicators (as in NYSE's Daily TAQ) of records that are not, or no longer, trades."""
CORRECTED = 1
"""The indicator of a trade that was corrected later. Its record holds the original time and the corrected data."""
_KEPT = (0, CORRECTED, 2)
TICKER = r"^O:([A-Z0-9./]{1,6}?)(\d{6})([CP])(\d{8})$"
_OPTION_ROW = re.compile(rb'^(?:.*[,;|\t])?"?O:[A-Z0-9./]+[CP]\d{8}', re.M)


Table = Csv | frames.Texts
"""A file in which all columns are text."""


def matches(path: Path, start: bytes) -> bool:
    """Return whether the header is that of Massive trades or quotes."""
    names = set(frames.columns_of(path, start))
    return set(QUOTES) <= names or (set(TRADES) <= names and not names.isdisjoint(CLOCKS))


def read(files: Sequence[Path], options: Options) -> list[Tape]:
    """Return a tape for each trades file of Massive, with the quotes of its day if they are among `files`.

    Raises:
        TapeError: a file holds neither trades nor quotes, or quotes of a day without a trades file.
    """
    found: dict[tuple[bool, bool], list[Table]] = {}
    for path in files:
        start = common.head(path)
        quotes, columnar = "bid_price" in frames.columns_of(path, start), frames.is_columnar(start)
        expected = f"a Massive {'quotes' if quotes else 'trades'} {'table' if columnar else 'CSV'}"
        table: Table = (frames.Texts if columnar else Csv)(path, expected, QUOTES if quotes else TRADES)
        stocks = not (_is_of_options(table) if columnar else _OPTION_ROW.search(start))
        if not quotes and set(CLOCKS).isdisjoint(table.names):
            raise TapeError(f"{path.name}: expected one of the columns {', '.join(CLOCKS)}")
        found.setdefault((stocks, quotes), []).append(table)
    return [
        _Reading(trades, quotes, options, stocks=stocks).tape()
        for stocks in (False, True)
        for trades, quotes in _paired(found.get((stocks, False), []), found.get((stocks, True), []))
    ]


def _first(table: Table, column: str) -> str:
    """Return the text of a column in the first row of a Parquet or Arrow file."""
    frame = next(table.chunks([column], Rejects(), Counter(), 1)).frame
    return frame[column].item(0) or ""


def _is_of_options(table: Table) -> bool:
    return _first(table, "ticker").startswith("O:")


def _paired(trades: list[Table], quotes: list[Table]) -> Iterator[tuple[Table, Table | None]]:
    if len(trades) == 1 and len(quotes) == 1:
        yield trades[0], quotes[0]
        return
    by_day: dict[date, Table] = {}
    for table in quotes:
        day = _day(table)
        if day in by_day:
            raise TapeError(
                f"{table.path.name}: a second quotes file of {day}, after {by_day[day].path.name}"
            )
        by_day[day] = table
    used = set()
    for table in trades:
        day = _day(table) if quotes else date.min
        used.add(day)
        yield table, by_day.get(day)
    for day in by_day.keys() - used:
        raise TapeError(f"{by_day[day].path.name}: quotes of {day}, but no trades file of that day")


def _day(table: Table) -> date:
    """Return the New York date of a file's first row."""
    clock = next(name for name in CLOCKS if name in table.names)
    cell = _first_cell(table, clock) if isinstance(table, Csv) else _first(table, clock)
    ts = pl.select(common.nanoseconds(pl.lit(cell, pl.String))).item()
    if not isinstance(ts, datetime):
        raise TapeError(f"{table.path.name}: row 1: {clock} is not a time in nanoseconds: {cell!r}")
    return ts.astimezone(NEW_YORK).date()


def _first_cell(table: Csv, clock: str) -> str:
    """Return a cell of a CSV file's first row."""
    lines = common.head(table.path).splitlines()
    text = lines[1].decode(errors="replace").replace("\0", "") if len(lines) > 1 else ""
    cells = next(csv.reader([text], delimiter=table.separator), [])
    place = table.names.index(clock)
    return cells[place].strip() if len(cells) > place else ""


class _Reading:
    """The read of one trades file, with its quotes if it has any."""

    def __init__(self, trades: Table, quotes: Table | None, options: Options, *, stocks: bool) -> None:
        self._trades, self._quotes, self._options, self._stocks = trades, quotes, options, stocks
        self._asset = "stock" if stocks else "option"
        self._rejects, self._notes = Rejects(options.strict), Counter[str]()
        self._corrections = Counter[str]()
        self._quotes_done, self._bad_quotes = 0.0, 0

    def tape(self) -> Tape:
        """Return the tape. Nothing is read before its batches are."""
        files = (self._trades.path, *([self._quotes.path] if self._quotes else []))
        source = self._options.source or (STOCKS if self._stocks else OPTIONS)
        return Tape(source, "massive", files, self._batches(), self._rejects, self._notes, self._corrections)

    def _batches(self) -> Iterator[Batch]:
        columns = (*TRADES, *CLOCKS, "sequence_number")
        chunks = self._trades.chunks(columns, self._rejects, self._notes, self._options.batch_rows)
        parsed = ((chunk, self._trade_rows(chunk)) for chunk in chunks)
        if self._quotes is None:
            for chunk, trades in parsed:
                yield self._batch(chunk, trades, chunk.done)
            return
        first = next(parsed)
        join = self._join(self._quotes, first[1])
        for chunk, trades in chain([first], parsed):
            joined = join.attach(trades)
            yield self._batch(chunk, joined, min(chunk.done, self._quotes_done))
        join.finish()
        if self._bad_quotes:
            # Rejected quotes are rows of the tape too; without this batch its counts would not add up.
            yield Batch(pl.DataFrame(schema=SCHEMA), self._bad_quotes, 1.0)
        note_days_without_quotes([join], self._notes)

    def _join(self, table: Table, trades: pl.DataFrame) -> QuoteJoin:
        quotes = self._quote_rows(table)
        first = next(quotes)
        grouped = first["ticker"].is_sorted() and trades["ticker"].is_sorted()
        names = (self._trades.path.name, table.path.name)
        return QuoteJoin(chain([first], quotes), ["ticker"], grouped=grouped, names=names)

    def _quote_rows(self, table: Table) -> Iterator[pl.DataFrame]:
        fields = [
            Field("ticker", "ticker", pl.col("ticker"), "ticker is blank"),
            _clock("sip_timestamp"),
            common.quote("bid", "bid_price"),
            common.quote("ask", "ask_price"),
            *quote_sizes(self._asset),
        ]
        if "sequence_number" in table.names:
            fields.append(common.number("seq", "sequence_number"))
        columns = [field.column for field in fields]
        chunks = table.chunks(columns, self._rejects, self._notes, self._options.batch_rows)
        while True:
            before = self._rejects.count
            chunk = next(chunks, None)
            if chunk is None:
                return
            quotes = common.parse(chunk.frame, fields, self._rejects, table.path.name)
            self._bad_quotes += self._rejects.count - before
            self._quotes_done = chunk.done
            yield quotes

    def _trade_rows(self, chunk: Chunk) -> pl.DataFrame:
        """Return the trades of a chunk, without restated ones, with the parts of their contract."""
        clocks = [name for name in CLOCKS if name in chunk.frame.columns]
        raw = chunk.frame.with_columns(pl.coalesce(clocks).alias(clocks[0]))
        if self._stocks:
            raw = raw.with_columns(symbols_of(raw["ticker"]).alias("#symbol"))
            contract = STOCK_FIELDS
        else:
            parts = pl.col("ticker").str.extract_groups(TICKER).alias("#parts")
            raw, contract = raw.with_columns(parts).unnest("#parts"), OPTION_FIELDS
        fields = [_clock(clocks[0]), *contract, *TRADED[self._asset]]
        if "sequence_number" in self._trades.names:
            fields.append(common.number("seq", "sequence_number"))
        trades = common.parse(raw, fields, self._rejects, self._trades.path.name)
        for value, count in trades["correction"].value_counts().iter_rows():
            if value in RESTATED:
                self._corrections[f"correction {value} ({RESTATED[value]}), left out"] += count
        trades = trades.filter(~pl.col("correction").is_in(list(RESTATED)))
        corrects = (trades["correction"] == CORRECTED).cast(pl.UInt8).alias("corrects")
        return trades.with_columns(*conditions_of(trades, self._notes, stocks=self._stocks), corrects)

    def _batch(self, chunk: Chunk, trades: pl.DataFrame, done: float) -> Batch:
        symbol = trades["root"].alias("symbol") if self._stocks else underlyings(trades["root"])
        prints = trades.with_columns(symbol, asset=pl.lit(self._asset))
        return Batch(common.completed(prints, common.noting(self._notes)), chunk.rows, done)


def _option_fields() -> list[Field]:
    bad = "ticker is not O: and an OSI symbol"
    day = ("20" + pl.col("2")).str.to_date("%Y%m%d", strict=False)
    strike = pl.col("4").cast(pl.Int64, strict=False) * 10
    return [
        Field("root", "ticker", pl.col("1"), bad),
        Field("expiry", "ticker", day, bad),
        Field("right", "ticker", pl.col("3"), bad),
        Field("strike", "ticker", strike, bad, 10, MAX_STRIKE),
    ]


def quote_sizes(asset: str) -> list[Field]:
    """Return the fields of the sizes at a quote of an asset."""
    return [common.quote_size(name, name, asset) for name in ("bid_size", "ask_size")]


def _traded_fields(asset: str) -> list[Field]:
    number = pl.col("correction").fill_null("0").cast(pl.Int64, strict=False)
    correction = pl.when(number.is_in([*_KEPT, *RESTATED])).then(number)
    return [
        common.price("price"),
        *common.size(asset),
        common.text("venue", "exchange"),
        Field("correction", "correction", correction, "correction is not a known indicator"),
        Field("ticker", "ticker", pl.col("ticker"), "ticker is blank"),
        Field("conditions", "conditions", pl.col("conditions"), "", required=False),
    ]


OPTION_FIELDS = _option_fields()
STOCK_FIELDS = [Field("root", "ticker", pl.col("#symbol"), "ticker is not a stock's")]
TRADED = {asset: _traded_fields(asset) for asset in Asset.categories}


def _clock(column: str) -> Field:
    return Field("ts", column, common.nanoseconds(pl.col(column)), f"{column} is not a time in nanoseconds")


def conditions_of(trades: pl.DataFrame, notes: Counter[str], *, stocks: bool) -> list[pl.Series]:
    """Return the column `condition` of trades, and for stocks `price_flags`, from the numbers in their `conditions`.

    Each distinct text is converted once. Numbers without a name are noted.
    """
    texts = trades["conditions"]
    if stocks:
        return stock_conditions(texts, trades["ts"], notes, "massive").get_columns()
    table = {text: _weightiest(text) for text in texts.unique().drop_nulls()}
    condition = texts.replace_strict(table, default="unknown", return_dtype=Condition).alias("condition")
    common.note_unknown(condition, texts, notes)
    return [condition]


def _weightiest(text: str) -> str:
    return weightiest(
        (BY_MASSIVE.get(int(number), "unknown") for number in re.findall(r"\d+", text)), "option"
    )
