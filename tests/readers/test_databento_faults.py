"""Bad records and unusable DBN files are reported, and never misread."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import pytest
import zstandard
from dbn_files import (
    OPEN,
    SECOND,
    SYMBOLS,
    UNDEF,
    cmbp,
    metadata,
    read,
    tcbbo,
    trade,
    write,
)

from flowtape.errors import RowError, TapeError
from flowtape.readers import Options, databento

BAD = {
    "price is undefined": tcbbo(price=UNDEF),
    "price is": tcbbo(price=-1_000_000),
    "size is": tcbbo(size=0),
    "ts_event is undefined": tcbbo(ts=dbn.UNDEF_TIMESTAMP, recv=OPEN),
    "action is not T": tcbbo(action=dbn.Action.ADD),
    "instrument_id has no known contract": tcbbo(contract=10),
    "ts_recv is undefined": tcbbo(recv=dbn.UNDEF_TIMESTAMP),
    "bid is out of range": tcbbo(bid=UNDEF - 1),
}


def test_bad_records_are_reported_and_others_kept(tmp_path: Path) -> None:
    records = [tcbbo(ts=OPEN - SECOND)]
    for bad in BAD.values():
        records += [bad, tcbbo()]
    path = write(tmp_path / "t.dbn", "tcbbo", records)
    tape, prints = read(path)
    assert prints.height == len(BAD) + 1
    assert tape.rejects.count == len(BAD)
    rejects = sorted(tape.rejects.first, key=lambda reject: reject.row)
    assert [reject.row for reject in rejects] == [2 * n + 2 for n in range(len(BAD))]
    for reject, reason in zip(rejects, BAD, strict=True):
        assert reject.file == "t.dbn"
        assert reject.reason.startswith(reason)
    assert str(UNDEF) in rejects[0].reason


@pytest.mark.parametrize("reason", BAD)
def test_a_strict_read_stops_at_the_first_bad_record(tmp_path: Path, reason: str) -> None:
    path = write(tmp_path / "t.dbn", "tcbbo", [tcbbo(), tcbbo(), BAD[reason]])
    with pytest.raises(RowError, match=f"t.dbn: row 3: {reason}"):
        read(path, strict=True)


def test_equal_prints_beyond_the_copy_limit_are_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "t.dbn", "tcbbo", [tcbbo()] * 1030 + [tcbbo(ts=OPEN + 1)])
    tape, prints = read(path, batch_rows=100)
    assert prints.height == 1025
    assert prints.select("ts", "copy").is_unique().all()
    assert [reject.row for reject in tape.rejects.first] == list(range(1025, 1031))


def test_trades_of_an_invalid_contract_are_rejected(tmp_path: Path) -> None:
    symbols = {7: "AAPL  250231C00250000", 8: "AAPL.OPT", 9: "AAPL  250221C00000000"}
    tape, prints = read(write(tmp_path / "t.dbn", "trades", [trade(n) for n in symbols], symbols=symbols))
    assert (prints.height, tape.rejects.count) == (0, 3)


def test_bad_records_are_numbered_within_their_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t.dbn", "tcbbo", [tcbbo(), trade(), trade(), tcbbo(size=0)])
    tape, prints = read(path)
    assert prints.height == 1
    assert [reject.row for reject in tape.rejects.first] == [4]
    assert tape.notes == {databento.OTHER_RECORDS: 2}


def test_quotes_of_other_symbols_are_not_joined(tmp_path: Path) -> None:
    trades = write(tmp_path / "t.dbn", "trades", [trade()], symbols={7: SYMBOLS[7]})
    quotes = write(tmp_path / "q.dbn", "cmbp-1", [cmbp(1, 2, OPEN)], symbols={8: SYMBOLS[8]})
    with pytest.raises(TapeError, match="a cmbp-1 file holds no prints"):
        databento.read([trades, quotes], Options())


@pytest.mark.parametrize(
    ("schema", "more", "reason"),
    [
        ("cmbp-1", {}, "holds no prints: give it together with the trades"),
        ("definition", {}, "holds no prints"),
        ("mbo", {}, "schema mbo is not one of trades, tbbo"),
        (
            "trades",
            {"dataset": "GLBX.MDP3"},
            "dataset GLBX.MDP3 is neither OPRA.PILLAR nor one of US equities",
        ),
    ],
)
def test_files_without_a_tape_are_refused(
    tmp_path: Path, schema: str, more: dict[str, Any], reason: str
) -> None:
    path = write(tmp_path / "x.dbn", schema, [trade()], **more)
    with pytest.raises(TapeError, match=f"x.dbn: .*{reason}"):
        read(path)


def damaged(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(TapeError) as caught:
        read(path)
    return str(caught.value)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    whole, path = metadata("trades") + bytes(trade()) * 5, tmp_path / "x.dbn"
    assert "empty" in damaged(path, b"")
    assert "not a DBN file" in damaged(path, b"ts,price\n1,2\n")
    assert "holds no records" in damaged(path, metadata("trades"))
    assert "newer version" in damaged(path, b"DBN\x09" + whole[4:])
    assert "record 3: length 0 bytes" in damaged(path, whole[: -48 * 3] + bytes(48) + whole[-48 * 2 :])
    assert "record 6: 56 bytes long, its type 48" in damaged(path, whole + b"\x0e\0" + bytes(54))
    assert not databento.matches(path, b"DBN,price\n")


@pytest.mark.parametrize("suffix", ["dbn", "dbn.zst", "dbn.gz"])
def test_a_file_cut_anywhere_is_an_error(tmp_path: Path, suffix: str) -> None:
    start, record = metadata("trades"), bytes(trade())
    whole = start + record * 21
    pack = {"dbn": bytes, "dbn.zst": zstandard.ZstdCompressor().compress, "dbn.gz": gzip.compress}[suffix]
    packed, path = pack(whole), tmp_path / f"x.{suffix}"
    for cut in range(0, len(packed), 7):
        # A raw file cut between two records is a valid shorter file.
        if suffix != "dbn" or cut <= len(start) or (cut - len(start)) % len(record):
            damaged(path, packed[:cut])
    path.write_bytes(packed)
    assert read(path)[1].height == 21


def test_trades_far_out_of_order_are_an_error(tmp_path: Path) -> None:
    trades = [trade(ts=OPEN + n * SECOND, seq=n) for n in (0, 60, 1)]
    quotes = [cmbp(10**9, 2 * 10**9, OPEN + n * SECOND - 1) for n in (60, 0)]
    with pytest.raises(TapeError, match="order of time"):
        read(
            write(tmp_path / "t.dbn", "trades", trades),
            write(tmp_path / "q.dbn", "cmbp-1", quotes),
            batch_rows=1,
        )
