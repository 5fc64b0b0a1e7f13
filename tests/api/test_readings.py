"""Signals over the API equal the pure functions, at any instant, from the cache and the store."""

import csv
import io
import json
from datetime import UTC, datetime

import numpy as np
import pytest

from flowtape.orderflow.signals import STATES, divergence
from flowtape.simulation.tape import Market, write_tape
from oracle import MINUTE
from serving import kept
from tapes import row
from test_commands import DAY

NOW = int(datetime(2026, 5, 12, 19, 30, 30, tzinfo=UTC).timestamp()) * 10**9
PATH = "/v1/flow/options/SPY/"


@pytest.fixture(scope="module")
def tape(tmp_path_factory):
    path = tmp_path_factory.mktemp("tape") / "d.parquet"
    write_tape(Market(seed=3, underlyings=4), DAY, path, assets="both", rows=30_000)
    return path


@pytest.fixture(scope="module")
def world(tape, tmp_path_factory):
    with kept(tmp_path_factory.mktemp("readings"), NOW) as made:
        made.take_file(tape, "table")
        yield made


def ask(world, path, **arguments):
    (found,) = world.ask((path, arguments))
    assert found.status_code == 200, found.text
    return json.loads(found.content)


def minutes(points):
    return np.array(
        [int(datetime.fromisoformat(point["ts"]).timestamp()) // 60 for point in points], np.int64
    )


def test_divergence_equals_the_function_over_history(world):
    points = ask(world, PATH + "cumulative", minutes=390)["points"]
    closes = ask(world, "/v1/flow/stocks/SPY/history", minutes=390)["buckets"][::-1]
    price = np.array([round(bucket["close"] * 10_000) for bucket in closes], np.int64)
    at, net = minutes(points), np.array([point["netVolume"] for point in points], np.int64)
    opens = np.full(len(at), int(datetime(2026, 5, 12, 13, 30, tzinfo=UTC).timestamp()) // 60)
    found = divergence(at, net, opens, minutes(closes), price, 45)
    body = ask(world, PATH + "divergence", minutes=390, lookback=45)
    assert list(body) == ["symbol", "minutes", "lookback", "priceSource", "withoutPrice", "count", "points"]
    assert (body["lookback"], body["priceSource"], body["count"]) == (45, "stock", len(body["points"]))
    assert [point["flowT"] for point in body["points"]] == (found.flow_t / 100).tolist()
    assert [point["priceT"] for point in body["points"]] == (found.price_t / 100).tolist()
    assert [point["state"] for point in body["points"]] == [STATES[state] for state in found.state]
    assert {point["state"] for point in body["points"]} > {"flat"}
    line = {point["ts"]: point["cumulative"] for point in points}
    assert all(point["cumulative"] == line[point["ts"]] for point in body["points"])


def test_divergence_of_a_minute_does_not_depend_on_the_window(world):
    long, short = (ask(world, PATH + "divergence", minutes=length)["points"] for length in (390, 20))
    same = ("ts", "netVolume", "price", "n", "flowT", "priceT", "state")
    assert [[point[name] for name in same] for point in short] == [
        [point[name] for name in same] for point in long[-len(short) :]
    ]


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        (PATH + "divergence", {"minutes": 120, "right": "C"}),
        (PATH + "turning-points", {"minutes": 390, "limit": 5}),
        (PATH + "sessions", {"dte": "0..30"}),
        ("/v1/flow/stocks/SPY/divergence", {}),
        ("/v1/flow/stocks/SPY/sessions", {}),
        ("/v1/flow/options/drift", {"minTrades": 0}),
        ("/v1/flow/stocks/drift", {"windowMinutes": 60}),
    ],
)
def test_signals_at_an_instant_ignore_later_prints(world, tape, tmp_path, path, arguments):
    at = datetime(2026, 5, 12, 17, 0, tzinfo=UTC)
    as_of = ask(world, path, at=at.isoformat(), **arguments)
    with kept(tmp_path, int(at.timestamp()) * 10**9 - 1) as before:
        import polars as pl

        part = tmp_path / "part.parquet"
        pl.read_parquet(tape).filter(pl.col("ts") < at).write_parquet(part)
        before.take_file(part, "table")
        then = ask(before, path, at=at.isoformat(), **arguments)
        live = ask(before, path, **arguments)
    assert as_of == then
    for body in (as_of, live):
        body.pop("generatedUtc", None)
    assert as_of == live


def test_divergence_without_stock_minutes_uses_underlying_mids(tmp_path):
    rows = [
        row(ts=NOW - (40 - n) * MINUTE, quote_ts=NOW - 41 * MINUTE, seq=n, underlying=5_000_000 + 100 * n)
        for n in range(40)
    ]
    with kept(tmp_path, NOW) as made:
        made.take(rows)
        body = ask(made, PATH + "divergence")
        assert body["priceSource"] == "underlying"
        assert [point["price"] for point in body["points"]] == [500 + n / 100 for n in range(40)]
        assert body["points"][-1]["priceT"] == 999.99
        nothing = ask(made, "/v1/flow/options/NONE/divergence")
        assert (nothing["priceSource"], nothing["points"]) == ("none", [])


def test_divergence_without_any_price_has_no_points(tmp_path):
    with kept(tmp_path, NOW) as made:
        made.take(
            [row(ts=NOW - n * MINUTE, quote_ts=NOW - 9 * MINUTE, seq=n, underlying=None) for n in range(5)]
        )
        body = ask(made, PATH + "divergence")
    assert (body["priceSource"], body["withoutPrice"], body["count"], body["points"]) == ("none", 5, 0, [])


def test_turning_points_lie_on_the_line(world):
    line = {
        point["ts"]: point["cumulative"] for point in ask(world, PATH + "cumulative", minutes=390)["points"]
    }
    body = ask(world, PATH + "turning-points", minutes=390, limit=7)
    assert body["count"] == 7
    assert all(line[turn["ts"]] == turn["cumulative"] for turn in body["points"])
    sizes = [turn["prominence"] for turn in body["points"]]
    assert sizes == sorted(sizes, reverse=True)


def test_the_parts_of_a_day_sum_up_to_its_minutes(world):
    points = ask(world, PATH + "cumulative", minutes=720)["points"]
    (day,) = ask(world, PATH + "sessions", days=1)["sessions"]
    assert (day["date"], day["open"]) == ("2026-05-12", "2026-05-12T13:30:00Z")
    assert day["netVolume"] == points[-1]["cumulative"]
    parts = {part["part"]: part for part in day["parts"]}
    assert list(parts) == ["open", "midday", "close", "morning", "afternoon"]
    for part in parts.values():
        inside = [point["netVolume"] for point in points if part["from"] <= point["ts"] < part["to"]]
        assert part["netVolume"] == sum(inside)
    assert parts["close"]["to"] == "2026-05-12T19:31:00Z"
    line = [point["cumulative"] for point in points]
    assert (day["high"], day["low"]) == (max(line), min(line))
    (found,) = world.ask((PATH + "sessions", {"days": 1, "format": "csv"}))
    rows = list(csv.DictReader(io.StringIO(found.text)))
    assert [(one["date"], one["part"], int(one["netVolume"])) for one in rows] == [
        ("2026-05-12", name, part["netVolume"]) for name, part in parts.items()
    ]


def test_a_day_closes_when_its_symbol_does(tmp_path):
    """Options on VIX and SPY trade until 16:15, after an early close until 13:15; those on AAPL until 16:00, 13:00."""
    wanted = {"VIX": ("21:15", "18:15", 1), "SPY": ("21:15", "18:15", 1), "AAPL": ("21:00", "18:00", 2)}
    times = [
        datetime(2026, *at, tzinfo=UTC)
        for at in ((11, 25, 21, 5), (11, 25, 21, 20), (11, 27, 18, 10), (11, 27, 18, 20))
    ]
    with kept(tmp_path, int(datetime(2026, 11, 27, 22, tzinfo=UTC).timestamp()) * 10**9) as made:
        for symbol, (full, early, outside) in wanted.items():
            at = [int(time.timestamp()) * 10**9 for time in times]
            made.take([row(seq=ts, symbol=symbol, root=symbol, ts=ts, price=13_000) for ts in at])
            days = ask(made, f"/v1/flow/options/{symbol}/sessions", days=2)["sessions"]
            assert [day["close"] for day in days] == [f"2026-11-27T{early}:00Z", f"2026-11-25T{full}:00Z"]
            parts = [{part["part"]: part["netVolume"] for part in day["parts"]} for day in days]
            assert [part["outside"] for part in parts] == [outside] * 2


def test_drift_compares_the_same_minutes_of_earlier_sessions(tmp_path):
    days = [5, 6, 7, 8, 11, 12]
    sizes = {"SPY": [10, -30, 20, 5, -15, 0], "QQQ": [0, 0, 0, 0, 0, 7]}
    rows = []
    for symbol, series in sizes.items():
        for day, net in zip(days, series, strict=True):
            ts = int(datetime(2026, 5, day, 19, 0, tzinfo=UTC).timestamp()) * 10**9
            if net:
                price = {"price": 12_000 if net > 0 else 10_000, "bid": 10_000, "ask": 12_000}
                rows.append(
                    row(symbol=symbol, root=symbol, ts=ts, quote_ts=ts - 1, seq=day, size=abs(net), **price)
                )
    today = int(datetime(2026, 5, 12, 18, 0, tzinfo=UTC).timestamp()) * 10**9
    buy = {"price": 12_000, "bid": 10_000, "ask": 12_000, "size": 10}
    rows += [row(ts=today + n * MINUTE, quote_ts=today - 1, seq=100 + n, **buy) for n in range(25)]
    with kept(tmp_path, NOW) as made:
        made.take(rows)
        body = ask(made, "/v1/flow/options/drift", minTrades=1)
        again = ask(made, "/v1/flow/options/drift", minTrades=1, at="2026-05-12T19:31:00Z")
    spy, qqq = body["drift"]
    # The first of the seven days is incomplete: Wednesday's window began before it.
    assert (spy["symbol"], spy["netVolume"], spy["sessions"], spy["basis"]) == ("SPY", 250, 4, "history")
    # Earlier days were −1, 1, 1 and −1 deviations off, today 5: t = 5 / √(4/3 · 5/4), of which Student's tail with
    # three degrees of freedom is the normal's of 2.16.
    assert (spy["volumeZ"], spy["z"]) == (5.0, 2.16)
    assert spy["stretched"]
    assert (qqq["symbol"], qqq["basis"], qqq["volumeZ"]) == ("QQQ", "volume", 1.0)
    assert "z" not in qqq
    assert again["drift"] == body["drift"]


@pytest.mark.parametrize(
    ("path", "arguments", "names"),
    [
        (PATH + "divergence", {"lookback": "long"}, "lookback"),
        (PATH + "turning-points", {"limit": "1.5"}, "limit"),
        (PATH + "sessions", {"days": ""}, "days"),
        ("/v1/flow/options/drift", {"windowMinutes": "x"}, "windowMinutes"),
        (PATH + "divergence", {"at": "noon"}, "at"),
    ],
)
def test_unusable_parameters_are_named(world, path, arguments, names):
    (found,) = world.ask((path, arguments))
    assert found.status_code == 400
    assert names in found.json()["message"]


def test_an_instant_before_all_sessions_is_an_empty_answer(world):
    for path in ("divergence", "turning-points", "sessions"):
        body = ask(world, PATH + path, at="1971-01-01T00:00:00Z")
        assert body["count"] == 0
    assert ask(world, "/v1/flow/options/drift", at="1971-01-01T00:00:00Z")["drift"] == []
