"""Leaderboard, outliers and drift of a past instant and of one right, over HTTP."""

from datetime import UTC, datetime

import pytest

from oracle import MINUTE
from serving import kept
from tapes import SECOND, STOCK, T0, row

DAY = 24 * 60 * MINUTE
NOW = T0 + 5 * DAY
ROUTES = ("leaderboard", "outliers", "drift")


def text(ns):
    return datetime.fromtimestamp(ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def trade(seq, minute, symbol, **changes):
    return row(seq=seq, ts=T0 + minute * MINUTE + seq, symbol=symbol, root=symbol) | changes


TAPE = [
    trade(1, 1, "SPY", price=13_000, size=10),
    trade(2, 2, "SPY", price=11_000, size=4, right="P"),
    trade(3, 2, "QQQ", price=13_000, size=7, right="P"),
    # A buy in minute 3, cancelled an hour later.
    trade(4, 3, "QQQ", price=13_000, size=900),
    trade(5, 63, "QQQ", price=13_000, size=900, condition="CANC"),
    trade(6, 200, "IWM", price=13_000, size=5_000),
]


@pytest.fixture
def server(tmp_path):
    with kept(tmp_path, NOW) as made:
        made.take(TAPE)
        yield made


def ask(server, route, asset="options", **asked):
    (found,) = server.ask((f"/v1/flow/{asset}/{route}", asked))
    assert found.status_code == 200, found.text
    return found.json()


@pytest.mark.parametrize("route", ROUTES)
def test_past_cross_section_equals_the_one_answered_then(server, tmp_path, route):
    for minute in (1, 3, 4, 30, 63, 64, 210):
        at = T0 + minute * MINUTE + 30 * SECOND
        for more in ({}, {"right": "C"}, {"right": "put"}, {"windowMinutes": "2"}):
            asked = more | {"at": text(at)} | ({} if route == "leaderboard" else {"minTrades": "0"})
            folder = tmp_path / f"{route}{minute}{len(more)}{more.get('right')}"
            folder.mkdir()
            with kept(folder, at) as then:
                then.take([one for one in TAPE if one["ts"] < at])
                expected = ask(then, route, **asked)
            assert ask(server, route, **asked) == expected
            assert expected["generatedUtc"] == text(at)


def test_a_later_cancel_does_not_change_a_past_answer(server):
    at, later = text(T0 + 30 * MINUTE), text(T0 + 70 * MINUTE)
    assert [one["symbol"] for one in ask(server, "leaderboard", at=at)["buyers"]] == ["QQQ", "SPY"]
    (first, *_) = ask(server, "outliers", at=at, minTrades="0")["outliers"]
    assert (first["symbol"], first["biggestTrade"], first["tradeCount"]) == ("QQQ", 900, 2)
    assert (first["biggestTradeUtc"], first["biggestAgeSec"]) == (text(T0 + 3 * MINUTE), 27 * 60 - 1)
    (first, second) = ask(server, "outliers", at=later, minTrades="0")["outliers"]
    assert (first["symbol"], first["biggestTrade"], second["symbol"]) == ("QQQ", 7, "SPY")


def test_cross_section_of_one_right_counts_only_that_right(server):
    asked = {"windowMinutes": "10080"}
    puts = ask(server, "leaderboard", right="P", **asked)
    assert puts["right"] == "P"
    assert [(one["symbol"], one["netVolume"]) for one in puts["buyers"]] == [("QQQ", 7)]
    assert [(one["symbol"], one["netVolume"]) for one in puts["sellers"]] == [("SPY", -4)]
    calls = ask(server, "leaderboard", right="C", **asked)
    assert [(one["symbol"], one["netVolume"]) for one in calls["buyers"]] == [("IWM", 5_000), ("SPY", 10)]
    whole = ask(server, "leaderboard", **asked)
    assert "right" not in whole
    assert [(one["symbol"], one["netVolume"]) for one in whole["buyers"]][1:] == [("QQQ", 7), ("SPY", 6)]
    drift = ask(server, "drift", right="P", minTrades="0", **asked)["drift"]
    assert {one["symbol"]: one["netVolume"] for one in drift} == {"QQQ": 7, "SPY": -4}


def test_a_print_of_an_old_day_shows_in_the_next_answer(server):
    at = text(T0 - 10 * DAY)
    assert ask(server, "leaderboard", at=at)["buyers"] == []
    server.take([trade(9, 0, "DIA", price=13_000, ts=T0 - 10 * DAY - MINUTE)])
    assert [one["symbol"] for one in ask(server, "leaderboard", at=at)["buyers"]] == ["DIA"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("asset", "name", "value"),
    [
        ("options", "at", "garbage"), ("options", "right", "X"), ("options", "expiry", "2026-03-20"),
        ("options", "dte", "0"), ("options", "strike", "600"), ("options", "exclude", "late"),
        ("options", "side", "buy"),
        ("stocks", "right", "C"), ("stocks", "side", "buy"), ("stocks", "at", "2026-03-06"),
    ],
)  # fmt: skip
def test_cross_section_refuses_unsupported_parameters_by_name(server, route, asset, name, value):
    (found,) = server.ask((f"/v1/flow/{asset}/{route}", {name: value}))
    assert (found.status_code, found.json()["error"]) == (400, f"invalid_{name}")
    assert f"'{value}'" in found.json()["message"]


def test_stocks_have_cross_sections_of_past_instants(server):
    server.take([STOCK | {"ts": T0 + MINUTE, "price": 13_000, "seq": 1}])
    assert len(ask(server, "leaderboard", "stocks", at=text(T0 + 2 * MINUTE))["buyers"]) == 1
    assert ask(server, "leaderboard", "stocks", at=text(T0 + MINUTE))["buyers"] == []
