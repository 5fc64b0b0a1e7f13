"""DBN files of US equities give the same prints from every schema, with the right venue's quote."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import databento_dbn as dbn
import polars as pl
import pytest
from click.testing import CliRunner
from dbn_files import (
    MIDNIGHT,
    OPEN,
    SECOND,
    UNDEF,
    bbo,
    book,
    cbbo,
    cmbp,
    definition,
    ns,
    quotes_of,
    read,
    tcbbo,
    trade,
)
from dbn_files import write as write_any
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import LATER

import flowtape
from flowtape.cli import commands
from flowtape.errors import TapeError, UsageError
from flowtape.model.prices import ROUNDED, SIDE_LOST
from flowtape.model.prints import IDENTITY
from flowtape.pipeline.ingestor import Ingestor
from flowtape.readers import Options, databento, guess, publishers
from flowtape.storage import open_store

STOCKS = {7: "AAPL", 8: "BRK.B"}
T = dbn.Action.TRADE
USD = 10**9


def write(path: Path, schema: str | None, records: Sequence[Any], dataset: str = "XNAS.ITCH", **more) -> Path:
    return write_any(path, schema, records, **({"dataset": dataset, "symbols": STOCKS} | more))


def sale(n: int, **more) -> dict[str, Any]:
    """Return the fields of the n-th trade, which are the same in every schema."""
    return {"contract": 7 + n % 2, "ts": OPEN + n // 3, "price": (150 + n) * USD, "size": n + 1, **more}


def bookings(count: int) -> list[Any]:
    """Return a venue's `mbp-1`: at trade n, and in its T record, the bid is 100 USD plus n cents."""
    records = []
    for n in range(count):
        about = sale(n, venue=2, seq=n)
        bid, ask = (10_000 + n) * USD // 100, 200 * USD
        records.append(book(bid, ask, about["ts"] - 1, contract=about["contract"]))
        records.append(book(bid, ask, action=T, **about))
    return records


def test_trades_with_their_own_quote_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.dbn.zst",
        "tbbo",
        [
            book(100 * USD, 101 * USD, price=100_500_050_000, size=300, action=T),
            book(UNDEF, UNDEF, OPEN + 5, contract=8, price=4 * USD, size=1, action=T),
        ],
    )
    assert guess(path) == "databento"
    tape, prints = read(path)
    assert (tape.source, tape.format) == ("databento:XNAS.ITCH", "databento")
    rows = prints.drop("seq", "ts", "quote_ts", "underlying", *LATER).rows()
    assert rows == [
        ("stock", "AAPL", "AAPL", None, None, None, 1_005_000, 3_000_000, 1_000_000, 1_010_000, 50_000, 60_000,
         "unknown", "XNAS"),
        ("stock", "BRK.B", "BRK.B", None, None, None, 40_000, 10_000, None, None, 50_000, 60_000, "unknown", "XNAS"),
    ]  # fmt: skip
    assert ns(prints["ts"]) == [OPEN, OPEN + 5]
    assert prints["quote_ts"].null_count() == prints["underlying"].null_count() == 2
    assert tape.rejects.count == 0
    assert tape.notes == {databento.VENUE_QUOTES: 2, ROUNDED: 1, SIDE_LOST: 1}


def test_the_trades_of_an_mbp_file_are_those_of_tbbo(tmp_path: Path) -> None:
    records = bookings(40)
    trades = [record for record in records if record.action == T]
    tape, prints = read(write(tmp_path / "m.dbn", "mbp-1", records), batch_rows=7)
    _, expected = read(write(tmp_path / "t.dbn", "tbbo", trades))
    assert prints.equals(expected)
    assert prints["bid"].to_list() == [1_000_000 + 100 * n for n in range(40)]
    assert (tape.rejects.count, tape.notes) == (0, {databento.VENUE_QUOTES: 40})
    # A bad trade is reported by its number among all the file's records.
    bad = [*records[:3], book(USD, USD, OPEN, price=UNDEF, size=1, action=T)]
    tape, _ = read(write(tmp_path / "b.dbn", "mbp-1", bad))
    assert [(reject.row, reject.reason.split(" (")[0]) for reject in tape.rejects.first] == [
        (4, "price is undefined or out of range")
    ]


def test_files_without_a_trade_are_refused_by_name(tmp_path: Path) -> None:
    quotes = [book(USD, 2 * USD, OPEN - 9), book(USD, 3 * USD, OPEN - 5)]
    path = write(tmp_path / "m.dbn", "mbp-1", quotes)
    why = r"m\.dbn: an mbp-1 file without a trade holds no prints: give it together with the trades file"
    for reading in (lambda: read(path), lambda: flowtape.read(path)):
        with pytest.raises(TapeError, match=why):
            reading()
    done = CliRunner().invoke(commands, ["ingest", str(path), "--store", str(tmp_path / "x.duckdb")])
    assert isinstance(done.exception, TapeError)
    assert "an mbp-1 file without a trade holds no prints" in str(done.exception)
    with pytest.raises(UsageError, match="path: names no file"):
        flowtape.read([])


def test_a_print_is_the_same_in_every_schema(tmp_path: Path) -> None:
    sales = [sale(n, venue=2, delay=1000) for n in range(30)]
    files = {
        "trades": [trade(**about, seq=n) for n, about in enumerate(sales)],
        "tbbo": [book(USD, 2 * USD, action=T, **about, seq=n) for n, about in enumerate(sales)],
        "mbp-1": [book(USD, 2 * USD, action=T, **about, seq=n) for n, about in enumerate(sales)],
        "tcbbo": [tcbbo(**about) for about in sales],
    }
    found = [
        read(write(tmp_path / f"{schema}.dbn", schema, records))[1].select(IDENTITY)
        for schema, records in files.items()
    ]
    assert found[0].is_unique().all()
    assert all(frame.equals(found[0]) for frame in found)
    ingestor = Ingestor(open_store(tmp_path / "flow.duckdb"))
    with closing(ingestor.store):
        tapes = [databento.read([tmp_path / f"{schema}.dbn"], Options())[0] for schema in files]
        reports = [ingestor.ingest(tape) for tape in tapes]
    counts = [(report.added, report.duplicates, report.replaced_quotes) for report in reports]
    assert counts == [(30, 0, 0), (0, 0, 30), (0, 30, 0), (0, 0, 30)]


def test_trades_are_joined_with_their_venue_s_book(tmp_path: Path) -> None:
    quotes = [
        book(100 * USD, 101 * USD, OPEN),
        book(102 * USD, 103 * USD, OPEN + 10),
        book(1 * USD, 2 * USD, OPEN + 10, contract=8),
        book(50 * USD, 60 * USD, OPEN + 15, action=T, price=USD, size=1),
        book(104 * USD, 105 * USD, OPEN + 20),
        book(UNDEF, UNDEF, OPEN + 30, action=dbn.Action.CLEAR),
    ]
    times = [OPEN, OPEN + 1, OPEN + 10, OPEN + 11, OPEN + 20, OPEN + 21, OPEN + 31]
    trades = [trade(ts=ts, venue=2, seq=n) for n, ts in enumerate(times)]
    tape, prints = read(
        write(tmp_path / "q.dbn", "mbp-1", quotes), write(tmp_path / "t.dbn", "trades", trades)
    )
    first, second, third = (
        (1_000_000, 1_010_000, OPEN), (1_020_000, 1_030_000, OPEN + 10), (1_040_000, 1_050_000, OPEN + 20),
    )  # fmt: skip
    assert quotes_of(prints) == [
        (None, None, None), first, first, second, second, third, (None, None, OPEN + 30),
    ]  # fmt: skip
    assert [path.name for path in tape.files] == ["t.dbn", "q.dbn"]
    assert tape.notes == {databento.QUOTES_TRADES: 1, databento.VENUE_QUOTES: 7}


EVENTS = st.lists(
    st.tuples(
        st.booleans(), st.sampled_from([7, 8]), st.sampled_from([39, 40, 41]), st.integers(0, 30), st.integers(1, 99)
    ),
    min_size=1,
    max_size=60,
)  # fmt: skip


@settings(deadline=None, max_examples=25)
@given(EVENTS, st.integers(1, 20))
def test_a_print_gets_the_last_quote_of_its_venue(events: Any, batch_rows: int) -> None:
    """DBEQ.BASIC mixes venues without a common quote. The result equals a search in plain Python."""
    events = sorted(events, key=lambda event: event[3])
    sales = [event[1:4] for event in events if event[0]] or [(7, 39, 5)]
    changes = [event[1:] for event in events if not event[0]] or [(7, 39, 0, 1)]
    trades = [
        trade(contract, ts=OPEN + ts, venue=venue, delay=100, price=USD) for contract, venue, ts in sales
    ]
    quotes = [
        book(bid * USD, 100 * USD, OPEN + ts, contract=contract, venue=venue, delay=100)
        for contract, venue, ts, bid in changes
    ]
    expected: list[tuple[int, int, int] | tuple[None, None, None]] = []
    for contract, venue, ts in sales:
        before = [quote for quote in changes if quote[:2] == (contract, venue) and quote[2] < ts]
        expected.append(
            (before[-1][3] * 10_000, 1_000_000, OPEN + before[-1][2]) if before else (None, None, None)
        )
    with TemporaryDirectory() as folder:
        files = [
            write(Path(folder) / "t.dbn", "trades", trades, "DBEQ.BASIC"),
            write(Path(folder) / "q.dbn", "mbp-1", quotes, "DBEQ.BASIC"),
        ]
        tape, prints = read(*files, batch_rows=batch_rows)
    assert quotes_of(prints) == expected
    assert tape.notes == {databento.VENUE_QUOTES: len(sales)}


def test_the_best_quote_of_all_venues_has_priority(tmp_path: Path) -> None:
    trades = [trade(ts=OPEN + 10, venue=venue, price=USD) for venue in (81, 82)]
    files = [
        write(tmp_path / "t.dbn", "trades", trades, "XNAS.BASIC"),
        write(tmp_path / "c.dbn", "cmbp-1", [cmbp(2 * USD, 3 * USD, OPEN)], "XNAS.BASIC"),
        write(tmp_path / "m.dbn", "mbp-1", [book(4 * USD, 5 * USD, OPEN + 5, venue=81)], "XNAS.BASIC"),
    ]
    tape, prints = read(*files)
    assert quotes_of(prints) == [(20_000, 30_000, OPEN)] * 2
    assert tape.notes == {databento.QUOTES_UNUSED: 1}
    tape, prints = read(files[0], files[2])
    assert quotes_of(prints) == [(40_000, 50_000, OPEN + 5), (None, None, None)]
    assert prints["venue"].to_list() == ["XNAS", "FINN"]
    assert tape.notes == {databento.VENUE_QUOTES: 2}
    record = book(6 * USD, 7 * USD, action=T, price=USD, size=1, venue=81)
    own = write(tmp_path / "o.dbn", "tbbo", [record], "XNAS.BASIC")
    # The best quote of all venues replaces a trade's own quote; a venue's book does not.
    assert quotes_of(read(own, files[2])[1]) == [(60_000, 70_000, None)]
    assert quotes_of(read(own, files[1])[1]) == [(None, None, None)]


@pytest.mark.parametrize(("schema", "record"), [("bbo-1s", bbo), ("cbbo-1s", cbbo)])
def test_sampled_quotes_have_the_time_of_their_second_s_end(tmp_path: Path, schema: str, record: Any) -> None:
    quotes = [record(USD, 2 * USD, OPEN), record(3 * USD, 4 * USD, OPEN + SECOND, last=OPEN - SECOND)]
    trades = [trade(ts=OPEN + SECOND + step, venue=2) for step in (-1, 0, 1)]
    _, prints = read(write(tmp_path / "t.dbn", "trades", trades), write(tmp_path / "q.dbn", schema, quotes))
    assert prints["bid"].to_list() == [10_000, 10_000, 30_000]


def test_an_aggregated_quote_is_not_noted_as_a_venue_quote(tmp_path: Path) -> None:
    record = book(USD, 2 * USD, action=T, price=USD, size=1, venue=95)
    tape, prints = read(write(tmp_path / "t.dbn", "tbbo", [record], "EQUS.MINI"))
    assert (tape.source, prints["venue"].to_list(), tape.notes) == ("databento:EQUS.MINI", ["EQUS"], {})


def test_a_consolidated_tape_is_joined_with_the_nbbo_only(tmp_path: Path) -> None:
    quotes = [book(USD, 2 * USD, OPEN - 9, venue=135), book(3 * USD, 4 * USD, OPEN - 5, venue=124)]
    trades = write(tmp_path / "t.dbn", "trades", [trade(venue=124)], "EQUS.SIP")
    sampled = [bbo(USD, 2 * USD, OPEN - 9, venue=135), bbo(3 * USD, 4 * USD, OPEN - 5, venue=124)]
    for schema, made in (("mbp-1", quotes), ("bbo-1s", sampled)):
        tape, prints = read(trades, write(tmp_path / f"{schema}.dbn", schema, made, "EQUS.SIP"))
        assert quotes_of(prints) == [(10_000, 20_000, OPEN - 9)]
        assert tape.notes == {databento.QUOTES_NOT_NBBO: 1}
    with pytest.raises(TapeError, match="a mbp-1 file holds no prints"):
        read(tmp_path / "mbp-1.dbn")


def test_symbols_by_date_from_metadata_and_definitions(tmp_path: Path) -> None:
    symbols = {
        (7, date(2025, 2, 20), date(2025, 2, 21)): "FB",
        (7, date(2025, 2, 21), date(2025, 2, 22)): "META",
        (8, date(2025, 2, 20), date(2025, 2, 22)): "BRK B",
    }
    day = 86_400 * SECOND
    sales = [(7, MIDNIGHT), (7, MIDNIGHT + day), (8, MIDNIGHT), (7, MIDNIGHT + 2 * day), (9, MIDNIGHT)]
    records = [trade(contract, ts=ts, venue=9) for contract, ts in sales]
    tape, prints = read(write(tmp_path / "t.dbn", "trades", records, "XNYS.PILLAR", symbols=symbols))
    assert prints["symbol"].to_list() == prints["root"].to_list() == ["FB", "META", "BRK.B"]
    assert prints["venue"].to_list() == ["XNYS"] * 3
    assert [reject.row for reject in tape.rejects.first] == [4, 5]
    never = datetime(2100, 1, 1, tzinfo=UTC)
    defined = [definition(dbn.InstrumentDefMsg, n, name, never) for n, name in ((7, "AAPL"), (8, "T-C"))]
    files = [
        write(
            tmp_path / "n.dbn", "trades", [trade(7, venue=9), trade(8, venue=9)], "XNYS.PILLAR", symbols={}
        ),
        write(tmp_path / "d.dbn", "definition", defined, "XNYS.PILLAR", symbols={}),
    ]
    tape, prints = read(*files)
    assert prints["symbol"].to_list() == ["AAPL", "T.PRC"]
    assert tape.notes == {}


def test_stocks_and_options_are_never_confused(tmp_path: Path) -> None:
    osi = {7: "AAPL  250221C00250000", 8: "AAPL"}
    for dataset, symbol in (("XNAS.ITCH", (8, "AAPL", None)), ("OPRA.PILLAR", (7, "AAPL", "C"))):
        records = [trade(number, price=number * USD) for number in osi]
        tape, prints = read(write(tmp_path / "t.dbn", "trades", records, dataset, symbols=osi))
        assert prints.select(pl.col("price") // 10_000, "symbol", "right").rows() == [symbol]
        assert tape.rejects.count == 1


def test_files_of_two_datasets_are_not_joined(tmp_path: Path) -> None:
    trades = write(tmp_path / "t.dbn", "trades", [trade(venue=2)])
    other = write(tmp_path / "m.dbn", "mbp-1", bookings(3), "EQUS.MINI")
    tapes = databento.read([trades, other], Options())
    assert [(tape.source, tape.name) for tape in tapes] == [
        ("databento:XNAS.ITCH", "t.dbn"),
        ("databento:EQUS.MINI", "m.dbn"),
    ]
    with pytest.raises(TapeError, match=r"a cmbp-1 file holds no prints: .* same dataset"):
        read(trades, write(tmp_path / "c.dbn", "cmbp-1", [cmbp(USD, USD, OPEN)], "EQUS.PLUS"))
    with pytest.raises(TapeError, match="a bbo-1s file holds no prints"):
        read(write(tmp_path / "b.dbn", "bbo-1s", [bbo(USD, USD, OPEN)]))


@pytest.mark.parametrize("with_trades", [True, False])
def test_a_recording_of_stocks_is_read(tmp_path: Path, with_trades: bool) -> None:
    kinds = dbn.SType.RAW_SYMBOL, dbn.SType.INSTRUMENT_ID
    open_end = {"start_ts": dbn.UNDEF_TIMESTAMP, "end_ts": dbn.UNDEF_TIMESTAMP}
    records = [dbn.SymbolMappingMsg(2, 7, OPEN, kinds[0], "ALL_SYMBOLS", kinds[0], "AAPL", **open_end)]
    for n in range(50):
        about = {"ts": OPEN + 10 * n + 5, "price": USD, "size": 1, "venue": 2}
        records.append(book((n + 1) * USD, 100 * USD, OPEN + 10 * n))
        records.append(trade(**about) if with_trades else book((n + 1) * USD, 100 * USD, action=T, **about))
    tape, prints = read(write(tmp_path / "live.dbn", None, records, symbols={}, end=None))
    assert prints["symbol"].unique().to_list() == ["AAPL"]
    assert prints["bid"].to_list() == [10_000 * (n + 1) for n in range(50)]
    assert tape.notes[databento.VENUE_QUOTES] == 50


def test_stock_venue_names_equal_the_official_package() -> None:
    for dataset, venues in publishers.VENUES.items():
        for number, name in venues.items():
            assert f"{dataset}.{name} ({number})" in str(trade(venue=number))
    # A missing venue would be named by its number, and by its name once added: two prints of one.
    named = [str(trade(venue=number)) for number in range(300)]
    for dataset, venues in publishers.VENUES.items():
        assert sum(f"{dataset}." in text for text in named) == len(venues), dataset
