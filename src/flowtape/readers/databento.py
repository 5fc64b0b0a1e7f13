"""Databento: DBN files of OPRA.PILLAR and of US equities. Trades have their quote in the same record, or in other
files.

Sources of the fields' meanings: Databento's pages on schemas and on OPRA
(databento.com/docs/schemas-and-data-formats, databento.com/docs/datasets/opra-pillar).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import numpy as np
import polars as pl

from flowtape.errors import TapeError
from flowtape.model.prices import Note
from flowtape.model.prints import EARLIEST, MAX_SIZE, SIZE_SCALE, QuoteClass, Timestamp, latest_instant
from flowtape.orderflow.quotes import QuoteJoin, best, note_days_without_quotes
from flowtape.readers import Batch, Options, Rejects, Tape, exports
from flowtape.readers.common import LIMITS, ROW, Field, completed, head, parse
from flowtape.readers.dbn import (
    BBO_1S,
    CBBO_1S,
    CMBP_1,
    DEFINITION,
    MAGIC,
    MBP_1,
    SYMBOL_MAPPING,
    TCBBO,
    TRADE,
    Chunk,
    Contracts,
    Header,
    Numbers,
    Records,
    read_chunks,
    read_header,
)
from flowtape.readers.publishers import AGGREGATED, NBBO, OPTIONS, STOCKS, VENUES

PRINTS = {"trades": TRADE, "tbbo": MBP_1, "tcbbo": TCBBO}
QUOTES = {"cmbp-1": CMBP_1, "mbp-1": MBP_1, "cbbo-1s": CBBO_1S}
STOCK_QUOTES = {**QUOTES, "bbo-1s": BBO_1S}
OWN_BOOK = ("mbp-1", "bbo-1s")
"""Schemas whose quotes are those of the record's publisher, not the best of all publishers."""
SAMPLED = ("cbbo-1s", "bbo-1s")
DEFINITIONS = "definition"
PLACES = 1024
"""The number of prints of one contract and venue with the same two times that `copy` can distinguish."""
SLACK = 5 * 10**9
"""The greatest delay, in ns, of a record against the order of event times. Files are in the order of arrival."""
CHUNK_RECORDS = 100_000
"""The number of records decoded at a time, small enough for a processor's cache."""
OTHER_RECORDS = "records of other types in the trades file, left out"
QUOTES_NOT_NBBO = "mbp-1 records of one venue's quote, not the NBBO, left out"
QUOTES_TRADES = "trades among the quotes, left out"
QUOTES_UNPLACED = "quotes without a known contract, or with a time out of range, left out"
_ALIKE = ("ts_event", "instrument_id", "publisher_id")
QUOTED = ("bid_px_00", "ask_px_00", "bid_sz_00", "ask_sz_00")
"""The fields of a record that hold its quote."""
QUOTES_UNUSED = (
    "files of a venue's quotes not read: the prints carry them, or the best of all venues is given"
)
QUOTES_LIMITED = "quotes files whose request had a limit: after it no quote is new"
VENUE_QUOTES = "prints whose quote is their own venue's, not the NBBO"


@dataclass(frozen=True, slots=True)
class _File:
    """A file and the schema to read from it."""

    header: Header
    schema: str

    @property
    def path(self) -> Path:
        return self.header.path

    @property
    def names_symbols(self) -> bool:
        """Return whether the file maps instrument ids to symbols."""
        return not isinstance(self.header, exports.Export) or self.header.named

    @property
    def of_venues(self) -> bool:
        """Return whether its quotes are of a venue's own book. These are joined only to that venue's prints."""
        return self.schema in OWN_BOOK and self.header.dataset not in NBBO


def matches(path: Path, start: bytes) -> bool:
    """Return whether a file is a DBN file, or an export of one (CSV, Parquet, Arrow)."""
    return _is_dbn(start) or exports.matches(path, start)


def _is_dbn(start: bytes) -> bool:
    return start[:3] == MAGIC and start[3:4] < b" "


def _header(path: Path) -> Header:
    start = head(path)
    if start[:3] == MAGIC or not exports.matches(path, start):
        return read_header(path)
    return exports.open_export(path)


def read(files: Sequence[Path], options: Options) -> list[Tape]:
    """Return the tapes of DBN files.

    There is a tape for each file of `trades`, `tcbbo` or `tbbo`, with the quotes and definitions among `files` that
    have the same dataset, time and instruments. An `mbp-1` file of stocks that belongs to none of them is a tape of its
    own trades.

    Raises:
        TapeError: a file is not a DBN file, has another dataset or schema, or holds quotes or definitions without
            trades of their time.
    """
    found = [file for path in files for file in _classify(_header(path))]
    prints = [file for file in found if file.schema in PRINTS]
    others = [file for file in found if file.schema not in PRINTS]
    prints += [
        file
        for file in others
        if file.schema == "mbp-1" and file.of_venues and not any(_belongs(file, other) for other in prints)
    ]
    others = [file for file in others if file not in prints]
    for file in others:
        if not any(_belongs(file, trades) for trades in prints):
            raise TapeError(
                f"{file.path.name}: a {file.schema} file holds no prints: give it together with the trades, "
                f"tcbbo or tbbo file of the same dataset, time and symbols"
            )
    for file in found:
        if not file.names_symbols and not any(
            other.names_symbols and (_belongs(other, file) or _belongs(file, other)) for other in found
        ):
            raise TapeError(f"{file.path.name}: {exports.UNSYMBOLED}")
    return [_tape(trades, [file for file in others if _belongs(file, trades)], options) for trades in prints]


def _classify(header: Header) -> list[_File]:
    """Return the uses of a file. Only a recording of a live session can have two."""
    name, dataset = header.name, header.dataset
    if dataset not in VENUES:
        raise TapeError(
            f"{name}: dataset {dataset} is neither {OPTIONS} nor one of US equities ({', '.join(STOCKS)}): "
            f"futures and other instruments are not read"
        )
    quotes = STOCK_QUOTES if dataset in STOCKS else QUOTES
    if header.schema is None:
        return _classify_live(header, quotes)
    known = (*PRINTS, *quotes, DEFINITIONS)
    if header.schema not in known:
        raise TapeError(f"{name}: schema {header.schema} is not one of {', '.join(known)}")
    return [_File(header, header.schema)]


def _classify_live(header: Header, quotes: dict[str, int]) -> list[_File]:
    kinds = {"tcbbo": TCBBO, "trades": TRADE} | quotes
    if header.dataset == OPTIONS:
        # In a recording, `mbp-1` and `tbbo` records of venues have one type, and only some are the NBBO.
        del kinds["mbp-1"]
    with closing(read_chunks(header.path, tuple(kinds.values()), 100_000)) as chunks:
        chunk = next(chunks)
    met = [schema for schema, rtype in kinds.items() if rtype in chunk.records]
    wanted = [next((kind for kind in met if kind in group), None) for group in (PRINTS, quotes)]
    files = [_File(header, kind) for kind in wanted if kind]
    if not files:
        raise TapeError(
            f"{header.name}: its metadata names no schema, and its first records are none of "
            f"{', '.join(kinds)}"
        )
    return files


def _belongs(file: _File, trades: _File) -> bool:
    mine, theirs = file.header, trades.header
    if mine.dataset != theirs.dataset or not mine.overlaps(theirs):
        return False
    symbols, others = mine.mappings.keys(), theirs.mappings.keys()
    comparable = symbols and others and mine.metadata.stype_in == theirs.metadata.stype_in
    return not (comparable and symbols.isdisjoint(others))


def _tape(trades: _File, others: Sequence[_File], options: Options) -> Tape:
    rejects, notes = Rejects(strict=options.strict), Counter[str]()
    if trades.schema == "tcbbo" and (unused := sum(file.schema in STOCK_QUOTES for file in others)):
        notes["quotes files not read: tcbbo records carry the NBBO"] += unused
        others = [file for file in others if file.schema == DEFINITIONS]
    # The best quote of all venues is better than the quote of one venue, which `tbbo` and `mbp-1` records hold.
    if trades.schema in ("tbbo", "mbp-1") or any(_of_all(file) for file in others):
        if unused := sum(file.of_venues for file in others):
            notes[QUOTES_UNUSED] += unused
        others = [file for file in others if not file.of_venues]
    reader = _Reader(trades, others, options, rejects, notes)
    paths = tuple(dict.fromkeys(file.path for file in (trades, *others)))
    source = options.source or f"databento:{trades.header.dataset}"
    return Tape(source, "databento", paths, reader.batches(), rejects, notes, identified=True)


def _class_of(file: _File) -> str:
    return "sampled" if file.schema in SAMPLED else "joined"


def _of_all(file: _File) -> bool:
    return file.schema in STOCK_QUOTES and not file.of_venues


class _Reader:
    """Reads the files of one tape as batches of prints."""

    def __init__(
        self,
        trades: _File,
        others: Sequence[_File],
        options: Options,
        rejects: Rejects,
        notes: Counter[str],
    ) -> None:
        self._trades, self._rejects, self._notes = trades, rejects, notes
        self._batch_rows = options.batch_rows
        self._chunk_records = min(options.batch_rows, CHUNK_RECORDS)
        self._definitions = [file for file in others if file.schema == DEFINITIONS]
        self._quotes = [file for file in others if file.schema in STOCK_QUOTES]
        self._dataset = trades.header.dataset
        self._stocks = self._dataset in STOCKS
        self._contracts = Contracts(stocks=self._stocks)
        self._quoted = trades.schema != "trades" and not self._quotes
        of_venues = any(file.of_venues for file in self._quotes)
        self._by = ["contract", "publisher"] if of_venues else ["contract"]
        self._venue_quotes = of_venues or (self._quoted and trades.schema != "tcbbo")

    def batches(self) -> Iterator[Batch]:
        """Yield the prints in file order, each batch with the number of its trade records."""
        self._load_contracts()
        self._note(QUOTES_LIMITED, sum(file.header.metadata.limit is not None for file in self._quotes))
        joins = self._joins()
        constant = {"asset": pl.lit("stock" if self._stocks else "option"), "condition": pl.lit("unknown")}
        parts, rows, done, trades = [], 0, 0.0, 0
        rtype = rtype_of(self._trades.schema)
        for numbers, records, done in _packets(self._trade_chunks(rtype), rtype):
            prints = prints_of(
                numbers, records, self._contracts, self._dataset, self._trades.path.name, self._rejects, self._note,
                quoted=self._quoted,
            )  # fmt: skip
            if joins:
                prints = best([join.attach(prints) for join in joins])
            if self._venue_quotes:
                self._note(VENUE_QUOTES, int((~prints["venue"].is_in(AGGREGATED)).sum()))
            prints = prints.hstack(self._contracts.frame[prints["contract"]])
            parts.append(completed(prints.with_columns(**constant), self._note))
            rows += len(numbers)
            trades += len(numbers)
            if rows >= self._batch_rows:
                yield Batch(pl.concat(parts), rows, done)
                parts, rows = [], 0
        for join in joins:
            join.finish()
        note_days_without_quotes(joins, self._notes)
        if not trades:
            schema, why = self._trades.schema, ""
            if schema == "mbp-1":
                why = " holds no prints: give it together with the trades file of its time"
            raise TapeError(
                f"{self._trades.path.name}: a{'n' * bool(why)} {schema} file without a trade{why}"
            )
        if parts:
            yield Batch(pl.concat(parts), rows, done)

    def _joins(self) -> list[QuoteJoin]:
        """Return a join for each lane of quotes. Samples and files of every quote have separate joins."""
        return [
            QuoteJoin(self._lane(lane), self._by, slack=SLACK, quote_class=quote_class)
            for quote_class in ("joined", "sampled")
            for lane in _lanes([file for file in self._quotes if _class_of(file) == quote_class])
        ]

    def _note(self, what: str, count: int) -> None:
        if count:
            self._notes[what] += count

    def _load_contracts(self) -> None:
        for header in dict.fromkeys(
            file.header for file in (self._trades, *self._quotes, *self._definitions)
        ):
            self._contracts.add_metadata(header)
        for file in self._definitions:
            for chunk in read_chunks(file.path, (DEFINITION,), 20_000):
                for _, records in chunk.records.values():
                    self._contracts.add_definitions(file.header, records, self._notes)

    def _chunks(self, file: _File, rtype: int) -> Iterator[Chunk]:
        """Yield a file's chunks, with the symbol mappings among its records already known."""
        chunks = file.header.chunks((rtype, SYMBOL_MAPPING), self._chunk_records, self._rejects, self._notes)
        for chunk in chunks:
            if chunk.named is not None:
                self._contracts.add_names(file.header, chunk.named)
            if SYMBOL_MAPPING in chunk.records:
                self._contracts.add_mappings(file.header, chunk.records[SYMBOL_MAPPING][1])
            yield chunk

    def _trade_chunks(self, rtype: int) -> Iterator[Chunk]:
        for chunk in self._chunks(self._trades, rtype):
            self._note(OTHER_RECORDS, chunk.count - sum(len(rows) for rows, _ in chunk.records.values()))
            if self._trades.schema == "mbp-1" and rtype in chunk.records:
                numbers, records = chunk.records[rtype]
                trade = records["action"] == b"T"
                chunk.records[rtype] = numbers[trade], records[trade]
            yield chunk

    def _lane(self, files: Sequence[_File]) -> Iterator[pl.DataFrame]:
        for file in files:
            rtype = rtype_of(file.schema)
            for _, records, _ in _packets(self._chunks(file, rtype), rtype):
                # Samples are one a second. Of other quotes with the same `ts_event`, the last to arrive is the latest.
                seq = None if file.schema in SAMPLED else arrivals(records, QUOTED)
                yield quotes_of(
                    file.schema, self._dataset, records, self._contracts, self._by, self._note, seq
                )


def _packets(chunks: Iterator[Chunk], rtype: int) -> Iterator[tuple[Numbers, Records, float]]:
    """Yield the records of one type with their numbers in the file and the share of it read. Records with the same
    `ts_recv` stay together."""
    held: tuple[Numbers, Records] | None = None
    done = 0.0
    for chunk in chunks:
        done = chunk.done
        if rtype not in chunk.records or not len(chunk.records[rtype][0]):
            continue
        numbers, records = chunk.records[rtype]
        if held:
            # Joined as plain bytes: NumPy joins records field by field, which takes ten times as long.
            joined = np.concatenate([held[1].view(np.uint8), records.view(np.uint8)])
            numbers, records = np.concatenate([held[0], numbers]), joined.view(records.dtype)
        cut = last_packet(records["ts_recv"])
        if cut:
            yield numbers[:cut], records[:cut], done
        held = numbers[cut:].copy(), records[cut:].copy()
    if held:
        yield *held, done


def prints_of(
    numbers: Numbers,
    records: Records,
    contracts: Contracts,
    dataset: str,
    name: str,
    rejects: Rejects,
    note: Note,
    *,
    quoted: bool,
    again: int = 0,
) -> pl.DataFrame:
    """Return the good trade records as prints, with `contract` as a number and prices in nanos.

    Bad records are reported under `name`. Records with the same `ts_recv` must be passed together. The first `again`
    records were passed before; they are repeated only to number the records after them.
    """
    raw = _raw(numbers, records, quoted=quoted)[again:]
    records = records[again:]
    found = contracts.numbers(records["instrument_id"], records["ts_event"].astype(np.int64))
    raw = raw.with_columns(pl.Series("contract", found, dtype=pl.Int64))
    prints = parse(raw, _fields(dataset, quoted=quoted), rejects, name).drop(ROW)
    # A record without a bid and an ask says that there was no quote. No other file has a better source.
    return prints.with_columns(quote_class=pl.lit("own", QuoteClass)) if quoted else prints


def quotes_of(
    schema: str, dataset: str, records: Records, contracts: Contracts, by: Sequence[str], note: Note,
    seq: pl.Series | None = None,
) -> pl.DataFrame:  # fmt: skip
    """Return the quotes among records: contract, bid and ask in nanos, their sizes, and `ts`, the time the quote became
    known. With `by`, the publisher is included. `seq`, if given, has a value for each record."""
    if schema not in SAMPLED:
        trade = records["action"] == b"T"
        note(QUOTES_TRADES, int(trade.sum()))
        records, seq = records[~trade], seq if seq is None else seq.filter(~trade)
    if schema in OWN_BOOK and dataset in NBBO:
        best = np.isin(records["publisher_id"], NBBO[dataset])
        note(QUOTES_NOT_NBBO, int((~best).sum()))
        records, seq = records[best], seq if seq is None else seq.filter(best)
    # A sample is the quote at the end of its second. Its `ts_event` is the time of the last trade.
    times = records["ts_recv" if schema in SAMPLED else "ts_event"]
    ts = times.astype(np.int64)
    numbers = contracts.numbers(records["instrument_id"], ts)
    placed = (numbers >= 0) & (ts >= EARLIEST) & (ts <= latest_instant())
    note(QUOTES_UNPLACED, int((~placed).sum()))
    keys: dict[str, Any] = {"contract": numbers, "publisher": records["publisher_id"]}
    columns = {"ts": ts, **{name: keys[name] for name in by}, **_quote(records)}
    frame = pl.DataFrame(columns if seq is None else columns | {"seq": seq})
    unit = SIZE_SCALE["stock" if dataset in STOCKS else "option"]
    frame = frame.with_columns(pl.col("ts").cast(Timestamp), pl.col("bid_size", "ask_size") * unit)
    return frame if placed.all() else frame.filter(placed)


def rtype_of(schema: str) -> int:
    """Return the type of a schema's records."""
    return PRINTS[schema] if schema in PRINTS else STOCK_QUOTES[schema]


def _lanes(files: Sequence[_File]) -> list[list[_File]]:
    """Return files of quotes grouped into lanes: files that follow each other in time share one, overlapping ones do
    not.
    """
    lanes: list[list[_File]] = []
    for file in sorted(files, key=lambda file: (file.header.metadata.start, file.schema, file.path.name)):
        for lane in lanes:
            if (end := lane[-1].header.metadata.end) is not None and end <= file.header.metadata.start:
                lane.append(file)
                break
        else:
            lanes.append([file])
    return lanes


def last_packet(received: Records) -> int:
    """Return the index at which the last run of equal `ts_recv` starts."""
    others = np.flatnonzero(received != received[-1])
    return int(others[-1]) + 1 if len(others) else 0


def _raw(numbers: Numbers, records: Records, *, quoted: bool) -> pl.DataFrame:
    """Return trade records as columns in DBN's units; undefined quotes are null."""
    names = ("ts_event", "ts_recv", "instrument_id", "publisher_id", "price", "size")
    columns: dict[str, Any] = {name: records[name] for name in names}
    columns["action"] = records["action"].view(np.uint8)
    columns["copy"] = arrivals(records)
    if quoted:
        columns |= _quote(records)
    return pl.DataFrame({ROW: numbers, **columns})


def _quote(records: Records) -> dict[str, pl.Series]:
    prices = {name: pl.Series(name, records[f"{name}_px_00"]) for name in ("bid", "ask")}
    sizes = {f"{name}_size": pl.Series(records[f"{name}_sz_00"]).cast(pl.Int64) for name in ("bid", "ask")}
    return {name: column.set(column == dbn.UNDEF_PRICE, None) for name, column in prices.items()} | sizes


def arrivals(records: Records, content: Sequence[str] = ()) -> pl.Series:
    """Return a number for each record, made of its delay and its position. It is the `copy` of a print.

    The delay is `ts_recv − ts_event` in ns. The position is that among records of the same venue, contract and times.
    The number is null if it exceeds 63 bits, as it does with an undefined time. With `content` (names of fields), a
    record that repeats the content of the previous record has the same position.

    `tcbbo` has no sequence, and the same print may arrive as `trades` and as `tcbbo`, from a file or live. All schemas
    are numbered alike, so that it remains one print.
    """
    received = records["ts_recv"]
    new = np.diff(received, prepend=~received[:1]) != 0
    # Most packets hold one print, which needs no search for equal ones.
    shared = np.flatnonzero(~(new & np.append(new[1:], True)))
    keys = {"packet": np.cumsum(new)} | {name: records[name] for name in _ALIKE}
    columns = keys | {name: records[name] for name in content}
    alike = pl.DataFrame({name: values[shared] for name, values in columns.items()})
    place = pl.int_range(pl.len())
    if content:
        changed = pl.any_horizontal(pl.col(name) != pl.col(name).shift() for name in content)
        place = changed.fill_null(value=False).cast(pl.Int64).cum_sum()
    places = np.zeros(len(records), np.int64)
    places[shared] = alike.select(place.over(list(keys)).alias("place")).to_series().to_numpy()
    delays = received.astype(np.int64) - records["ts_event"].astype(np.int64)
    fits = (np.abs(delays) < 2**53) & (places < PLACES)
    return pl.Series(delays * PLACES + places).set(pl.Series(~fits), None)


@cache
def _fields(dataset: str, *, quoted: bool) -> tuple[Field, ...]:
    """Return the fields of a print from the columns of `_raw`."""
    ts = pl.col("ts_event").cast(pl.Int64, strict=False).cast(Timestamp)
    contract = pl.when(pl.col("contract") >= 0).then(pl.col("contract"))
    number = pl.col("publisher_id")
    # The sizes of records are whole contracts or shares.
    unit = SIZE_SCALE["stock" if dataset in STOCKS else "option"]
    size = pl.col("size").cast(pl.Int64) * unit
    venue = number.replace_strict(VENUES[dataset], default=number.cast(pl.String))
    unnumbered = f"ts_recv is undefined or out of range, or more than {PLACES} prints are alike"
    fields = [
        Field("ts", "ts_event", ts, "ts_event is undefined"),
        Field("action", "action", pl.col("action"), "action is not T (84): no trade", ord("T"), ord("T")),
        Field("contract", "instrument_id", contract, "instrument_id has no known contract on its date"),
        Field(
            "price",
            "price",
            pl.col("price"),
            "price is undefined or out of range (1e-9 USD)",
            *LIMITS["price"],
        ),
        Field("size", "size", size, "size is not from 1 up", unit, MAX_SIZE * unit, scale=unit),
        Field("venue", "publisher_id", venue, "publisher_id is undefined"),
        Field("publisher", "publisher_id", number, "publisher_id is undefined"),
        Field("copy", "ts_recv", pl.col("copy"), unnumbered),
    ]
    if quoted:
        for name in ("bid", "ask"):
            what = f"{name} is out of range (1e-9 USD)"
            fields.append(Field(name, name, pl.col(name), what, *LIMITS["bid"], required=False))
            at = f"{name}_size"
            fields.append(Field(at, at, pl.col(at) * unit, f"{at} is undefined"))
    return tuple(fields)
