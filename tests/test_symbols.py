"""The symbol that a text means: roots of options, symbols of stocks, classes of shares."""

import json

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import flowtape
from flowtape.cli import commands
from flowtape.model.prints import conform, underlying_of
from flowtape.model.symbols import asked, meant
from oracle import MINUTE
from serving import Kept
from tapes import STOCK, T0, frame, row

NOW = T0 + 10 * MINUTE
OPTION_PATH, STOCK_PATH = "/v1/flow/options/{}/cumulative", "/v1/flow/stocks/{}/cumulative"


def stock(symbol, seq, size):
    return STOCK | {"symbol": symbol, "root": symbol, "seq": seq, "size": size, "bid": 10_000}


def option(symbol, seq, size, root=None):
    return row(symbol=symbol, root=root or symbol, seq=seq, size=size, bid=10_000)


ROWS = [
    stock("M1", 1, 10), stock("M", 2, 20), stock("NDXP", 3, 30), stock("PETR4", 4, 40), stock("VIXW", 5, 50),
    stock("BRK.B", 6, 60), stock("SPXW", 7, 70),
    option("SPXW", 11, 1), option("SPX", 12, 2), option("BRKB", 13, 4), option("MOGA", 14, 8), option("NDXP", 15, 16),
]  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    made = Kept(tmp_path_factory.mktemp("symbols"), NOW)
    made.take(ROWS)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("path", "symbol", "echo", "volume"),
    [
        (STOCK_PATH, "M1", "M1", 10), (STOCK_PATH, "ndxp", "NDXP", 30), (STOCK_PATH, "PETR4", "PETR4", 40),
        (STOCK_PATH, "VIXW", "VIXW", 50), (STOCK_PATH, "SPXW", "SPXW", 70), (STOCK_PATH, "SPX", "SPX", 0),
        (STOCK_PATH, "BRK.B", "BRK.B", 60), (STOCK_PATH, "BRK-B", "BRK.B", 60), (STOCK_PATH, "brk%2Fb", "BRK.B", 60),
        (STOCK_PATH, "BRKB", "BRK.B", 60),
        (OPTION_PATH, "SPXW", "SPX", 3), (OPTION_PATH, "SPX", "SPX", 3), (OPTION_PATH, "NDX", "NDX", 16),
        (OPTION_PATH, "BRK.B", "BRK.B", 4), (OPTION_PATH, "BRK-B", "BRK.B", 4), (OPTION_PATH, "BRKB", "BRK.B", 4),
        (OPTION_PATH, "MOG.A", "MOGA", 8), (OPTION_PATH, "MOG-A", "MOGA", 8),
    ],
)  # fmt: skip
def test_answers_are_for_the_symbol_that_is_meant(kept, path, symbol, echo, volume):
    [answer] = kept.ask((path.format(symbol), {}))
    body = answer.json()
    assert body["symbol"] == echo
    assert sum(point["netVolume"] for point in body["points"]) == volume


def test_a_symbol_with_prints_means_itself(tmp_path):
    made = Kept(tmp_path, NOW)
    made.take([stock("BRK.B", 1, 60)])
    before = made.ask((STOCK_PATH.format("BRKB"), {}))[0].json()
    made.take([stock("BRKB", 2, 5)])
    after, dotted = (made.ask((STOCK_PATH.format(name), {}))[0].json() for name in ("BRKB", "BRK.B"))
    made.close()
    assert [body["symbol"] for body in (before, after, dotted)] == ["BRK.B", "BRKB", "BRK.B"]


def test_commands_and_library_resolve_symbols_alike(tmp_path):
    made = Kept(tmp_path, NOW, engine="duckdb")
    made.take(ROWS)
    made.close()
    made.store.close()

    def line(*words):
        more = ["--at", "2026-03-06T21:08:00Z", "--as", "json", "--store", str(tmp_path / "x.duckdb")]
        done = CliRunner().invoke(commands, ["cumulative", *words, *more])
        assert done.exit_code == 0, done.output
        return json.loads(done.output)

    assert (line("SPXW")["symbol"], line("BRK-B")["symbol"], line("mog/a")["symbol"]) == (
        "SPX",
        "BRK.B",
        "MOGA",
    )
    assert line("SPXW", "--asset", "stock")["symbol"] == "SPXW"
    assert line("BRKB", "--asset", "stock")["symbol"] == "BRK.B"
    assert line("M1", "--asset", "stock")["points"][0]["tradeCount"] == 1
    bars = flowtape.minutes(flowtape.sign(frame(ROWS)))
    wanted = [("SPXW", "option"), ("SPX", "option"), ("SPX", "stock"), ("BRK/B", "stock"), ("M1", "stock")]
    counts = [flowtape.cumulative(bars, symbol, asset=asset)["trade_count"].sum() for symbol, asset in wanted]
    assert counts == [2, 2, 0, 1, 1]


def test_conform_files_options_under_their_underlying_and_no_stock():
    made = conform(frame(ROWS).with_columns(pl.col("symbol")))
    assert made["symbol"].to_list() == [
        "M1", "M", "NDXP", "PETR4", "VIXW", "BRK.B", "SPXW", "SPX", "SPX", "BRK.B", "MOGA", "NDX",
    ]  # fmt: skip
    assert made["root"].to_list()[7:] == ["SPXW", "SPX", "BRKB", "MOGA", "NDXP"]


@settings(deadline=None)
@given(st.text("ABM1.-/ ", min_size=1, max_size=6), st.sampled_from(["option", "stock"]))
def test_mapping_a_symbol_is_idempotent(text, asset):
    once = asked(text, asset)
    assert asked(once, asset) == once
    assert underlying_of(underlying_of(text)) == underlying_of(text)
    assert meant(once, {once, "A.B", "AB"}) == once


def test_a_share_class_is_found_only_if_unambiguous():
    assert meant("AB", {"A.B"}) == "A.B"
    assert meant("A-B", {"A.B", "A/B"}) == "A-B"
    assert meant("TPRC", {"T.PRC"}) == "TPRC"
    assert meant("SPY", {"S.P", "QQQ"}) == "SPY"
