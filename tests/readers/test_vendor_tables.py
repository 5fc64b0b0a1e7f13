"""Vendors' other tables: frames of Alpaca's package, Massive's files as Parquet."""

from datetime import UTC, datetime

import polars as pl
import pytest
from reading import read_all

from flowtape.readers import guess

TS = datetime(2025, 2, 20, 14, 30, tzinfo=UTC)
NS = int(TS.timestamp()) * 10**9


def alpaca(conditions, *, symbol="AAPL", tape="C"):
    count = len(conditions)
    return pl.DataFrame(
        {
            "symbol": symbol, "timestamp": pl.Series([TS] * count), "exchange": "V", "price": 1.5, "size": 100.0,
            "id": range(1, count + 1), "conditions": conditions, "tape": tape,
        }
    )  # fmt: skip


def test_alpaca_trade_frames_need_no_mapping(tmp_path):
    frame = alpaca([["@", "I"], ["@", "F"], ["@"], ["B"], ["@", "M"]])
    frame.write_parquet(tmp_path / "a.parquet")
    texts = frame.with_columns(
        pl.col("conditions").map_elements(lambda codes: str(codes.to_list()), pl.String)
    )
    texts.with_columns(pl.col("timestamp").cast(pl.String)).write_csv(tmp_path / "a.csv")
    for path in (tmp_path / "a.parquet", tmp_path / "a.csv"):
        assert guess(path) == "table"
        tape, prints = read_all(path)
        assert (tape.source, tape.rejects.count) == ("alpaca", 0)
        assert prints.select("symbol", "condition", "price_flags", "venue", "seq").rows() == [
            ("AAPL", "STK_ODD_LOT", 0, "V", 1), ("AAPL", "STK_SWEEP", 3, "V", 2), ("AAPL", "STK_REGULAR", 3, "V", 3),
            ("AAPL", "STK_BUNCHED", 3, "V", 4),
        ]  # fmt: skip
        assert list(tape.notes.values()) == [1]


def test_alpaca_options_become_contracts_and_tapes_set_conditions(tmp_path):
    option = alpaca([["a"], ["I"]], symbol="SPXW250221C05900000").drop("tape", "id")
    option.write_parquet(tmp_path / "o.parquet")
    _, prints = read_all(tmp_path / "o.parquet")
    assert prints.select("asset", "symbol", "root", "strike", "condition").rows() == [
        ("option", "SPX", "SPXW", 59_000_000, "SLAN"), ("option", "SPX", "SPXW", 59_000_000, "AUTO"),
    ]  # fmt: skip
    alpaca([["B"]], symbol="GE", tape="A").write_parquet(tmp_path / "s.parquet")
    assert read_all(tmp_path / "s.parquet")[1]["condition"].to_list() == ["STK_AVERAGE"]


@pytest.mark.parametrize(
    ("ticker", "source"), [("AAPL", "us_stocks_sip"), ("O:AAPL250221C00250000", "us_options_opra")]
)
def test_massive_s_files_may_be_parquet(tmp_path, ticker, source):
    trades = pl.DataFrame(
        {
            "ticker": ticker, "conditions": ["12,37", "16", None], "correction": [0, 0, 8], "exchange": 4,
            "price": [1.25, 1.26, 1.27], "sip_timestamp": [NS, NS + 1, NS + 2], "size": [100, 200, 300],
            "participant_timestamp": NS, "sequence_number": [1, 2, 3],
        }
    )  # fmt: skip
    quotes = pl.DataFrame(
        {
            "ticker": ticker, "sip_timestamp": [NS - 5], "bid_price": 1.2, "bid_size": 1, "ask_price": 1.3,
            "ask_size": 2, "sequence_number": 1,
        }
    )  # fmt: skip
    for name, frame in (("t", trades), ("q", quotes)):
        frame.write_csv(tmp_path / f"{name}.csv")
        frame.write_parquet(tmp_path / f"{name}.parquet")
    lists = trades.with_columns(pl.col("conditions").str.split(",").cast(pl.List(pl.Int32)))
    lists.write_parquet(tmp_path / "l.parquet")
    for given in (["t"], ["t", "q"]):
        told, expected = read_all(*(tmp_path / f"{name}.csv" for name in given))
        for files in (given, [name.replace("t", "l") for name in given]):
            tape, prints = read_all(*(tmp_path / f"{name}.parquet" for name in files))
            assert (tape.format, tape.source) == ("massive", f"massive:{source}")
            assert prints.equals(expected)
            assert tape.notes == told.notes
