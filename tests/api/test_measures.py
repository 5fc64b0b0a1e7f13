"""Measures over HTTP: bullish − bearish, calls and puts apart, in cross-sections and signals."""

import itertools
from datetime import UTC, datetime

import pytest

from oracle import MINUTE
from serving import kept
from tapes import STOCK, T0, row

NOW = T0 + 200 * MINUTE
PATH = "/v1/flow/options/SPY/"


def trade(seq, minute, symbol="SPY", **changes):
    return row(seq=seq, ts=T0 + minute * MINUTE + seq, symbol=symbol, root=symbol) | changes


BOUGHT, SOLD = {"price": 13_000}, {"price": 11_000}
TAPE = [
    trade(1, 1, size=10, right="C", **BOUGHT),
    trade(2, 1, size=3, right="P", **BOUGHT),
    trade(3, 2, size=4, right="P", **SOLD),
    trade(4, 3, size=2, right="C", **SOLD),
    trade(5, 3, size=1, right="C", price=12_000),
    trade(6, 5, size=7, right="C", strike=700_0000, **BOUGHT),
    trade(7, 6, symbol="QQQ", size=50, right="P", **BOUGHT),
    trade(8, 6, symbol="QQQ", size=20, right="C", **BOUGHT),
]
CALLS, PUTS = [10, 0, -2, 7], [3, -4, 0, 0]
"""Net contracts of SPY's minutes 1, 2, 3 and 5."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with kept(tmp_path_factory.mktemp("measures"), NOW) as made:
        for one in TAPE:
            made.take([one])
        yield made


def ask(server, path, **asked):
    (found,) = server.ask((path, asked))
    assert found.status_code == 200, found.text
    return found.json()


def column(body, name, rows="points"):
    return [point[name] for point in body[rows]]


def test_directional_counts_puts_with_the_opposite_sign(server):
    body = ask(server, PATH + "cumulative", measure="directional")
    net = [calls - puts for calls, puts in zip(CALLS, PUTS, strict=True)]
    assert body["measure"] == "directional"
    assert list(body["points"][0]) == ["ts", "netDirectional", "cumulative", "vwap", "tradeCount"]
    assert column(body, "netDirectional") == net
    assert column(body, "cumulative") == list(itertools.accumulate(net))
    assert column(body, "tradeCount") == [2, 1, 2, 1]


def test_directional_premium_is_in_dollars(server):
    body = ask(server, PATH + "cumulative", measure="directional_premium")
    assert column(body, "netDirectionalPremium") == [1300.0 - 390.0, 440.0, -220.0, 910.0]


@pytest.mark.parametrize(("measure", "sign"), [("volume", 1), ("directional", -1)])
def test_calls_and_puts_add_up_to_the_net(server, measure, sign):
    body = ask(server, PATH + "cumulative", split="right", measure=measure)
    assert body["split"] == "right"
    assert column(body, "calls") == CALLS
    assert column(body, "puts") == [sign * puts for puts in PUTS]
    field = "netVolume" if measure == "volume" else "netDirectional"
    assert column(body, field) == [
        c + p for c, p in zip(column(body, "calls"), column(body, "puts"), strict=True)
    ]


@pytest.mark.parametrize("measure", ["volume", "premium", "directional", "directional_premium"])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"right": "P"},
        {"right": "C", "anchor": "session"},
        {"at": datetime.fromtimestamp(T0 // 10**9 + 240, UTC).isoformat()[:19] + "Z"},
        {"from": datetime.fromtimestamp(T0 // 10**9, UTC).isoformat()[:19] + "Z"},
        {"include": "quality"},
    ],
)
def test_bars_and_prints_give_the_same_split(server, measure, asked):
    """A filter that every print passes makes the answer read prints instead of minute bars."""
    plain = ask(server, PATH + "cumulative", split="right", measure=measure, **asked)
    by_print = ask(server, PATH + "cumulative", split="right", measure=measure, strike="1..", **asked)
    assert by_print.pop("strike") == "1.."
    assert plain["points"]
    assert by_print == plain


def test_history_shows_the_measure_beside_volume(server):
    body = ask(server, PATH + "history", measure="directional", minutes=300)
    assert body["measure"] == "directional"
    assert column(body, "netDirectional", "buckets") == [7, -2, 4, 7]
    assert column(body, "netVolume", "buckets") == [7, -2, -4, 13]


def test_cross_sections_show_and_rank_by_the_measure(server):
    body = ask(server, "/v1/flow/options/leaderboard", measure="directional", windowMinutes=400)
    assert body["measure"] == "directional"
    assert [(one["symbol"], one["netDirectional"]) for one in body["buyers"]] == [("SPY", 16)]
    assert [(one["symbol"], one["netDirectional"]) for one in body["sellers"]] == [("QQQ", -30)]
    body = ask(
        server, "/v1/flow/options/outliers", measure="directional_premium", windowMinutes=400, minTrades=0
    )
    assert column(body, "netDirectionalPremium", "outliers") == [-3900.0, 2040.0]
    puts = ask(server, "/v1/flow/options/leaderboard", measure="directional", right="P", windowMinutes=400)
    assert [(one["symbol"], one["netDirectional"]) for one in puts["buyers"]] == [("SPY", 1)]


@pytest.mark.parametrize(
    ("measure", "field", "nets"),
    [
        ("volume", "netVolume", {"SPY": [13, -4, -2, 7], "QQQ": [70]}),
        ("premium", "netPremium", {"SPY": [1690, -440, -220, 910], "QQQ": [9100]}),
        ("directional", "netDirectional", {"SPY": [7, 4, -2, 7], "QQQ": [-30]}),
        ("directional_premium", "netDirectionalPremium", {"SPY": [910, 440, -220, 910], "QQQ": [-3900]}),
    ],
)
def test_drift_is_that_of_the_measure(server, measure, field, nets):
    body = ask(server, "/v1/flow/options/drift", measure=measure, windowMinutes=400, minTrades=0)
    assert body["measure"] == measure
    assert {one["symbol"]: (one[field], one["volumeZ"]) for one in body["drift"]} == {
        symbol: (sum(net), round(sum(net) / sum(one**2 for one in net) ** 0.5, 2))
        for symbol, net in nets.items()
    }


def test_readings_of_puts_alone_are_directional(server):
    for name, rows in (("turning-points", "points"), ("divergence", "points"), ("sessions", "sessions")):
        body = ask(server, PATH + name, right="P")
        assert body["measure"] == "directional", name
        assert rows in body
    (day,) = ask(server, PATH + "sessions", right="P")["sessions"]
    assert (day["netVolume"], day["netDirectional"]) == (-1, 1)
    (day,) = ask(server, PATH + "sessions", right="P", measure="volume")["sessions"]
    assert "netDirectional" not in day
    assert "measure" not in ask(server, PATH + "sessions", right="C")
    assert "measure" not in ask(server, PATH + "cumulative", right="P")


def test_premium_lines_of_readings_are_in_dollars(server):
    (day,) = ask(server, PATH + "sessions", measure="premium")["sessions"]
    line = list(itertools.accumulate([1690.0, -440.0, -220.0, 910.0]))
    assert (day["netPremium"], day["high"], day["low"]) == (line[-1], max(line), min(line))


@pytest.mark.parametrize("format", ["csv", "parquet", "arrow"])
@pytest.mark.parametrize("name", ["cumulative", "turning-points", "sessions", "history"])
def test_tables_hold_every_measure(server, format, name):
    for measure in ("premium", "directional", "directional_premium"):
        (found,) = server.ask((PATH + name, {"measure": measure, "format": format}))
        assert found.status_code == 200
        assert found.content


@pytest.mark.parametrize(
    ("path", "asked", "error"),
    [
        (PATH + "cumulative", {"measure": "delta"}, "invalid_measure"),
        (PATH + "history", {"measure": "vega"}, "invalid_measure"),
        ("/v1/flow/options/leaderboard", {"measure": "gamma_notional"}, "invalid_measure"),
        ("/v1/flow/stocks/SPY/cumulative", {"measure": "directional"}, "invalid_measure"),
        (PATH + "cumulative", {"split": "strike"}, "invalid_split"),
    ],
)
def test_unknown_measures_are_refused(server, path, asked, error):
    (found,) = server.ask((path, asked))
    assert (found.status_code, found.json()["error"]) == (400, error)


def test_stocks_have_premium_on_every_route(tmp_path):
    with kept(tmp_path, NOW) as made:
        made.take([STOCK | {"ts": T0 + MINUTE, "price": 13_000, "seq": 1, "symbol": "SPY"}])
        for name in ("cumulative", "history", "sessions", "turning-points", "divergence"):
            body = ask(made, f"/v1/flow/stocks/SPY/{name}", measure="premium")
            assert body["measure"] == "premium"
