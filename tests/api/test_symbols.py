"""Symbols of futures, pairs, units and rights in the path of a request."""

import pytest

from flowtape.model.prints import SYMBOL_LENGTH, is_symbol
from oracle import MINUTE
from serving import kept
from tapes import STOCK, T0

NAMES = ("ES=F", "/ES", "BTC-USD", "X:BTCUSD", "ABC+", "ABC^", "BRK.B", "$$", "X" * SYMBOL_LENGTH)
PATH = "/v1/flow/stocks/{}/cumulative"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with kept(tmp_path_factory.mktemp("symbols"), T0 + 2 * MINUTE) as made:
        made.take([STOCK | {"symbol": name, "root": name, "seq": n} for n, name in enumerate(NAMES)])
        yield made


@pytest.mark.parametrize("written", ["NQ%3DF", "nq=f", "%2FNQ", "ETH-USD", "UNKNOWN"])
def test_a_symbol_without_prints_has_an_empty_answer(server, written):
    (found,) = server.ask((PATH.format(written), {}))
    assert (found.status_code, found.json()["count"], found.json()["points"]) == (200, 0, [])


@pytest.mark.parametrize("name", NAMES)
def test_every_symbol_that_readers_accept_has_a_route(server, name):
    assert is_symbol(name)
    escaped = "".join(f"%{ord(letter):02X}" for letter in name.lower())
    found, copy = server.ask((PATH.format(escaped), {}), (PATH.format(escaped), {"format": "csv"}))
    assert (found.json()["symbol"], found.json()["count"]) == (name, 1)
    assert not set(copy.headers["Content-Disposition"].partition("=")[2].strip('"')) & set('\\/:*?"<>|')


@pytest.mark.parametrize(
    "written", ["A%20B", "%22", "A%0A", "%C5%BFpy", "A%25", "A" * (SYMBOL_LENGTH + 1), "%5E"]
)
def test_an_invalid_symbol_is_refused_by_name(server, written):
    (found,) = server.ask((PATH.format(written), {}))
    assert (found.status_code, found.json()["error"]) == (400, "invalid_symbol")
    assert found.json()["message"].startswith("symbol must be a symbol such as SPY")
