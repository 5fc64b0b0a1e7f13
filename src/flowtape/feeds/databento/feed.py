"""Databento live: `databento:OPRA.PILLAR?symbols=SPY.OPT,QQQ.OPT`, by the vendor's own client.

`tcbbo` (for stocks: `tbbo`) has the quote in the trade's record. With `schema=trades`, trades and quotes (`cmbp-1`, for
stocks `mbp-1`) arrive separately and are joined here. Records are read and numbered as those of DBN files, so live feed
and files are one source, and a day may come from either. The gap since the cursor is filled by the vendor's intraday
replay, of at most 24 hours, which selects records by `ts_event`.

A print's `copy` is made of its time of receipt and of its position among records of the same venue, contract and times.
The vendor does not number records, so a record repeated within a connection would be two prints. A stream over TCP has
no such repeats, and the replay of a new connection numbers its records as the old connection did.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import databento_dbn as dbn
import numpy as np
import polars as pl

from flowtape.errors import FeedError, TapeError, UsageError
from flowtape.feeds.base import Delivery, Outlet
from flowtape.feeds.credentials import Account, need_client
from flowtape.feeds.databento.session import Gateway, Request
from flowtape.feeds.delivery import Joined, begin, name_of, place_of
from flowtape.feeds.limits import DEFAULTS, Limits
from flowtape.feeds.quote_join import timely
from flowtape.feeds.rows import NOT_UNDERSTOOD, Rows, tell
from flowtape.feeds.specs import Spec
from flowtape.model.prints import underlying_of
from flowtape.orderflow.quotes import STANDING
from flowtape.readers import Rejects
from flowtape.readers import databento as files
from flowtape.readers.common import completed
from flowtape.readers.dbn import DEFINITION, SYMBOL_MAPPING, Contracts, Header, Records
from flowtape.readers.publishers import NBBO, OPTIONS, STOCKS, VENUES
from flowtape.readers.tickers import symbol_of

PORT = 13000
OVERLAP = 5 * 10**9
"""The time (ns) before the newest print at which a replay starts, because records are in the order of arrival."""
REPLAYED = 24 * 3600 * 10**9
"""The time span (ns) that the vendor replays."""
REFUSED = ("AUTH_FAILED", "API_KEY_DEACTIVATED", "INVALID_SUBSCRIPTION")
"""The vendor's errors after which a retry cannot succeed."""
ERRORS, OTHERS = "error messages", "records of other types"
SLOW, OUT_OF_STEP = "slow reader warnings", "quotes and trades replayed too far apart to be held"
TOO_OLD = "gaps longer than the vendor replays"
_PARENT = re.compile(r"^([A-Z0-9./]+)\.OPT$")
_OSI = re.compile(r"^([A-Z0-9./]{1,6}) *\d{6}[CP]\d{8}$")
_NAMING = frozenset({SYMBOL_MAPPING, DEFINITION})
_NONE = pl.DataFrame()
_SYSTEM, _ERROR = int(dbn.RType.SYSTEM), int(dbn.RType.ERROR)


@dataclass(slots=True)
class _Step:
    """Trades and quotes to be joined, and for each schema the time (ns) that its replay has reached."""

    reached: dict[str, int]
    trades: list[pl.DataFrame]
    quotes: list[pl.DataFrame]
    unnamed: int = 0


class _Decoder:
    """Converts the records of one connection to prints and quotes. Instrument numbers are valid for one session."""

    def __init__(self, feed: DatabentoFeed, header: Header, outlet: Outlet) -> None:
        self._feed, self._header, self._outlet = feed, header, outlet
        self._contracts = Contracts(stocks=feed.stocks)
        self._packets: dict[int, Records] = {}
        self._row = 0

    def records(self, rtype: int, data: Sequence[bytes]) -> Records:
        """Return records of one type as an array."""
        return np.frombuffer(b"".join(data), self._header.layout(rtype))

    def learn(self, segment: dict[int, list[bytes]]) -> None:
        """Add the contracts in mapping and definition records."""
        if SYMBOL_MAPPING in segment:
            self._contracts.add_mappings(self._header, self.records(SYMBOL_MAPPING, segment[SYMBOL_MAPPING]))
        if DEFINITION in segment:
            notes = Counter[str]()
            self._contracts.add_definitions(
                self._header, self.records(DEFINITION, segment[DEFINITION]), notes
            )
            tell(notes, self._outlet)

    def trades(self, rtype: int, data: Sequence[bytes]) -> pl.DataFrame:
        """Return trade records as prints with the columns of their contract, and `instrument` as quotes have it."""
        records, again = self._packet(rtype, data)
        numbers = np.arange(self._row - again + 1, self._row + len(records) - again + 1)
        self._row += len(records) - again
        rejects, feed = Rejects(), self._feed
        prints = files.prints_of(
            numbers, records, self._contracts, feed.dataset, "live", rejects, self._note,
            quoted=not feed.joined, again=again,
        )  # fmt: skip
        for reason, many in rejects.reasons.items():
            self._outlet.count(reason, many)
        prints = self._named(timely(prints, self._outlet))
        prints = prints.hstack(self._contracts.frame[prints["contract"]])
        asset = pl.lit("stock" if feed.stocks else "option")
        return prints.drop("contract", "publisher").with_columns(asset=asset, condition=pl.lit("unknown"))

    def quotes(self, rtype: int, data: Sequence[bytes]) -> pl.DataFrame:
        """Return quote records in `quotes.STANDING`. Of equal times, the last to arrive has the highest `seq`."""
        records, again = self._packet(rtype, data)
        feed, seq = self._feed, files.arrivals(records, files.QUOTED)[again:]
        raw = files.quotes_of(
            feed.schemas[1], feed.dataset, records[again:], self._contracts, feed.by, self._note, seq
        )
        quotes = self._named(timely(raw, self._outlet))
        return quotes.select(pl.col(name).cast(kind) for name, kind in STANDING.items())

    def _named(self, frame: pl.DataFrame) -> pl.DataFrame:
        name = self._contracts.names[frame["contract"]].alias("instrument")
        if "publisher" in self._feed.by:
            venues = pl.DataFrame([name, frame["publisher"]])
            name = venues.select(
                pl.format("{}@{}", "instrument", "publisher").alias("instrument")
            ).to_series()
        return frame.with_columns(name)

    def _packet(self, rtype: int, data: Sequence[bytes]) -> tuple[Records, int]:
        """Return records after the earlier records with the same last `ts_recv`, and the number of those. The numbering
        of a packet continues, so no record must wait for the end of its packet."""
        records = self.records(rtype, data)
        before = self._packets.get(rtype, records[:0])
        joined = np.concatenate([before.view(np.uint8), records.view(np.uint8)]).view(records.dtype)
        self._packets[rtype] = joined[files.last_packet(joined["ts_recv"]) :].copy()
        return joined, len(before)

    def _note(self, what: str, many: int) -> None:
        if many:
            self._outlet.count(what, many)


class DatabentoFeed:
    """A dataset of Databento. The cursor is a time in ns: that of the newest print, or, if quotes are joined, the time
    from which to receive everything again."""

    always_open = False
    ends = False

    def __init__(
        self, dataset: str, wanted: dict[str, tuple[str, ...]], schemas: tuple[str, ...], start: int | None,
        gateway: str | None, port: int, limits: Limits,
    ) -> None:  # fmt: skip
        """Take the `wanted` symbols by kind and the `schemas`: one with quotes, or one of trades and one of quotes.
        `start` (ns) is where to begin without a cursor."""
        self.dataset, self.wanted, self.schemas = dataset, wanted, schemas
        self._gateway, self._port, self._limits = gateway, port, limits
        self.stocks, self.joined = dataset in STOCKS, len(schemas) > 1
        self.source = f"databento:{dataset}"
        self.assets = frozenset({"stock" if self.stocks else "option"})
        names = [name for symbols in wanted.values() for name in symbols]
        every = names == ["ALL_SYMBOLS"]
        self.symbols = () if every else tuple(sorted({self._symbol(name) for name in names}))
        self.name = name_of(f"{self.source}:{schemas[0]}", names)
        of_venues = self.joined and schemas[1] in files.OWN_BOOK and dataset not in NBBO
        self.by = ("contract", "publisher") if of_venues else ("contract",)
        self._rtypes = tuple(files.rtype_of(schema) for schema in schemas)
        self._start, self._newest = start, 0
        self._joined = Joined(lambda rows, outlet: completed(rows, outlet.count), limits)

    def _symbol(self, name: str) -> str:
        if self.stocks:
            return str(symbol_of(name))
        found = _PARENT.match(name) or _OSI.match(name)
        return underlying_of(found[1] if found else name)

    def restore(self, standing: pl.DataFrame) -> None:
        """Restore the quotes that were stored with the cursor."""
        if self.joined:
            self._joined.restore(standing)

    def run(self, outlet: Outlet, cursor: str | None) -> None:
        """Connect and deliver, as `base.Feed.run` defines."""
        start = self._place(cursor, outlet)
        account = Account("Databento", "databento", ("DATABENTO_API_KEY",))
        need_client("databento", "databento")
        schemas = (*self.schemas, "definition")
        request = Request(self.dataset, schemas, self.wanted, start, self._gateway, self._port)
        replayed = self.schemas if start is not None else ()
        step = _Step(dict.fromkeys(replayed, 0), [], [])
        with Gateway(request, account, outlet, self._limits) as gateway:
            decoder: _Decoder | None = None
            while not outlet.stop.is_set():
                records = gateway.take(0.1)
                if decoder is None and gateway.header is not None:
                    decoder = _Decoder(self, gateway.header, outlet)
                    if cursor is None:
                        begun = min(int(gateway.header.metadata.start), time.time_ns())
                        begin(outlet, begun if self._start is None else self._start)
                if decoder is not None and records:
                    outlet.heard()
                    self._take_all(decoder, records, step, outlet)
                    outlet.stop.wait(self._limits.gather)

    def _place(self, cursor: str | None, outlet: Outlet) -> int | None:
        place = place_of(cursor, "Databento")
        if place is None:
            place = self._start
        else:
            self._newest = max(self._newest, place)
            place -= 0 if self.joined else OVERLAP
        if place is not None and place < time.time_ns() - REPLAYED:
            outlet.count(TOO_OLD)
            return 0
        return place

    def _take_all(self, decoder: _Decoder, records: Sequence[bytes], step: _Step, outlet: Outlet) -> None:
        try:
            for segment in _segments(records):
                self._take(decoder, segment, step, outlet)
        except (ValueError, TapeError, pl.exceptions.PolarsError) as error:
            outlet.count(NOT_UNDERSTOOD)
            raise FeedError(f"Databento: records that cannot be read: {error}") from None

    def _take(self, decoder: _Decoder, segment: dict[int, list[bytes]], step: _Step, outlet: Outlet) -> None:
        known = {*_NAMING, *self._rtypes, _SYSTEM, _ERROR}
        if others := sum(len(data) for rtype, data in segment.items() if rtype not in known):
            outlet.count(OTHERS, others)
        decoder.learn(segment)
        rtype = self._rtypes[0]
        trades = decoder.trades(rtype, segment[rtype]) if rtype in segment else None
        for data in segment.get(_SYSTEM, ()):
            _heed(data, step, outlet)
        if self.joined:
            rtype = self._rtypes[1]
            quotes = decoder.quotes(rtype, segment[rtype]) if rtype in segment else None
            self._join(trades, quotes, step, outlet)
        elif trades is not None and trades.height:
            # A record's time that is ahead of the clock must not make the replay skip later records.
            newest = min(int(trades["ts"].to_physical().max()), time.time_ns())  # type: ignore[arg-type]
            self._newest = max(self._newest, newest)
            outlet.put(Delivery(completed(trades, outlet.count), str(self._newest)))
        for data in segment.get(_ERROR, ()):
            outlet.count(ERRORS)
            _refuse(data)

    def _join(
        self, trades: pl.DataFrame | None, quotes: pl.DataFrame | None, step: _Step, outlet: Outlet
    ) -> None:
        for schema, frame, held in zip(
            self.schemas, (trades, quotes), (step.trades, step.quotes), strict=True
        ):
            if frame is not None and frame.height:
                held.append(frame)
                if schema in step.reached:
                    newest = frame["ts"].to_physical().max()
                    step.reached[schema] = max(step.reached[schema], int(newest))  # type: ignore[arg-type]
        if step.reached and sum(frame.height for frame in (*step.trades, *step.quotes)) > self._limits.held:
            outlet.count(OUT_OF_STEP)
            step.reached.clear()
        due = [_until(held, step.reached) if held else _NONE for held in (step.trades, step.quotes)]
        self._joined.put(Rows(*due), outlet)


def _segments(records: Sequence[bytes]) -> list[dict[int, list[bytes]]]:
    """Return records by type, in segments that end where names follow data, because an id has the meaning of the last
    mapping before it."""
    segments: list[dict[int, list[bytes]]] = [{}]
    for record in records:
        rtype = record[1]
        if rtype in _NAMING and segments[-1].keys() - _NAMING:
            segments.append({})
        segments[-1].setdefault(rtype, []).append(record)
    return segments


def _until(held: list[pl.DataFrame], reached: dict[str, int]) -> pl.DataFrame:
    """Remove and return the held rows up to the time that all replays have reached. The vendor replays each schema
    separately, so quotes could otherwise arrive too late for their trades."""
    frame = pl.concat(held)
    if not reached:
        held.clear()
        return frame
    due = frame["ts"].to_physical() <= min(reached.values())
    held[:] = [frame.filter(~due)]
    return frame.filter(due)


def _message(data: bytes, kind: Any) -> tuple[str, int]:
    """Return the text and the code of a system or error message."""
    layout = np.dtype(kind._dtypes)
    record = np.frombuffer(data[: layout.itemsize], layout)[0]
    return record["msg" if kind is dbn.SystemMsg else "err"].decode(errors="replace"), int(record["code"])


def _heed(data: bytes, step: _Step, outlet: Outlet) -> None:
    text, code = _message(data, dbn.SystemMsg)
    if code == int(dbn.SystemCode.SLOW_READER_WARNING):
        outlet.count(SLOW)
    if code == int(dbn.SystemCode.REPLAY_COMPLETED):
        named = [schema for schema in step.reached if schema in re.split(r"[^a-z0-9-]+", text.lower())]
        step.unnamed += not named
        # Definitions are replayed too. A message without a schema's name may concern any of them.
        for schema in named or (list(step.reached) if step.unnamed > len(step.reached) else ()):
            del step.reached[schema]


def _refuse(data: bytes) -> None:
    text, code = _message(data, dbn.ErrorMsg)
    if any(code == int(getattr(dbn.ErrorCode, name)) for name in REFUSED):
        raise UsageError(f"--feed databento: refused by Databento: {text}")
    raise FeedError(f"Databento: {text}")


def databento(spec: Spec, limits: Limits = DEFAULTS) -> DatabentoFeed:
    """Return the feed of a spec: `symbols`, `schema`, `start`, and `gateway`, `port` for another server. Raises
    `UsageError`."""
    spec.refuse_others("symbols", "schema", "start", "gateway", "port")
    if spec.target not in VENUES:
        raise UsageError(
            f"--feed {spec.text}: dataset {spec.target} is neither {OPTIONS} nor one of US equities"
        )
    stocks, options = spec.target in STOCKS, spec.options
    own = "tbbo" if stocks else "tcbbo"
    schemas: dict[str, tuple[str, ...]] = {
        own: (own,),
        "trades": ("trades", "mbp-1" if stocks else "cmbp-1"),
    }
    schema = options.get("schema", own)
    if schema not in schemas:
        raise UsageError(f"--feed {spec.text}: schema {schema} is not one of {', '.join(sorted(schemas))}")
    port = int(spec.number("port", PORT, 1, 65535))
    wanted = _wanted(spec, stocks=stocks)
    return DatabentoFeed(
        spec.target, wanted, schemas[schema], _start(spec), options.get("gateway"), port, limits
    )


def _wanted(spec: Spec, *, stocks: bool) -> dict[str, tuple[str, ...]]:
    """Return the symbols by kind. A symbol must not be part of another, or the vendor would send it twice."""
    # A stock's ticker is case-sensitive: `TpC` is a preferred share of `T`, `TPC` another company.
    names: tuple[str, ...] = tuple(
        dict.fromkeys(filter(None, (part.strip() for part in spec.options.get("symbols", "").split(","))))
    )
    if not names:
        raise UsageError(f"--feed {spec.text}: symbols names what to take, as in symbols=SPY.OPT,QQQ.OPT")
    if names == ("ALL_SYMBOLS",):
        return {"raw_symbol": names}
    wanted: dict[str, tuple[str, ...]] = {}
    parents = {match[1] for name in names if (match := _PARENT.match(name))}
    for name in names:
        osi = _OSI.match(name)
        if not (symbol_of(name) if stocks else osi or _PARENT.match(name)):
            what = "a stock's ticker" if stocks else "ROOT.OPT or an OSI symbol"
            raise UsageError(f"--feed {spec.text}: {name} is not {what}")
        if osi and osi[1] in parents:
            raise UsageError(f"--feed {spec.text}: {name} is part of {osi[1]}.OPT")
        kind = "parent" if not stocks and not osi else "raw_symbol"
        wanted[kind] = (*wanted.get(kind, ()), name)
    return wanted


def _start(spec: Spec) -> int | None:
    text = spec.options.get("start")
    if text is None:
        return None
    try:
        at: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise UsageError(f"--feed {spec.text}: start is {text!r}, not an instant as in 2026-02-20T14:30:00Z")
    return int(at.timestamp()) * 10**9 + at.microsecond * 1000
