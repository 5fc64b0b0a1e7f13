"""The command line in this process: wrong arguments, old names, files without a symbol, help."""

import re
from datetime import date
from typing import NamedTuple

import click
import polars as pl
import pytest
from click.testing import CliRunner

import flowtape
from flowtape.cli import commands
from flowtape.simulation.tape import Market, write_tape

DAY = date(2026, 5, 12)
AT = "2026-05-12T20:00:00Z"


class Said(NamedTuple):
    code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("cli")
    write_tape(Market(seed=3, underlyings=3), DAY, made / "day.parquet", assets="both", rows=8000)
    return made


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.chdir(folder)

    def run(*words):
        found = CliRunner().invoke(commands, [str(word) for word in words], standalone_mode=False)
        error = found.exception
        known = error is None or isinstance(error, flowtape.FlowtapeError | click.ClickException)
        assert known, repr(error)
        text = getattr(error, "message", None) or str(error or "")
        return Said(0 if error is None else error.exit_code, found.stdout, found.stderr + text)

    return run


@pytest.fixture
def store(run, folder):
    if not (folder / "x.duckdb").exists():
        assert run("ingest", "day.parquet", "--store", "x.duckdb").code == 0
    return "x.duckdb"


def test_without_at_a_store_of_the_past_says_when_its_newest_print_is(run, store):
    said = run("cumulative", "SPY", "--store", store)
    assert said.code == 2
    assert re.search(
        r"nothing printed in the last 240 minutes; the newest print of SPY is of 2026-05-12T\d", said.stderr
    )
    at = re.search(r"--at (\S+)", said.stderr).group(1)
    assert run("cumulative", "SPY", "--at", at, "--store", store).stdout.count("\n") > 1


def test_an_empty_window_that_was_asked_for_is_noted(run, store):
    said = run("cumulative", "SPY", "--at", "2026-05-01T20:00:00Z", "--store", store)
    assert (said.code, said.stdout.count("\n")) == (0, 1)
    assert (
        "note: nothing printed in this window that fits; the newest print of SPY is of 2026-05-12T"
        in said.stderr
    )


@pytest.mark.parametrize("more", [(), ("--at", AT)])
def test_a_symbol_without_a_print_is_named(run, store, more):
    for words in (("--store", store), ("--tape", "day.parquet")):
        said = run("cumulative", "ZZZ", *more, *words)
        assert said.code == 2
        assert re.search(r"symbol: the (store|tape) has no print of ZZZ \(option\)", said.stderr)


@pytest.mark.parametrize("symbol", ["S P", "", "é", "A" * 33])
def test_a_text_that_is_no_symbol_is_named(run, store, symbol):
    said = run("cumulative", symbol, "--at", AT, "--store", store)
    assert said.code == 2
    assert (
        f"symbol: must be a symbol such as SPY, BRK.B or ES=F, at most 32 characters, not {symbol!r}"
        in said.stderr
    )


@pytest.mark.parametrize(
    "words",
    [
        ("ingest", "day.parquet"),
        ("backfill", "day.parquet"),
        ("keys", "create", "--plan", "alpha"),
    ],
)
def test_no_command_makes_a_folder(run, folder, words):
    said = run(*words, "--store", folder / "none/such/x.duckdb")
    assert said.code == 2
    assert re.search(r"there is no folder '.*none/such'; make it, or give another path", said.stderr)
    assert not (folder / "none").exists()


CSV = "ts,price,size,bid,ask\n2026-05-12T14:30:00Z,10.02,5,10.00,10.02\n"
THETA = (
    "trade_timestamp,quote_timestamp,sequence,ext_condition1,ext_condition2,ext_condition3,ext_condition4,condition,"
    "size,exchange,price,bid_size,bid_exchange,bid,bid_condition,ask_size,ask_exchange,ask,ask_condition\n"
    "2026-05-12T10:30:00.000,2026-05-12T10:29:59.000,7,255,255,255,255,0,5,1,10.02,1,1,10.00,0,1,1,10.02,0\n"
)


@pytest.mark.parametrize(("name", "text"), [("own.csv", CSV), ("theta.csv", THETA)])
def test_a_file_without_a_symbol_takes_one(run, folder, name, text):
    (folder / name).write_text(text)
    said = run("cumulative", "NVDA", "--asset", "stock", "--tape", name, "--symbol", "nvda", "--as", "csv")
    assert said.stdout.splitlines()[1:] == ["2026-05-12T14:30:00Z,5,5,10.02,1"]
    assert run("ingest", name, "--symbol", "NVDA", "--store", f"{name}.duckdb").code == 0
    with flowtape.open(f"{name}.duckdb") as kept:
        assert kept.symbols("stock") == ["NVDA"]
    assert flowtape.read(name, symbol="NVDA")["symbol"].to_list() == ["NVDA"]
    refused = run("ingest", name, "--store", "other.duckdb")
    assert refused.code == 3
    assert "--symbol" in refused.stderr


def test_options_without_a_symbol_take_one(run, folder):
    columns = ["ts", "expiry", "right", "strike", "price", "size", "bid", "ask"]
    tape = flowtape.read("day.parquet").filter(asset="option", symbol="SPY")
    usd = tape.select(
        pl.col(name) / 10_000 if name in ("strike", "price", "bid", "ask") else pl.col(name)
        for name in columns
    )
    usd.write_parquet("spy.parquet")
    assert flowtape.read("spy.parquet", symbol="SPXW")["symbol"].unique().to_list() == ["SPX"]


def test_a_symbol_for_a_file_that_has_one_is_refused(run, folder):
    said = run("ingest", "day.parquet", "--symbol", "NVDA", "--store", "y.duckdb")
    assert said.code == 2
    assert "symbol: 'NVDA' is given, but day.parquet has a column of symbols" in said.stderr
    (folder / "own.csv").write_text(CSV)
    said = run("ingest", "own.csv", "--symbol", "S P", "--store", "y.duckdb")
    assert (said.code, "symbol: 'S P' is not a symbol" in said.stderr) == (2, True)


def test_the_old_names_work_and_say_the_new_ones(run, folder, store):
    effect = "SPY,2026-05-12T15:00Z,2026-05-12T16:00Z,flow=0.4"
    words = ("--underlyings", 3, "--prints", 2000, "--day", DAY)
    old = run("simulate", "old.parquet", *words, "--plant", effect)
    new = run("simulate", "new.parquet", *words, "--inject", effect)
    assert "--plant is now --inject" in old.stderr
    assert new.stderr == ""
    assert (folder / "old.parquet").read_bytes() == (folder / "new.parquet").read_bytes()
    said = run("store", "tidy", "--store", store)
    assert "`store tidy` is now `store vacuum`" in said.stderr


def every(command, context):
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            yield from every(below, click.Context(below, context, info_name=name))


def test_each_command_has_a_sentence_and_an_example():
    for command, context in every(
        commands, click.Context(commands, info_name="flowtape", **commands.context_settings)
    ):
        if command.hidden:
            continue
        told = command.get_help(context)
        assert command.help.strip().splitlines()[0].endswith("."), context.command_path
        assert f"{context.command_path} " in told.partition("Options:")[0].partition("\n\n")[2], (
            context.command_path
        )
