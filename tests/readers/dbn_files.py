"""DBN files written and read with the official package, record by record in plain Python."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import databento_dbn as dbn
import numpy as np
import polars as pl
import zstandard

from flowtape.model.prints import SCHEMA
from flowtape.readers import Options, Tape, databento

DAY = date(2025, 2, 20)
OPEN = int(datetime(2025, 2, 20, 14, 30, tzinfo=UTC).timestamp()) * 10**9
MIDNIGHT = OPEN - 52_200 * 10**9
SECOND = 10**9
SYMBOLS = {7: "AAPL  250221C00250000", 8: "SPXW  250221P05900000", 9: "AAPL1 250321C00247500"}
UNDEF = dbn.UNDEF_PRICE


def trade(
    contract=7, *, ts=OPEN, delay=200_000, price=1_230_000_000, size=1, venue=26, seq=1, **more
) -> Any:  # fmt: skip
    return dbn.TradeMsg(
        venue, contract, ts, price, size, more.pop("action", dbn.Action.TRADE), dbn.Side.NONE, 0, ts + delay,
        sequence=seq, **more,
    )  # fmt: skip


def consolidated(
    rtype, *, contract=7, ts=OPEN, delay=200_000, price=1_230_000_000, size=1, venue=26, bid=1_200_000_000,
    ask=1_300_000_000, sizes=(3, 4), recv=None, action=dbn.Action.TRADE,
) -> Any:  # fmt: skip
    levels = dbn.ConsolidatedBidAskPair(bid, ask, *sizes)
    recv = ts + delay if recv is None else recv
    return dbn.CMBP1Msg(rtype, venue, contract, ts, price, size, action, dbn.Side.NONE, recv, levels=levels)


def tcbbo(**more) -> Any:
    return consolidated(dbn.RType.TCBBO, **more)


def cmbp(bid, ask, ts, action=dbn.Action.ADD, **more) -> Any:
    return consolidated(dbn.RType.CMBP_1, bid=bid, ask=ask, ts=ts, venue=30, action=action, **more)


def book(
    bid, ask, ts=OPEN, *, contract=7, venue=2, action=dbn.Action.ADD, price=UNDEF, size=0, delay=1000, seq=1
) -> Any:  # fmt: skip
    levels = dbn.BidAskPair(bid, ask, 5, 6)
    return dbn.MBP1Msg(
        venue, contract, ts, price, size, action, dbn.Side.NONE, 0, ts + delay, levels=levels, sequence=seq
    )  # fmt: skip


def mbp(bid, ask, ts, venue, action=dbn.Action.ADD) -> Any:
    return book(bid, ask, ts, venue=venue, action=action)


def bbo(bid, ask, recv, *, contract=7, venue=2, last=dbn.UNDEF_TIMESTAMP) -> Any:
    levels = dbn.BidAskPair(bid, ask, 5, 6)
    return dbn.BBOMsg(
        dbn.RType.BBO_1S, venue, contract, last, UNDEF, 0, dbn.Side.NONE, recv, levels=levels
    )  # fmt: skip


def cbbo(bid, ask, recv, last=dbn.UNDEF_TIMESTAMP) -> Any:
    levels = dbn.ConsolidatedBidAskPair(bid, ask, 5, 6)
    return dbn.CBBOMsg(dbn.RType.CBBO_1S, 30, 7, last, UNDEF, 0, dbn.Side.NONE, recv, levels=levels)


def definition(
    cls: Any, contract: int, symbol: str, expires: datetime, *, strike: int = 250, right: str = "C"
) -> bytes:
    record = np.zeros(1, np.dtype(cls._dtypes))
    record["length"], record["rtype"], record["publisher_id"] = record.itemsize // 4, 19, 30
    record["instrument_id"], record["raw_symbol"], record["asset"] = contract, symbol, "AAPL"
    record["ts_event"] = record["ts_recv"] = OPEN - 10_800 * SECOND
    record["expiration"] = int(expires.timestamp()) * SECOND
    record["strike_price"], record["instrument_class"] = strike * 10**9, right
    return record.tobytes()


def metadata(schema: str | None, symbols: Any = SYMBOLS, version: int = 3, **more) -> bytes:
    """Return metadata. `symbols` maps an id, or (id, first day, day after the last), to an OSI symbol."""
    spans = [key if isinstance(key, tuple) else (key, DAY, date(2025, 2, 21)) for key in symbols]
    mappings = [
        SimpleNamespace(
            raw_symbol=osi, intervals=[SimpleNamespace(start_date=first, end_date=last, symbol=str(number))]
        )
        for (number, first, last), osi in zip(spans, symbols.values(), strict=True)
    ]
    more = {"dataset": "OPRA.PILLAR", "start": MIDNIGHT, "end": MIDNIGHT + 86_400 * SECOND} | more
    return bytes(
        dbn.Metadata(
            stype_in=dbn.SType.RAW_SYMBOL, stype_out=dbn.SType.INSTRUMENT_ID, symbols=list(symbols.values()),
            mappings=mappings, schema=schema and dbn.Schema.from_str(schema), version=version, **more,
        )
    )  # fmt: skip


def write(path: Path, schema: str | None, records: Iterable[Any], **more) -> Path:
    data = metadata(schema, **more) + b"".join(map(bytes, records))
    path.write_bytes(zstandard.ZstdCompressor().compress(data) if path.suffix == ".zst" else data)
    return path


def read(*paths: Path, **options) -> tuple[Tape, pl.DataFrame]:
    (tape,) = databento.read(paths, Options(**options))
    frames = [batch.prints for batch in tape.batches]
    for frame in frames:
        assert dict(frame.schema) == SCHEMA
    return tape, pl.concat(frames)


def decoded(path: Path) -> list[Any]:
    data = path.read_bytes()
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    decoder = dbn.DBNDecoder()
    decoder.write(data)
    return [record for record in decoder.decode() if not isinstance(record, dbn.Metadata)]


def units(price: int) -> int | None:
    if price == UNDEF:
        return None
    return int((Decimal(price) / 100_000).quantize(Decimal(1), ROUND_HALF_EVEN))


def ns(column: pl.Series) -> list[int | None]:
    return column.to_physical().to_list()


def quotes_of(prints: pl.DataFrame) -> list[tuple[Any, ...]]:
    return list(zip(prints["bid"], prints["ask"], ns(prints["quote_ts"]), strict=True))
