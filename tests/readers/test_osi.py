"""OSI symbols in a column of symbols are read as contracts, and never as stocks."""

from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import faults, read_all

import flowtape
from flowtape.errors import UsageError
from flowtape.model.prints import conform
from flowtape.model.symbols import asked
from flowtape.readers import osi
from flowtape.readers.tickers import symbol_of

CONTRACT = ("asset", "symbol", "root", "expiry", "right", "strike")
TS = "2025-02-20T14:30:00Z"
AAPL = ("option", "AAPL", "AAPL", date(2025, 2, 21), "C", 2_500_000)
SPXW = ("option", "SPX", "SPXW", date(2025, 2, 21), "P", 59_000_000)


def read(write, header, *rows):
    tape, prints = read_all(write("x.csv", [header, *rows]), kind="table")
    return tape, prints.select(CONTRACT).rows()


@pytest.mark.parametrize("column", ["symbol", "root", "ticker"])
def test_options_and_stocks_may_share_a_column(write, column):
    names = [
        "AAPL  250221C00250000",
        "O:SPXW250221P05900000",
        "AAPL250221C00250000",
        "AAPL",
        "M1",
        "aapl250221c00250000",
    ]
    rows = [
        f"{TS},{name},1.5,2,{condition}"
        for name, condition in zip(names, ["a", "O", "F", "F", "O", ""], strict=True)
    ]
    tape, found = read(write, f"ts,{column},price,size,condition", *rows)
    stocks = [("stock", name, name, None, None, None) for name in ("AAPL", "M1")]
    assert found == [AAPL, SPXW, AAPL, *stocks, AAPL]
    assert tape.rejects.count == 0
    _, prints = read_all(write("x.csv", [f"ts,{column},price,size,condition", *rows]))
    assert prints["condition"].to_list() == ["SLAN", "CSTP", "OPEN", "STK_SWEEP", "STK_OPENING", "unknown"]


def test_invalid_contracts_are_bad_rows(write):
    tape, found = read(
        write,
        "ts,symbol,price,size",
        f"{TS},AAPL  250231C00250000,1,1",
        f"{TS},AAPL  250221C00000000,1,1",
        f"{TS},AAPL  250221X00250000,1,1",
        f"{TS},AAPL  250221C00250000,1,1",
    )
    assert AAPL in found
    assert not any(asset == "stock" and "25022" in name and "X" not in name for asset, name, *_ in found)
    none = "symbol is an option's symbol, but no OSI symbol with a date and a strike"
    assert faults(tape)[:2] == [
        (1, f"{none}: 'AAPL  250231C00250000'"),
        (2, f"{none}: 'AAPL  250221C00000000'"),
    ]


def test_other_spellings_of_options_are_not_stocks(write):
    names = [
        ".SPY260515C500",
        "SPY_051526C500",
        "SPY260515C500",
        "AAPL250221C0025000",
        "SPY260515P500.5",
        "C123",
    ]
    tape, found = read(write, "ts,symbol,price,size", *(f"{TS},{name},1,1" for name in names))
    what = "symbol is an option's symbol, but no OSI symbol with a date and a strike"
    assert faults(tape) == [(row, f"{what}: '{name}'") for row, name in enumerate(names[:-1], 1)]
    assert [name for _, name, *_ in found] == ["C123"]


def test_an_osi_symbol_must_match_the_contract_columns(write):
    header = "ts,symbol,expiry,right,strike,price,size"
    name = "SPXW  250221P05900000"
    tape, found = read(
        write, header, f"{TS},{name},2025-02-21,P,5900,1,1", f"{TS},{name},2025-02-21,C,5900,1,1"
    )
    assert found == [SPXW]
    what = "symbol is an OSI symbol of another contract than expiry, right, strike"
    assert faults(tape) == [(2, f"{what}: '{name}'")]


def test_an_osi_symbol_must_match_the_asset(write):
    rows = [
        f"{TS},option,SPXW  250221P05900000,1,1",
        f"{TS},stock,SPXW  250221P05900000,1,1",
        f"{TS},stock,SPXW,1,1",
    ]
    tape, found = read(write, "ts,asset,symbol,price,size", *rows)
    assert found == [SPXW, ("stock", "SPXW", "SPXW", None, None, None)]
    assert [row for row, _ in faults(tape)] == [2]


def test_either_of_symbol_and_root_may_be_a_contract(write):
    rows = [f"{TS},SPX,SPXW  250221P05900000,1,1", f"{TS},SPXW  250221P05900000,SPXW,1,1", f"{TS},AA,AA,1,1"]
    _, found = read(write, "ts,symbol,root,price,size", *rows)
    assert found == [SPXW, SPXW, ("stock", "AA", "AA", None, None, None)]


@settings(max_examples=50, deadline=None)
@given(
    st.from_regex(r"[A-Z]{1,5}[1-9]?", fullmatch=True),
    st.dates(date(2010, 1, 1), date(2099, 12, 31)),
    st.sampled_from("CP"),
    st.integers(1, 99_999_999),
    st.sampled_from(["padded", "plain", "massive"]),
)
def test_every_osi_symbol_is_parsed_to_its_contract(root, expiry, right, strike, form):
    terms = f"{expiry:%y%m%d}{right}{strike:08d}"
    name = {"padded": f"{root:<6}{terms}", "plain": f"{root}{terms}", "massive": f"O:{root}{terms}"}[form]
    found = osi.contracts(pl.Series([name, "SPY"]))
    assert found.rows() == [(root, expiry, right, strike * 10, True), (None, None, None, None, False)]
    assert symbol_of(name) is None
    with pytest.raises(UsageError, match="is one contract; ask for "):
        asked(name, "option")


def test_plain_names_have_no_contracts():
    assert osi.contracts(pl.Series(["SPY", "BRK.B", None, "X:BTCUSD"], dtype=pl.Categorical)) is None


def test_frames_and_queries_refuse_an_osi_symbol():
    ts = datetime(2025, 2, 20, 14, 30, tzinfo=UTC)
    frame = pl.DataFrame(
        {
            "ts": [ts], "asset": "stock", "symbol": "AAPL  250221C00250000", "root": "AAPL", "price": 10_000, "size": 1,
            "condition": "unknown", "venue": "", "seq": 1,
        }
    )  # fmt: skip
    for use in (conform, flowtape.sign):
        with pytest.raises(UsageError, match="'AAPL  250221C00250000'"):
            use(frame)
        plain = frame.with_columns(symbol=pl.lit("AAPL250221C00250000"), root=pl.lit("AAPL"))
        with pytest.raises(UsageError, match="'AAPL250221C00250000', which names an option's contract"):
            use(plain)
        other = frame.with_columns(symbol=pl.lit(".SPY260515C500"), root=pl.lit("SPY"))
        with pytest.raises(UsageError, match=r"'\.SPY260515C500', which names an option's contract"):
            use(other)
    assert [symbol_of(name) for name in ("SPY260515C500", "AAPL250221C0025000", "SPY")] == [None, None, "SPY"]
    bars = flowtape.minutes(flowtape.sign(frame.with_columns(symbol=pl.lit("AAPL"))))
    with pytest.raises(UsageError, match="is one contract; ask for SPY"):
        flowtape.cumulative(bars, "O:SPY260515C00500000")
