"""DBN files are read as the official decoder reads them, record by record."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random
from typing import Any

import databento_dbn as dbn
import polars as pl
import pytest
from dbn_files import (
    MIDNIGHT,
    OPEN,
    SECOND,
    SYMBOLS,
    UNDEF,
    cbbo,
    cmbp,
    decoded,
    definition,
    mbp,
    ns,
    quotes_of,
    read,
    tcbbo,
    trade,
    units,
    write,
)

from flowtape.errors import TapeError
from flowtape.model.prices import ROUNDED
from flowtape.readers import Options, databento, guess, publishers
from flowtape.readers.dbn import DISAGREEING


def sample(shared: Path, schema: str) -> Path:
    return shared / f"data/databento/opra-pillar-aapl-2025-02-20.{schema}.dbn.zst"


def test_sample_trades_equal_the_official_decoder(shared: Path) -> None:
    path = sample(shared, "trades")
    assert guess(path) == "databento"
    tape, prints = read(path)
    records = decoded(path)
    assert tape.source == "databento:OPRA.PILLAR"
    assert (len(records), prints.height, tape.rejects.count, dict(tape.notes)) == (4, 4, 0, {})
    assert ns(prints["ts"]) == [record.ts_event for record in records]
    assert prints["price"].to_list() == [units(record.price) for record in records]
    assert prints["size"].to_list() == [record.size for record in records]
    assert prints["copy"].to_list() == [(record.ts_recv - record.ts_event) << 10 for record in records]
    assert prints["venue"].to_list() == [str(record).split("PILLAR.")[1][:4] for record in records]
    contract = prints.select("asset", "symbol", "root", "expiry", "right", "strike", "condition").unique()
    assert contract.rows() == [("option", "AAPL", "AAPL", date(2025, 2, 21), "C", 2_500_000, "unknown")]
    assert (
        prints.select("bid", "ask", "bid_size", "ask_size", "quote_ts", "underlying")
        .null_count()
        .sum_horizontal()[0]
        == 24
    )


def test_sample_tbbo_has_venue_quotes_and_notes_it(shared: Path) -> None:
    path = sample(shared, "tbbo")
    tape, prints = read(path)
    levels = [record.levels[0] for record in decoded(path)]
    assert prints["bid"].to_list() == [units(level.bid_px) for level in levels]
    assert prints["ask"].to_list() == [units(level.ask_px) for level in levels]
    assert prints["bid_size"].to_list() == [level.bid_sz for level in levels]
    assert prints["ask_size"].to_list() == [level.ask_sz for level in levels]
    assert prints["quote_ts"].null_count() == 4
    assert tape.notes == {databento.VENUE_QUOTES: 4}


@pytest.mark.parametrize("schema", ["trades", "tbbo"])
def test_sample_cbbo_quotes_are_joined_by_their_second(shared: Path, schema: str) -> None:
    paths = [sample(shared, name) for name in (schema, "cbbo-1s", "definition")]
    tape, prints = read(*paths)
    expected = []
    for record in decoded(paths[0]):
        quote = [quote for quote in decoded(paths[1]) if quote.ts_recv < record.ts_event][-1]
        level = quote.levels[0]
        expected.append((units(level.bid_px), units(level.ask_px), quote.ts_recv))
    assert quotes_of(prints) == expected
    assert len({row[2] for row in expected}) == 2
    assert tape.notes == {databento.QUOTES_LIMITED: 1}
    assert tape.files == tuple(paths)


def test_sample_mbp_join_uses_consolidated_records_only(shared: Path) -> None:
    tape, prints = read(sample(shared, "trades"), sample(shared, "mbp-1"))
    quotes = decoded(sample(shared, "mbp-1"))
    nbbo = [quote.ts_event for quote in quotes if quote.publisher_id == 30]
    assert set(quotes_of(prints)) == {(None, None, nbbo[-1])}
    assert tape.notes[databento.QUOTES_NOT_NBBO] == len(quotes) - len(nbbo) == 3


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 200,000 tcbbo records of three contracts. Many share a packet; some are equal in all fields."""
    random, records, ts, recv = Random(7), [], OPEN, OPEN + 200_000
    for _ in range(200_000):
        if random.random() < 0.5:
            ts, recv = ts + random.randrange(10_000_000), recv + random.randrange(10_000_000)
        records.append(
            tcbbo(
                contract=random.choice((7, 8, 9)), ts=ts, recv=recv, price=random.randrange(10**10),
                size=random.randrange(1, 500), venue=random.choice((22, 26, 61)),
                bid=random.choice((UNDEF, 0, random.randrange(10**10))), ask=random.randrange(10**10),
            )
        )  # fmt: skip
    return write(tmp_path_factory.mktemp("dbn") / "many.dbn.zst", "tcbbo", records)


def test_tcbbo_records_equal_the_official_decoder(many: Path) -> None:
    tape, prints = read(many)
    contracts = {7: ("AAPL", "AAPL", "C", 2_500_000), 8: ("SPX", "SPXW", "P", 59_000_000)}
    contracts[9] = ("AAPL", "AAPL1", "C", 2_475_000)
    names, seen, expected = {22: "XCBO", 26: "XISX", 61: "SPHR"}, dict[Any, int](), []
    for record in decoded(many):
        level = record.levels[0]
        alike = (record.instrument_id, record.publisher_id, record.ts_event, record.ts_recv)
        place = seen[alike] = seen.get(alike, -1) + 1
        symbol, root, right, strike = contracts[record.instrument_id]
        expected.append(
            (
                record.ts_event, symbol, root, right, strike, units(record.price), record.size,
                units(level.bid_px), units(level.ask_px), level.bid_sz, level.ask_sz,
                names[record.publisher_id], (record.ts_recv - record.ts_event) << 10 | place,
            )
        )  # fmt: skip
    names_of = ["symbol", "root", "right", "strike", "price", "size", "bid", "ask"]
    names_of += ["bid_size", "ask_size", "venue", "copy"]
    found = zip(ns(prints["ts"]), *(prints[name].to_list() for name in names_of), strict=True)
    assert list(found) == expected
    assert tape.rejects.count == 0
    assert max(seen.values()) > 0
    assert prints.select("venue", "root", "ts", "copy").is_unique().all()
    assert prints["quote_ts"].null_count() == prints.height


@pytest.mark.parametrize("batch_rows", [3001, 50_000])
def test_batch_size_does_not_change_prints(many: Path, batch_rows: int) -> None:
    (tape,) = databento.read([many], Options(batch_rows=batch_rows))
    batches = list(tape.batches)
    assert sum(batch.rows for batch in batches) == 200_000
    assert max(batch.rows for batch in batches) < 2 * batch_rows + 1000
    assert [batch.done for batch in batches] == sorted(batch.done for batch in batches)
    assert batches[-1].done == 1
    assert pl.concat(batch.prints for batch in batches).equals(read(many)[1])


def stream_of_trades_and_quotes(seed: int) -> tuple[list[Any], list[Any]]:
    """Return trades and cmbp-1 records in order of arrival: event times up to a second late, many equal."""
    random, arriving = Random(seed), []
    for _ in range(30_000):
        contract, ts = random.choice((7, 8, 9)), OPEN + random.randrange(3000) * SECOND // 100
        if random.random() < 0.3:
            record = trade(contract, ts=ts, delay=contract * SECOND // 10, seq=len(arriving))
        else:
            bid = random.choice((UNDEF, random.randrange(10**4) * 10**5))
            action = random.choice((dbn.Action.ADD, dbn.Action.ADD, dbn.Action.TRADE, dbn.Action.CLEAR))
            record = cmbp(bid, 10**9, ts, contract=contract, delay=contract * SECOND // 10, action=action)
        arriving.append(record)
    arriving.sort(key=lambda record: record.ts_recv)
    trades = [record for record in arriving if isinstance(record, dbn.TradeMsg)]
    return trades, [record for record in arriving if not isinstance(record, dbn.TradeMsg)]


def last_before(trades: Sequence[Any], quotes: Sequence[Any]) -> list[tuple[Any, ...]]:
    times: dict[int, list[int]] = {}
    bids: dict[int, list[tuple[Any, ...]]] = {}
    for quote in sorted(quotes, key=lambda quote: quote.ts_event):
        if quote.action != dbn.Action.TRADE:
            times.setdefault(quote.instrument_id, []).append(quote.ts_event)
            level = quote.levels[0]
            row = units(level.bid_px), units(level.ask_px), quote.ts_event
            bids.setdefault(quote.instrument_id, []).append(row)
    places = [bisect_left(times[record.instrument_id], record.ts_event) for record in trades]
    return [
        bids[record.instrument_id][place - 1] if place else (None, None, None)
        for record, place in zip(trades, places, strict=True)
    ]


@pytest.mark.parametrize("batch_rows", [700, 500_000])
def test_trades_take_the_last_quote_strictly_before(tmp_path: Path, batch_rows: int) -> None:
    trades, quotes = stream_of_trades_and_quotes(1)
    first = write(tmp_path / "trades.dbn", "trades", trades)
    second = write(tmp_path / "cmbp.dbn.zst", "cmbp-1", quotes)
    tape, prints = read(first, second, batch_rows=batch_rows)
    assert quotes_of(prints) == last_before(trades, quotes)
    assert ns(prints["ts"]) == [record.ts_event for record in trades]
    unused = sum(quote.action == dbn.Action.TRADE for quote in quotes)
    assert tape.notes == {databento.QUOTES_TRADES: unused}


def test_quotes_of_several_files_are_joined(tmp_path: Path) -> None:
    trades, quotes = stream_of_trades_and_quotes(2)
    half = OPEN + 15 * SECOND
    files = [write(tmp_path / "trades.dbn", "trades", trades)]
    for number in (7, 8, 9):
        early = [q for q in quotes if q.instrument_id == number and q.ts_recv < half]
        late = [q for q in quotes if q.instrument_id == number and q.ts_recv >= half]
        files.append(write(tmp_path / f"{number}a.dbn", "cmbp-1", early, end=half))
        files.append(write(tmp_path / f"{number}b.dbn", "cmbp-1", late, start=half))
    assert quotes_of(read(*files)[1]) == last_before(trades, quotes)
    assert quotes_of(read(*reversed(files))[1]) == last_before(trades, quotes)


def test_a_sampled_quote_has_its_second_s_end_as_time(tmp_path: Path) -> None:
    trades = [trade(ts=OPEN + SECOND + step) for step in (-1, 0, 1)]
    # The last trade precedes all trades here, but the quote has the time of the second's end.
    quotes = [cbbo(1 * 10**9, 2 * 10**9, OPEN), cbbo(3 * 10**9, 4 * 10**9, OPEN + SECOND, last=OPEN - SECOND)]
    prints = read(write(tmp_path / "t.dbn", "trades", trades), write(tmp_path / "q.dbn", "cbbo-1s", quotes))[
        1
    ]
    assert prints["bid"].to_list() == [10_000, 10_000, 30_000]


def test_mbp_records_of_venues_and_trades_are_not_nbbo(tmp_path: Path) -> None:
    quotes = [
        mbp(10**9, 2 * 10**9, OPEN - 3, venue=30),
        mbp(5 * 10**9, 6 * 10**9, OPEN - 2, venue=26),
        mbp(7 * 10**9, 8 * 10**9, OPEN - 1, venue=26, action=dbn.Action.TRADE),
    ]
    tape, prints = read(
        write(tmp_path / "t.dbn", "trades", [trade()]), write(tmp_path / "q.dbn", "mbp-1", quotes)
    )
    assert prints.height == 1
    assert quotes_of(prints) == [(10_000, 20_000, OPEN - 3)]
    assert tape.notes == {databento.QUOTES_NOT_NBBO: 1, databento.QUOTES_TRADES: 1}


def test_tcbbo_keeps_its_own_quote(tmp_path: Path) -> None:
    quotes = write(tmp_path / "q.dbn", "cmbp-1", [cmbp(10**9, 2 * 10**9, OPEN - 1)])
    tape, prints = read(write(tmp_path / "t.dbn", "tcbbo", [tcbbo()]), quotes)
    assert quotes_of(prints) == [(12_000, 13_000, None)]
    assert sum(tape.notes.values()) == 1


def test_rounded_prices_are_noted(tmp_path: Path) -> None:
    records = [trade(price=price) for price in (150_000, 250_000, 250_001, 10**9)]
    tape, prints = read(write(tmp_path / "t.dbn", "trades", records))
    assert prints["price"].to_list() == [2, 2, 3, 10_000]
    assert tape.notes == {ROUNDED: 3}


def test_undefined_quotes_are_null(tmp_path: Path) -> None:
    _, prints = read(
        write(tmp_path / "t.dbn", "tcbbo", [tcbbo(bid=UNDEF), tcbbo(bid=UNDEF, ask=UNDEF), tcbbo()])
    )
    assert prints["bid"].to_list() == [None, None, 12_000]
    assert prints["ask"].to_list() == [13_000, None, 13_000]


def test_an_arrival_before_its_event_is_numbered(tmp_path: Path) -> None:
    _, prints = read(write(tmp_path / "t.dbn", "tcbbo", [tcbbo(delay=-3), tcbbo(delay=-3)]))
    assert prints["copy"].to_list() == [-3 << 10, (-3 << 10) + 1]


def test_an_instrument_id_means_another_contract_on_another_date(tmp_path: Path) -> None:
    symbols = {
        (7, date(2025, 2, 20), date(2025, 2, 21)): "AAPL  250221C00250000",
        (7, date(2025, 2, 21), date(2025, 2, 23)): "MSFT  250321P00400000",
    }
    day = 86_400 * SECOND
    times = [MIDNIGHT, MIDNIGHT + day - 1, MIDNIGHT + day, MIDNIGHT + 3 * day - 1, MIDNIGHT + 3 * day]
    quotes = [cmbp(10**9, 2 * 10**9, MIDNIGHT - 1), cmbp(3 * 10**9, 4 * 10**9, MIDNIGHT + 1)]
    first = write(tmp_path / "t.dbn", "trades", [trade(ts=ts) for ts in times], symbols=symbols)
    tape, prints = read(first, write(tmp_path / "q.dbn", "cmbp-1", quotes))
    assert prints["root"].to_list() == ["AAPL", "AAPL", "MSFT", "MSFT"]
    # AAPL and MSFT are instrument 7 on different days. One quote is of a day without a mapping.
    assert prints["bid"].to_list() == [None, 30_000, None, None]
    assert [reject.row for reject in tape.rejects.first] == [5]
    assert tape.notes[databento.QUOTES_UNPLACED] == 1


LAYOUTS = {1: dbn.InstrumentDefMsgV1, 2: dbn.InstrumentDefMsgV2, 3: dbn.InstrumentDefMsg}


@pytest.mark.parametrize("version", LAYOUTS)
def test_definitions_of_every_dbn_version_are_read(tmp_path: Path, version: int) -> None:
    midnight = datetime(2025, 2, 21, tzinfo=UTC)
    records = [
        definition(LAYOUTS[version], 7, "AAPL  250221C00250000", midnight),
        # Expiry, right and strike of the symbol have priority over the record's own.
        definition(LAYOUTS[version], 8, "AAPL  250321P00240000", midnight),
        definition(LAYOUTS[version], 9, "not an OSI", midnight, strike=123, right="P"),
    ]
    path = write(tmp_path / "d.dbn", "definition", records, symbols={}, version=version)
    assert decoded(path)[0].raw_symbol == "AAPL  250221C00250000"
    trades = write(tmp_path / "t.dbn", "trades", [trade(n) for n in (7, 8, 9)], symbols={}, version=version)
    tape, prints = read(trades, path)
    assert prints.select("root", "expiry", "right", "strike").rows() == [
        ("AAPL", date(2025, 2, 21), "C", 2_500_000),
        ("AAPL", date(2025, 3, 21), "P", 2_400_000),
        ("AAPL", date(2025, 2, 21), "P", 1_230_000),
    ]
    assert tape.notes == {DISAGREEING: 1}


@pytest.mark.parametrize("version", [1, 2, 3])
def test_trades_of_every_dbn_version_are_read(tmp_path: Path, version: int) -> None:
    path = write(tmp_path / "t.dbn", "tcbbo", [tcbbo(), tcbbo(contract=8)], version=version)
    assert path.read_bytes()[3] == version
    assert read(path)[1]["root"].to_list() == ["AAPL", "SPXW"]


@pytest.mark.parametrize("version", [1, 3])
def test_a_recording_of_mixed_records_is_read(tmp_path: Path, version: int) -> None:
    open_end = {"start_ts": dbn.UNDEF_TIMESTAMP, "end_ts": dbn.UNDEF_TIMESTAMP, "ts_out": OPEN}
    if version == 1:
        mapping = dbn.SymbolMappingMsgV1(30, 7, OPEN, "AAPL.OPT", SYMBOLS[7], **open_end)
    else:
        kinds = dbn.SType.PARENT, dbn.SType.RAW_SYMBOL
        mapping = dbn.SymbolMappingMsg(30, 7, OPEN, kinds[0], "AAPL.OPT", kinds[1], SYMBOLS[7], **open_end)
    records = [mapping]
    for n in range(500):
        level = dbn.ConsolidatedBidAskPair((n + 1) * 10**8, (n + 2) * 10**8, 1, 1)
        records.append(
            dbn.CMBP1Msg(
                dbn.RType.CMBP_1, 30, 7, OPEN + 10 * n, UNDEF, 0, dbn.Action.ADD, dbn.Side.NONE,
                OPEN + 10 * n, levels=level, ts_out=OPEN,
            )
        )  # fmt: skip
        records.append(trade(ts=OPEN + 10 * n + 5, delay=n, seq=7, ts_out=OPEN))
    path = write(tmp_path / "live.dbn", None, records, symbols={}, ts_out=True, end=None, version=version)
    for batch_rows in (7, 100_000):
        tape, prints = read(path, batch_rows=batch_rows)
        assert prints["copy"].to_list() == [n << 10 for n in range(500)]
        assert prints["bid"].to_list() == [1000 * (n + 1) for n in range(500)]
        assert tape.notes == {databento.OTHER_RECORDS: 500}
    short = write(tmp_path / "bad.dbn", None, [mapping], symbols={}, ts_out=True, end=None, version=version)
    with pytest.raises(TapeError, match="names no schema"):
        read(short)


def test_files_of_two_days_become_two_tapes(tmp_path: Path) -> None:
    files, day = [], 86_400 * SECOND
    for n in range(2):
        start, span = MIDNIGHT + n * day, {(7, date(2025, 2, 20 + n), date(2025, 2, 21 + n)): SYMBOLS[7]}
        about = {"symbols": span, "start": start, "end": start + day - 1}
        files.append(write(tmp_path / f"t{n}.dbn", "trades", [trade(ts=start + 60)], **about))
        quote = cmbp((n + 1) * 10**9, 9 * 10**9, start + 1)
        files.append(write(tmp_path / f"q{n}.dbn", "cmbp-1", [quote], **about))
    tapes = databento.read(files, Options())
    assert [tape.name for tape in tapes] == ["t0.dbn, q0.dbn", "t1.dbn, q1.dbn"]
    bids = [batch.prints["bid"].to_list() for tape in tapes for batch in tape.batches]
    assert bids == [[10_000], [20_000]]


def test_venue_names_equal_the_official_package() -> None:
    venues = publishers.VENUES["OPRA.PILLAR"]
    for number, name in venues.items():
        assert f"OPRA.PILLAR.{name} ({number})" in str(trade(venue=number))
    unknown = [
        number for number in range(300) if "OPRA.PILLAR" in str(trade(venue=number)) and number not in venues
    ]
    assert unknown == []


def test_an_unknown_venue_is_named_by_its_number(tmp_path: Path) -> None:
    assert read(write(tmp_path / "t.dbn", "trades", [trade(venue=999)]))[1]["venue"].to_list() == ["999"]
