"""Quotes and trades for measuring, made from a seed: no vendor's data, and none of a market's reasons in it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import databento_dbn as dbn
import numpy as np
import polars as pl

from benchmarks.scale import DAY
from flowtape.model.prints import Timestamp, day_bounds

CONTRACTS = 50_000
"""A thirtieth of OPRA's, as one of thirty processes has them."""
RATE = 320_000
"""Quotes in a second of tape: a thirtieth of 225 thousand million in a session."""
START = int(day_bounds(DAY)[0].timestamp() + 10 * 3600) * 10**9
UNITS = 100_000
"""DBN's price units in one of ours."""
_PARTS = 26**2


def instruments(contracts: int = CONTRACTS) -> pl.Series:
    """OSI symbols, by the contract's number."""
    root = [f"Q{chr(65 + n // 26)}{chr(65 + n % 26)}".ljust(6) for n in range(_PARTS)]
    return pl.Series(
        "instrument", [f"{root[n % _PARTS]}260619C{1000 * (n // _PARTS + 1):08}" for n in range(contracts)]
    )


def _times(draw: np.random.Generator, many: int, rate: float) -> np.ndarray:
    """Instants that never repeat: of two quotes of one instant a plain join has no order."""
    return START + np.cumsum(draw.integers(1, round(2e9 / rate), many))


def quotes(many: int, rate: float = RATE, contracts: int = CONTRACTS, seed: int = 1) -> pl.DataFrame:
    """Quotes in order of time, each contract's a walk of cents; busy contracts have many times what quiet ones have."""
    draw = np.random.default_rng(seed)
    contract = (contracts * draw.random(many) ** 2).astype(np.int64)
    bid, ask = np.empty(many, np.int64), np.empty(many, np.int64)
    order = np.argsort(contract, kind="stable")
    steps = draw.choice([-100, 0, 0, 100], (2, many))
    bid[order] = 10_000 + np.abs(np.cumsum(steps[0]))
    ask[order] = 100 + np.abs(np.cumsum(steps[1])) % 2_000
    return pl.DataFrame(
        {
            "contract": contract,
            "ts": _times(draw, many, rate),
            "bid": bid,
            "ask": bid + ask,
            "bid_size": draw.integers(1, 200, many),
            "ask_size": draw.integers(1, 200, many),
        }
    ).with_columns(pl.col("ts").cast(Timestamp))


def trades(many: int, rate: float, contracts: int = CONTRACTS, seed: int = 2) -> pl.DataFrame:
    """Trades in order of time: of fewer contracts than the quotes, as most of a chain is quoted and not traded."""
    draw = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "contract": (contracts * draw.random(many) ** 4).astype(np.int64),
            "ts": _times(draw, many, rate),
            "price": 10_000 + 100 * draw.integers(0, 2_000, many),
            "size": draw.integers(1, 20, many),
        }
    ).with_columns(pl.col("ts").cast(Timestamp))


def _records(frame: pl.DataFrame, kind: type, rtype: int, publisher: int, action: bytes) -> np.ndarray:
    records = np.zeros(frame.height, np.dtype(kind._dtypes))
    records["length"], records["rtype"], records["publisher_id"] = records.itemsize // 4, rtype, publisher
    records["instrument_id"], records["ts_event"] = frame["contract"] + 1, frame["ts"].to_physical()
    records["ts_recv"] = records["ts_event"] + 200_000
    records["action"], records["side"], records["price"] = action, b"N", dbn.UNDEF_PRICE
    return records


def quote_records(frame: pl.DataFrame) -> np.ndarray:
    """Quotes as records of `cmbp-1`."""
    records = _records(frame, dbn.CMBP1Msg, int(dbn.RType.CMBP_1), 30, b"A")
    for side in ("bid", "ask"):
        records[f"{side}_px_00"] = frame[side] * UNITS
        records[f"{side}_sz_00"] = frame[f"{side}_size"]
    return records


def trade_records(frame: pl.DataFrame) -> np.ndarray:
    """Trades as records of `trades`."""
    records = _records(frame, dbn.TradeMsg, int(dbn.RType.MBP_0), 26, b"T")
    records["price"], records["size"] = frame["price"] * UNITS, frame["size"]
    return records


def carried_records(frame: pl.DataFrame) -> np.ndarray:
    """Trades as records of `tcbbo`, each with a quote of its own."""
    records = _records(frame, dbn.CMBP1Msg, int(dbn.RType.TCBBO), 26, b"T")
    records["price"], records["size"] = frame["price"] * UNITS, frame["size"]
    records["bid_px_00"], records["ask_px_00"] = records["price"], records["price"] + 100 * UNITS
    records["bid_sz_00"] = records["ask_sz_00"] = 10
    return records


def write_dbn(path: Path, schema: str, records: np.ndarray) -> None:
    """A DBN file of the whole day, as the vendor's batch delivers it, with its symbols in the metadata."""
    names = instruments()
    mappings = [
        SimpleNamespace(
            raw_symbol=name,
            intervals=[SimpleNamespace(start_date=DAY, end_date=DAY + timedelta(days=1), symbol=str(number))],
        )
        for number, name in enumerate(names, 1)
    ]
    metadata = dbn.Metadata(
        dataset="OPRA.PILLAR", schema=dbn.Schema.from_str(schema), version=3, start=START, end=START + 3600 * 10**9,
        stype_in=dbn.SType.RAW_SYMBOL, stype_out=dbn.SType.INSTRUMENT_ID, symbols=names.to_list(), mappings=mappings,
    )  # fmt: skip
    path.write_bytes(bytes(metadata) + records.tobytes())
