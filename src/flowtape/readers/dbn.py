"""Decode DBN files to NumPy records in chunks, and map instrument ids to contracts.

A DBN file is a header of metadata, followed by records. Each record starts with its length in words of four bytes, its
type, its publisher and its instrument. Layouts and metadata are those that `databento_dbn` publishes. Its decoder makes
one Python object for each record; frames need columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import numpy as np
import polars as pl
from numpy.typing import NDArray

from flowtape.errors import TapeError
from flowtape.model.prints import Right, underlyings
from flowtape.readers import Rejects
from flowtape.readers.common import Stream, open_stream
from flowtape.readers.tickers import symbols_of

MAGIC = b"DBN"
TRADE, MBP_1, DEFINITION, SYMBOL_MAPPING, CMBP_1, CBBO_1S, TCBBO, BBO_1S = 0, 1, 19, 22, 177, 192, 194, 195
"""Record types (`databento_dbn.RType`)."""
DAY = 86_400 * 10**9
"""Nanoseconds in a UTC day."""
DISAGREEING = "definitions that disagree with their OSI symbol, which was used"
DBN_VERSION = 3
"""The newest version of DBN, whose layouts are used."""
_RECORD_HEADER = 16
_LAST_DAY = 2**20 - 1
_OSI = r"^([A-Z0-9./]{1,6}) *(\d{6})([CP])(\d{8})$"
_LAYOUTS: dict[int, tuple[Any, Any, Any]] = {
    TRADE: (dbn.TradeMsg,) * 3,
    MBP_1: (dbn.MBP1Msg,) * 3,
    CMBP_1: (dbn.CMBP1Msg,) * 3,
    TCBBO: (dbn.CMBP1Msg,) * 3,
    CBBO_1S: (dbn.CBBOMsg,) * 3,
    BBO_1S: (dbn.BBOMsg,) * 3,
    DEFINITION: (dbn.InstrumentDefMsgV1, dbn.InstrumentDefMsgV2, dbn.InstrumentDefMsg),
    SYMBOL_MAPPING: (dbn.SymbolMappingMsgV1, dbn.SymbolMappingMsg, dbn.SymbolMappingMsg),
}
"""The record layouts of each type in DBN version 1, 2 and 3."""

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]
Records = NDArray[Any]
_Terms = Callable[[pl.Series], tuple[pl.DataFrame, pl.Series]]


@dataclass(frozen=True)
class Header:
    """A DBN file's metadata: its schema, dataset and time span."""

    path: Path
    version: int
    metadata: Any = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Return the file's name, for messages."""
        return self.path.name

    @property
    def schema(self) -> str | None:
        """Return the schema's name; None for a recording of a live session, which may mix record types."""
        return None if self.metadata.schema is None else str(self.metadata.schema)

    @property
    def dataset(self) -> str:
        """Return the dataset's code, such as `OPRA.PILLAR`."""
        return str(self.metadata.dataset)

    @cached_property
    def mappings(self) -> dict[str, list[Any]]:
        """Return the instruments that each symbol means, with their spans of dates."""
        return dict(self.metadata.mappings)

    def overlaps(self, other: Header) -> bool:
        """Return whether the time spans of the two files overlap."""
        return self._starts_by_end_of(other) and other._starts_by_end_of(self)

    def _starts_by_end_of(self, other: Header) -> bool:
        end = other.metadata.end
        return end is None or bool(self.metadata.start <= end)

    def chunks(
        self, wanted: Sequence[int], max_records: int, rejects: Rejects, notes: Counter[str]
    ) -> Generator[Chunk]:
        """Yield the file's records of the `wanted` types, as `read_chunks` does."""
        return read_chunks(self.path, wanted, max_records)

    def layout(self, rtype: int) -> np.dtype[Any]:
        """Return the NumPy type of one record of a type, in this file's version of DBN."""
        fields = list(_LAYOUTS[rtype][self.version - 1]._dtypes)
        return np.dtype(fields + [("ts_out", "u8")] * bool(self.metadata.ts_out))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive records: for each wanted type, the numbers of its records in the file (from 1) and the records.

    `count` is the number of records of any type, `done` the share of the file read so far. `named` holds the names of
    instruments that the records themselves carry, if any (`id`, `day` in UTC days since 1970, `name`).
    """

    records: dict[int, tuple[Numbers, Records]]
    count: int
    done: float
    named: pl.DataFrame | None = None


def read_header(path: Path) -> Header:
    """Return a file's metadata.

    Raises:
        TapeError: the file is empty, is not a DBN file, is cut short, or has a newer version than the installed
            `databento_dbn` reads.
    """
    with open_stream(path) as stream:
        return _header(path, stream)


def _header(path: Path, stream: Stream) -> Header:
    start = stream.read(8)
    if start[:3] != MAGIC:
        raise TapeError(f"{path.name}: {'not a DBN file' if start else 'empty file'}")
    size = int.from_bytes(start[4:], "little")
    body = stream.read(size)
    if len(start) < 8 or len(body) < size:
        raise TapeError(f"{path.name}: truncated: ends inside its metadata")
    try:
        metadata = dbn.Metadata.decode(start + body)
    except dbn.DBNError as error:
        raise TapeError(f"{path.name}: its DBN metadata cannot be read: {error}") from None
    return Header(path, start[3], metadata)


def read_chunks(path: Path, wanted: Sequence[int], max_records: int) -> Generator[Chunk]:
    """Yield a file's records of the `wanted` types in file order, about `max_records` at a time.

    Raises:
        TapeError: the file ends inside a record, holds no records, or a record does not fit its type.
    """
    with open_stream(path) as stream:
        header = _header(path, stream)
        layouts = {rtype: header.layout(rtype) for rtype in wanted}
        size = max_records * max(layouts[rtype].itemsize for rtype in wanted if rtype != SYMBOL_MAPPING)
        count, rest = 0, b""
        while block := stream.read(size):
            data = np.frombuffer(rest + block, np.uint8)
            starts, end = _starts(header, data, count)
            rest = data[end:].tobytes()
            yield Chunk(_by_type(header, data, starts, layouts, count), len(starts), stream.done)
            count += len(starts)
    if rest:
        raise TapeError(f"{path.name}: truncated: ends inside record {count + 1}")
    if not count:
        raise TapeError(f"{path.name}: holds no records")


def _starts(header: Header, data: Bytes, count: int) -> tuple[Numbers, int]:
    """Return the offset of each whole record, and the offset at which the last of them ends."""
    size = int(data[0]) * 4
    whole = len(data) // size if size >= _RECORD_HEADER else 0
    # Each record's length gives the start of the next. If all lengths are equal, the offsets are multiples of one.
    if whole and (data[::size] == data[0]).all():
        return np.arange(whole, dtype=np.int64) * size, whole * size
    return _walk(header, data, count)


def _walk(header: Header, data: Bytes, count: int) -> tuple[Numbers, int]:
    """Return the same as `_starts` for records of mixed lengths, which must be followed one by one."""
    starts: list[int] = []
    place, lengths, size = 0, data.tobytes(), len(data)
    while place < size:
        step = lengths[place] * 4
        if step < _RECORD_HEADER:
            raise TapeError(
                f"{header.name}: record {count + len(starts) + 1}: length {step} bytes: damaged file"
            )
        if place + step > size:
            break
        starts.append(place)
        place += step
    return np.array(starts, dtype=np.int64), place


def _by_type(
    header: Header, data: Bytes, starts: Numbers, layouts: dict[int, np.dtype[Any]], count: int
) -> dict[int, tuple[Numbers, Records]]:
    rtypes, found = data[starts + 1], {}
    for rtype, layout in layouts.items():
        places = np.flatnonzero(rtypes == rtype)
        if not len(places):
            continue
        size = layout.itemsize
        wrong = places[data[starts[places]] != size // 4]
        if len(wrong):
            number, length = count + int(wrong[0]) + 1, int(data[starts[wrong[0]]]) * 4
            raise TapeError(
                f"{header.name}: record {number}: {length} bytes long, its type {size}: damaged file"
            )
        if len(places) * size == len(data) - len(data) % size:
            records = data[: len(places) * size].view(layout)
        else:
            records = data[starts[places, None] + np.arange(size)].view(layout).reshape(-1)
        found[rtype] = places + count + 1, records
    return found


class Contracts:
    """The contract of each instrument id on each UTC date.

    An option is named by its OSI symbol (`AAPL  250221C00250000`), a stock by its ticker. Each also has a number: its
    row in `names` and in `frame`, which has the columns root and symbol, and for options expiry, right and strike
    (1e-4 USD). An id is looked up in the definitions first, then in the files' metadata, then in the mapping records of
    a live session.
    """

    def __init__(self, *, stocks: bool) -> None:
        self._stocks = stocks
        self._pattern = r"^[A-Z]" if stocks else _OSI
        self._terms: _Terms = _stocks_of if stocks else _options_of
        self.frame = self._terms(pl.Series(dtype=pl.String))[0]
        self.names = pl.Series("instrument", dtype=pl.String)
        self._numbers: dict[str, int] = {}
        # By priority and file. Spans of one file do not overlap; those of different files may.
        self._tables: dict[tuple[int, str], _Table] = {}

    def add_metadata(self, header: Header) -> None:
        """Add the symbol mappings of a file's metadata."""
        ids, first, last, names = [], [], [], []
        for symbol, intervals in header.mappings.items():
            for interval in intervals:
                # Depending on the request, either the symbol or the interval holds the id.
                name, number = symbol, interval["symbol"]
                if symbol.isdigit():
                    name, number = number, symbol
                if number.isdigit():
                    ids.append(int(number))
                    first.append(_day(interval["start_date"]))
                    last.append(_day(interval["end_date"]))
                    names.append(name)
        spans = np.array(ids, np.int64), np.array(first, np.int64), np.array(last, np.int64)
        self._add((1, str(header.path)), *spans, pl.Series(names, dtype=pl.String))

    def add_mappings(self, header: Header, records: Records) -> None:
        """Add symbol mapping records. An undefined bound means no bound."""
        start, end = (records[name].astype(np.int64) for name in ("start_ts", "end_ts"))
        first, last = np.maximum(start // DAY, 0), np.where(end <= 0, _LAST_DAY, -(-end // DAY))
        asked, given = _text(records["stype_in_symbol"]), _text(records["stype_out_symbol"])
        names = given.zip_with(given.str.contains(self._pattern), asked)
        self._add((2, str(header.path)), records["instrument_id"], first, last, names)

    def add_names(self, header: Header, named: pl.DataFrame) -> None:
        """Add the contracts' names that the records of a file carry (`Chunk.named`)."""
        ids, days = (named[name].to_numpy() for name in ("id", "day"))
        self._add((1, str(header.path)), ids, days, days + 1, named["name"])

    def add_definitions(self, header: Header, records: Records, notes: Counter[str]) -> None:
        """Add instrument definitions. Each is valid for the UTC date on which it was sent."""
        day = records["ts_recv"].astype(np.int64) // DAY
        names = _text(records["raw_symbol"]) if self._stocks else _defined_options(records, notes)
        self._add((0, str(header.path)), records["instrument_id"], day, day + 1, names)

    def numbers(self, ids: NDArray[np.uint32], ts: Numbers) -> Numbers:
        """Return the contract's number for each instrument id and instant (ns UTC); -1 where it is unknown."""
        days, found = ts // DAY, np.full(len(ids), -1, np.int64)
        for _, table in sorted(self._tables.items()):
            missing = np.flatnonzero(found < 0)
            found[missing] = table.look_up(ids[missing], days[missing])
        return found

    def _add(
        self, table: tuple[int, str], ids: Records, first: Numbers, last: Numbers, names: pl.Series
    ) -> None:
        """Add ids with their symbols; each is valid from the day `first` up to the day before `last`."""
        fresh = names.filter(names.str.contains(self._pattern).fill_null(False)).unique(maintain_order=True)
        fresh = fresh.filter(pl.Series([name not in self._numbers for name in fresh], dtype=pl.Boolean))
        parsed, valid = self._terms(fresh)
        fresh = fresh.filter(valid)
        self._numbers.update({name: self.frame.height + n for n, name in enumerate(fresh)})
        self.names = pl.concat([self.names, fresh.alias("instrument")], rechunk=True)
        self.frame = pl.concat([self.frame, parsed.filter(valid)], rechunk=True)
        numbers = np.array([self._numbers.get(name, -1) for name in names], dtype=np.int64)
        good = numbers >= 0
        if good.any():
            spans = self._tables.setdefault(table, _Table())
            spans.add(ids[good], first[good], last[good], numbers[good])


class _Table:
    """Spans of days by id, each with its contract. A look-up is a search in a sorted column."""

    def __init__(self) -> None:
        self._added: list[tuple[Numbers, Numbers, Numbers]] = []
        self._starts = self._ends = self._contracts = np.empty(0, np.int64)

    def add(self, ids: Records, first: Numbers, last: Numbers, contracts: Numbers) -> None:
        self._added.append((_place(ids, first), last, contracts))

    def look_up(self, ids: Records, days: Numbers) -> Numbers:
        if self._added:
            known = (self._starts, self._ends, self._contracts)
            starts, ends, contracts = map(np.concatenate, zip(known, *self._added, strict=True))
            order = np.argsort(starts, kind="stable")
            self._starts, self._ends, self._contracts = starts[order], ends[order], contracts[order]
            self._added = []
        places = np.searchsorted(self._starts, _place(ids, days), side="right") - 1
        fits = (places >= 0) & (self._starts[places] >> 20 == ids) & (days < self._ends[places])
        return np.where(fits, self._contracts[places], -1)


def _place(ids: Records, days: Numbers) -> Numbers:
    return (ids.astype(np.int64) << 20) | np.clip(days, 0, _LAST_DAY)


def _day(value: date) -> int:
    return (value - date(1970, 1, 1)).days


def _text(values: Records) -> pl.Series:
    return pl.Series(values.astype(str), dtype=pl.String)


def _defined_options(records: Records, notes: Counter[str]) -> pl.Series:
    """Return the OSI symbols of instrument definitions.

    A definition whose expiry, right and strike differ from its OSI symbol is noted. Without an OSI symbol, they give
    one.
    """
    frame = pl.DataFrame(
        {
            "osi": _text(records["raw_symbol"]),
            "root": _text(records["asset"]),
            "right": _text(records["instrument_class"]),
            "strike": records["strike_price"] // 1_000_000,
            # Midnight UTC is the previous evening in New York. The expiry is the UTC date.
            "expiry": pl.Series(records["expiration"]).cast(pl.Int64, strict=False).cast(pl.Datetime("ns")),
        }
    )
    terms = pl.format(
        "{}{}{}",
        pl.col("expiry").dt.strftime("%y%m%d"),
        "right",
        pl.col("strike").cast(pl.String).str.zfill(8),
    )
    frame = frame.select(
        "osi",
        own=pl.col("root").str.pad_end(6) + terms,
        known=pl.col("osi").str.contains(_OSI),
        differs=pl.col("osi").str.tail(15) != terms,
    )
    if wrong := int((frame["known"] & frame["differs"]).sum()):
        notes[DISAGREEING] += wrong
    return frame["osi"].zip_with(frame["known"], frame["own"])


def _stocks_of(tickers: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """Return root and symbol of tickers, and a mask of those that are stocks."""
    symbols = symbols_of(tickers)
    return pl.DataFrame({"root": symbols, "symbol": symbols}), symbols.is_not_null()


def _options_of(osi: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """Return root, symbol, expiry, right and strike of OSI symbols, and a mask of those that are valid contracts."""
    parts = (
        pl.DataFrame({"osi": osi}).select(pl.col("osi").str.extract_groups(_OSI).alias("part")).unnest("part")
    )
    parts.columns = ["root", "expiry", "right", "strike"]
    frame = parts.select(
        "root",
        expiry=("20" + pl.col("expiry")).str.to_date("%Y%m%d", strict=False),
        right=pl.col("right").cast(Right),
        # An OSI strike is in thousandths of a USD.
        strike=pl.col("strike").cast(pl.Int64) * 10,
    )
    terms = frame.select(
        pl.col("root").cast(pl.Categorical), underlyings(frame["root"]), "expiry", "right", "strike"
    )
    return terms, terms["expiry"].is_not_null() & (terms["strike"] > 0)
