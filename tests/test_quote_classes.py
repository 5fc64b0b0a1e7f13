"""The better of two quotes of one print counts, and prints without a quote cause a warning."""

from contextlib import closing
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowtape
from flowtape.model.prints import QUOTE_CLASSES
from flowtape.orderflow.identity import unique
from flowtape.pipeline.ingest import Request
from flowtape.pipeline.ingest import ingest as run_ingest
from flowtape.pipeline.ingestor import Ingestor
from flowtape.readers import open_tapes
from stores import every_print, examples, make_store
from tapes import T0, frame, row

SAMPLE = "databento/opra-pillar-aapl-2025-02-20.{}.dbn.zst"


def ingested(path, *lots):
    """Return the outcomes of ingests of groups of files, and the net volume of the store afterwards."""
    outcomes = []
    with closing(make_store(path)) as store:
        ingestor = Ingestor(store)
        for lot in lots:
            outcomes += run_ingest(ingestor, Request(files=[str(file) for file in lot]))
        store.point()
        bars = store.bars(store.catalog.series["series"], 0, 2**31 - 1)
        net = bars.select(pl.col("buy_volume").sum() - pl.col("sell_volume").sum()).item()
        classes = every_print(store)["quote_class"].unique().to_list()
    for one in outcomes:
        known = one.duplicates + one.replaced_quotes + one.corrections + one.official
        assert one.rows == one.added + known + one.rejected + one.refused, one
    return net, classes, outcomes


def test_an_exact_quote_is_not_replaced_by_a_sample(tmp_path: Path, shared: Path) -> None:
    own = [shared / "data" / SAMPLE.format("tbbo")]
    sampled = [shared / "data" / SAMPLE.format(name) for name in ("trades", "cbbo-1s")]
    if not own[0].exists():
        pytest.skip("no sample")
    alone = ingested(tmp_path / "0.duckdb", own)
    after = ingested(tmp_path / "1.duckdb", own, sampled)
    before = ingested(tmp_path / "2.duckdb", sampled, own)
    assert (alone[0], after[0], before[0]) == (-6, -6, -6)
    assert alone[1] == after[1] == before[1] == ["own"]
    assert (after[2][1].duplicates, after[2][1].replaced_quotes) == (after[2][1].rows, 0)
    assert (before[2][1].duplicates, before[2][1].replaced_quotes) == (0, before[2][1].rows)


QUOTE = st.fixed_dictionaries({
    "quote_class": st.sampled_from(QUOTE_CLASSES),
    "quote_ts": st.sampled_from([None, T0 - 2, T0 - 1]),
    "quote_seq": st.sampled_from([None, 1, 2]),
    "bid": st.sampled_from([None, 10_000, 11_000]),
    "ask": st.sampled_from([None, 12_000, 13_000]),
    "bid_size": st.sampled_from([None, 1, 2]),
    "ask_size": st.sampled_from([None, 1, 2]),
})  # fmt: skip
COLUMNS = ("quote_class", "quote_ts", "quote_seq", "bid", "ask", "bid_size", "ask_size")


def rank(quote):
    """Return a quote's rank by the contract's precedence; unknown parts are least."""
    return (
        QUOTE_CLASSES.index(quote["quote_class"]),
        *(-1 if quote[name] is None else quote[name] for name in COLUMNS[1:]),
    )


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(QUOTE, min_size=1, max_size=5), st.integers(1, 3))
def test_the_better_quote_counts_in_any_order(tmp_path_factory, quotes, size):
    best = max(quotes, key=rank)
    rows = [row(seq=7, **quote) for quote in quotes]
    assert told(unique(frame(rows))) == [best]
    with closing(make_store(tmp_path_factory.mktemp("quotes") / "x.duckdb")) as store:
        ingestor = Ingestor(store)
        for part in pieces(rows, size):
            ingestor.take(frame(part), "test")
        assert told(every_print(store)) == [best]


def pieces(rows, size):
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def told(prints):
    return prints.select(
        pl.col("quote_class").cast(pl.String),
        pl.col("quote_ts").to_physical(),
        *COLUMNS[2:],
    ).to_dicts()


OPTION = "ticker,conditions,correction,exchange,price,sip_timestamp,size"
QUOTES = "ticker,sip_timestamp,bid_price,bid_size,ask_price,ask_size"
NOON = 1_778_601_600_000_000_000
"""2026-05-12, 12:00 in New York."""
DAY = int(timedelta(days=1).total_seconds()) * 10**9


@pytest.fixture
def two_days(tmp_path):
    trades, quotes = tmp_path / "trades.csv", tmp_path / "quotes.csv"
    ticker = "O:SPY260515C00500000"
    trades.write_text("\n".join([OPTION, *(f"{ticker},,0,1,1.05,{NOON + n},1" for n in range(10))]) + "\n")

    def write(day):
        quotes.write_text(f"{QUOTES}\n{ticker},{NOON + day * DAY - 5},1.00,1,1.05,1\n")
        return [trades, quotes]

    return write


@pytest.mark.parametrize("day", [1, -1])
def test_quotes_of_another_day_cause_a_warning(tmp_path, two_days, day):
    net, _, [outcome] = ingested(tmp_path / "x.duckdb", two_days(day))
    assert net == 0
    assert any("no quote of 2026-05-12 was given" in note for note in outcome.notes)
    assert outcome.unquoted == 10
    assert "10 of 10 prints (100%) have no quote in force" in outcome.warnings[0]
    with (
        pytest.warns(UserWarning, match="no quote of 2026-05-12 was given"),
        pytest.warns(UserWarning, match="100%"),
    ):
        flowtape.read(two_days(day))


def test_quotes_of_the_day_cause_no_warning(tmp_path, two_days):
    net, classes, [outcome] = ingested(tmp_path / "x.duckdb", two_days(0))
    assert (net, classes) == (10, ["joined"])
    assert (outcome.unquoted, outcome.warnings, outcome.notes) == (0, [], {})
    assert flowtape.read(two_days(0)).height == 10


@pytest.mark.parametrize(
    ("names", "quote_class"),
    [
        (["tbbo"], "own"),
        (["trades", "mbp-1"], "joined"),
        (["trades", "cbbo-1s"], "sampled"),
        (["trades"], "none"),
    ],
)
def test_every_origin_of_a_quote_has_its_class(shared, names, quote_class):
    files = [shared / "data" / SAMPLE.format(name) for name in names]
    if not files[0].exists():
        pytest.skip("no sample")
    [tape] = open_tapes(files)
    found = pl.concat(batch.prints for batch in tape.batches)
    assert set(found["quote_class"].unique()) <= {quote_class, "none"}
    assert (found["quote_class"] == quote_class).any()


def test_a_repeated_quote_keeps_its_number(tmp_path):
    from readers.dbn_files import OPEN, cmbp, trade, write

    first, second = cmbp(10**9, 2 * 10**9, OPEN), cmbp(3 * 10**9, 4 * 10**9, OPEN)
    trades = write(tmp_path / "t.dbn", "trades", [trade(ts=OPEN + 10**9, price=10**9)])
    numbers = []
    for name, quotes in (("once", [first, second]), ("again", [first, first, second, second])):
        [tape] = open_tapes([trades, write(tmp_path / f"{name}.dbn", "cmbp-1", quotes)])
        [print_] = pl.concat(batch.prints for batch in tape.batches).rows(named=True)
        assert print_["bid"] == 30_000
        numbers.append(print_["quote_seq"])
    assert numbers[0] == numbers[1]
