"""The values of each parameter of each route, and the queries they form."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtape.model.conditions import FAMILIES_OF
from flowtape.model.query import Filter, Query
from flowtape.server.errors import Refusal
from flowtape.server.queries import Request, read_request
from flowtape.server.routes import ROUTES

BY_PATH = {route.path: route for route in ROUTES}
OPTION_FAMILIES = FAMILIES_OF["option"]
OPTION = "/v1/flow/options/{symbol}/"
STOCK = "/v1/flow/stocks/{symbol}/"
MAY, JUNE = date(2026, 5, 15), date(2026, 6, 19)


def read(path: str, **given: str) -> Request:
    route = BY_PATH[path]
    named = {"symbol": "SPY"} if "{symbol}" in path else {}
    pairs = [("from" if name == "since" else name, text) for name, text in given.items()]
    return read_request(route.asset, route.params, named, pairs)


def refused(path: str, **given: str) -> tuple[str, str]:
    with pytest.raises(Refusal) as caught:
        read(path, **given)
    assert caught.value.status == 400
    return caught.value.body.error, caught.value.body.message


def test_parameters_and_defaults_of_each_route() -> None:
    expected = {
        OPTION + "recent": Query(symbol="SPY", limit=50),
        OPTION + "summary": Query(symbol="SPY"),
        OPTION + "blocks": Query(symbol="SPY", min_size=100),
        OPTION + "history": Query(symbol="SPY", minutes=60),
        OPTION + "cumulative": Query(symbol="SPY", minutes=240),
        OPTION + "dealer-premium": Query(symbol="SPY", minutes=240),
        OPTION + "divergence": Query(symbol="SPY", minutes=240, lookback=30),
        OPTION + "turning-points": Query(symbol="SPY", minutes=240, limit=10),
        OPTION + "sessions": Query(symbol="SPY", days=5),
        "/v1/flow/options/drift": Query(limit=20, min_trades=20, minutes=240),
        STOCK + "divergence": Query(asset="stock", symbol="SPY", minutes=240, lookback=30),
        STOCK + "turning-points": Query(asset="stock", symbol="SPY", minutes=240, limit=10),
        STOCK + "sessions": Query(asset="stock", symbol="SPY", days=5),
        "/v1/flow/stocks/drift": Query(asset="stock", limit=20, min_trades=20, minutes=240),
        "/v1/flow/options/leaderboard": Query(limit=10, minutes=240),
        "/v1/flow/options/outliers": Query(limit=20, min_trades=20, minutes=240),
        STOCK + "recent": Query(asset="stock", symbol="SPY", limit=50),
        STOCK + "summary": Query(asset="stock", symbol="SPY"),
        STOCK + "blocks": Query(asset="stock", symbol="SPY", min_size=10_000),
        STOCK + "history": Query(asset="stock", symbol="SPY", minutes=60),
        STOCK + "cumulative": Query(asset="stock", symbol="SPY", minutes=240),
        "/v1/flow/stocks/leaderboard": Query(asset="stock", limit=10, minutes=240),
        "/v1/flow/stocks/outliers": Query(asset="stock", limit=20, min_trades=20, minutes=240),
        STOCK + "bars": Query(asset="stock", symbol="SPY", minutes=60, resolution="1m"),
    }
    given = {STOCK + "bars": {"resolution": "1m"}}
    assert {path: read(path, **given.get(path, {})) for path in BY_PATH} == {
        path: Request(query, None) for path, query in expected.items()
    }


@pytest.mark.parametrize(
    ("path", "name", "field", "low", "high"),
    [
        (OPTION + "recent", "limit", "limit", 1, 500),
        (OPTION + "blocks", "minSize", "min_size", 1, 2**31 - 1),
        (OPTION + "history", "minutes", "minutes", 1, 10_080),
        (OPTION + "cumulative", "minutes", "minutes", 1, 10_080),
        (OPTION + "dealer-premium", "windowMinutes", "minutes", 1, 10_080),
        (STOCK + "blocks", "minSize", "min_size", 1, 2**31 - 1),
        ("/v1/flow/stocks/leaderboard", "n", "limit", 1, 50),
        ("/v1/flow/options/leaderboard", "windowMinutes", "minutes", 1, 10_080),
        (OPTION + "turning-points", "limit", "limit", 1, 100),
        (STOCK + "sessions", "days", "days", 1, 60),
        ("/v1/flow/options/drift", "limit", "limit", 1, 200),
        ("/v1/flow/options/outliers", "limit", "limit", 1, 200),
        ("/v1/flow/options/outliers", "minTrades", "min_trades", 0, 2**31 - 1),
        ("/v1/flow/stocks/outliers", "windowMinutes", "minutes", 1, 10_080),
    ],
)
def test_numbers_are_clamped(path: str, name: str, field: str, low: int, high: int) -> None:
    assert getattr(read(path, **{name: "-7"}).query, field) == low
    assert getattr(read(path, **{name: "9" * 30}).query, field) == high
    assert getattr(read(path, **{name: "3"}).query, field) == 3
    error, message = refused(path, **{name: "3.5"})
    assert error.replace("_", "") == f"invalid{name.lower()}"
    assert message == f"{name} must be a whole number, not '3.5'."


def test_bars_need_a_resolution() -> None:
    assert read(STOCK + "bars", resolution="4h", minutes="9999").query.minutes == 1440
    expected = "resolution must be one of 1s, 1m, 5m, 15m, 30m, 1h, 4h, not '{}'."
    for text in ("2m", "1M", " 1m", "1"):
        assert refused(STOCK + "bars", resolution=text) == ("invalid_resolution", expected.format(text))
    assert refused(STOCK + "bars") == ("invalid_resolution", expected.format(""))


@pytest.mark.parametrize(
    ("text", "ranges", "echo"),
    [
        ("2026-05-15", ((MAY, MAY),), "2026-05-15"),
        ("2026-05-15,2026-06-19", ((MAY, MAY), (JUNE, JUNE)), "2026-05-15,2026-06-19"),
        (" 2026-06-19 , 2026-05-15 ", ((MAY, MAY), (JUNE, JUNE)), "2026-06-19,2026-05-15"),
        ("2026-05-15..2026-06-19", ((MAY, JUNE),), "2026-05-15..2026-06-19"),
        ("2026-05-15..", ((MAY, date.max),), "2026-05-15.."),
        ("..2026-06-19", ((date.min, JUNE),), "..2026-06-19"),
        ("2026-05-20..2026-06-19,2026-05-15..2026-05-20", ((MAY, JUNE),), None),
        ("2026-06-19,2026-05-15..2026-07-01,2026-05-16", ((MAY, date(2026, 7, 1)),), None),
        ("2026-05-15,2026-05-15", ((MAY, MAY),), None),
    ],
)
@pytest.mark.parametrize("route", ["recent", "summary", "blocks", "history", "cumulative", "dealer-premium"])
def test_expiries(route: str, text: str, ranges: tuple[tuple[date, date], ...], echo: str | None) -> None:
    query = read(OPTION + route, expiry=text).query
    assert query.filter == Filter(expiries=ranges)
    assert query.echo == (("expiry", echo or text),)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        *((text, text) for text in ("", "soon", "2026-02-29", "2026-13-01", "0000-01-01", "20260102")),
        *((text, text) for text in ("2026-1-2", "2026-W01-1", "2026-01-02T00:00", "٢٠٢٦-٠١-٠٢", "..")),
        ("2026-05-15,", ""), ("2026-05-15,soon", "soon"), ("2026-05-15..soon", "soon"),
        ("2026-06-19..2026-05-15", "2026-06-19..2026-05-15"), ("2026-05-15...2026-06-19", ".2026-06-19"),
    ],
)  # fmt: skip
def test_invalid_expiries_are_refused(text: str, part: str) -> None:
    error, message = refused(OPTION + "recent", expiry=text)
    assert error == "invalid_expiry"
    assert message.startswith("expiry must be a ")
    assert message.endswith(f", not '{part}'.")


def test_a_list_beyond_the_limit_is_refused() -> None:
    days = [(MAY + timedelta(days=n)).isoformat() for n in range(101)]
    assert len(read(OPTION + "summary", expiry=",".join(days[:100])).query.filter.expiries) == 100
    assert refused(OPTION + "summary", expiry=",".join(days))[1].startswith(
        "expiry must be a list of at most 100"
    )
    assert read(OPTION + "summary", exclude=",".join(["late"] * 100)).query.filter.exclude == ("late",)
    assert refused(OPTION + "summary", exclude=",".join(["late"] * 101))[0] == "invalid_exclude"


@given(st.lists(st.tuples(st.dates(), st.dates()).map(sorted), min_size=1, max_size=8), st.dates())
def test_date_ranges_are_sorted_and_merged(asked: list[list[date]], day: date) -> None:
    text = ",".join(f"{low}..{high}" for low, high in asked)
    ranges = read(OPTION + "summary", expiry=text).query.filter.expiries
    assert all(before[1] < after[0] for before, after in pairwise(ranges))
    for probe in (day, *(end for pair in asked for end in pair)):
        among = any(low <= probe <= high for low, high in asked)
        assert any(low <= probe <= high for low, high in ranges) == among


@pytest.mark.parametrize(
    ("name", "text", "value", "echo"),
    [
        ("right", "C", "C", "C"), ("right", "p", "P", "P"), ("right", "call", "C", "C"), ("right", "PUT", "P", "P"),
        ("dte", "0", (0, 0), "0"), ("dte", "0..7", (0, 7), "0..7"), ("dte", "007", (7, 7), "7"),
        ("dte", "30..", (30, 2**31 - 1), "30.."), ("dte", "..7", (0, 7), "..7"),
        ("strike", "590", (5_900_000, 5_900_000), "590"),
        ("strike", "590..610", (5_900_000, 6_100_000), "590..610"),
        ("strike", "42.50..0042.5001", (425_000, 425_001), "42.5..42.5001"),
        ("strike", "..0.0001", (0, 1), "..0.0001"), ("strike", "600..", (6_000_000, 2**31 - 1), "600.."),
        ("exclude", "multileg", ("multileg",), "multileg"),
        ("exclude", "Multi-Leg, auction", ("auction", "multileg"), "multileg,auction"),
        ("exclude", "extended hours", ("extended",), "extended"),
        ("exclude", ",".join(OPTION_FAMILIES), tuple(sorted(OPTION_FAMILIES)), ",".join(OPTION_FAMILIES)),
        ("side", "buy", "buy", "buy"), ("side", "SELL", "sell", "sell"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("route", ["summary", "history", "cumulative"])
def test_filters(route: str, name: str, text: str, value: object, echo: str) -> None:
    query = read(OPTION + route, **{name: text}).query
    assert query.filter == Filter(**{name: value})
    assert query.echo == ((name, echo),)
    if name == "side" or (name == "exclude" and set(value) <= set(FAMILIES_OF["stock"])):
        assert read(STOCK + route, **{name: text}).query.filter == query.filter


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("right", "X", None), ("right", "", None), ("side", "mid", None), ("side", "buy,sell", None),
        ("dte", "-1", None), ("dte", "1.5", None), ("dte", "7..0", None), ("dte", "..", None), ("dte", "1,2", None),
        ("dte", "123456", None), ("dte", "٣", None), ("strike", "-5", None), ("strike", "1.00001", None),
        ("strike", "610..590", None), ("strike", "1e3", None), ("strike", "1..2..3", None), ("strike", "", None),
        ("exclude", "cancel", None), ("exclude", "late,nope", "nope"), ("exclude", "late,", ""),
    ],
)  # fmt: skip
def test_invalid_filters_are_refused(name: str, text: str, part: str | None) -> None:
    error, message = refused(OPTION + "history", **{name: text})
    assert error == f"invalid_{name}"
    assert message.startswith(f"{name} must be ")
    assert message.endswith(f", not '{text if part is None else part}'.")
    if name == "exclude":
        assert all(family in message for family in OPTION_FAMILIES)


def test_stock_routes_exclude_the_families_of_stocks() -> None:
    every = ",".join(FAMILIES_OF["stock"])
    assert read(STOCK + "summary", exclude=every).query.filter.exclude == tuple(sorted(FAMILIES_OF["stock"]))
    assert read(STOCK + "summary", exclude="priced elsewhere").query.filter.exclude == ("elsewhere",)
    error, message = refused(STOCK + "summary", exclude="late,multileg")
    assert (error, message) == (
        "invalid_exclude",
        f"exclude must be a list of {every.replace(',', ', ')}, not 'multileg'.",
    )
    assert refused(OPTION + "summary", exclude="elsewhere")[0] == "invalid_exclude"


def test_filters_are_echoed_in_one_order() -> None:
    given = {
        "side": "buy",
        "strike": "5",
        "right": "C",
        "expiry": "2026-05-15",
        "exclude": "late",
        "dte": "1",
    }
    echo = read(OPTION + "cumulative", **given).query.echo
    assert [name for name, _ in echo] == ["expiry", "right", "dte", "strike", "exclude", "side"]


def test_measure_anchor_and_quality() -> None:
    query = read(OPTION + "cumulative", measure="Premium", anchor="SESSION", include=" Quality").query
    assert (query.measure, query.anchor, query.quality) == ("premium", "session", True)
    assert read(STOCK + "history", include="quality,quality").query.quality
    for name, text in (("measure", "delta"), ("anchor", "day"), ("include", "quality,all"), ("include", "")):
        error, message = refused(OPTION + "cumulative", **{name: text})
        assert error == f"invalid_{name}"
        assert f"not '{text.rpartition(',')[2]}'." in message


def ns(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp()) * 10**9


@pytest.mark.parametrize(
    "path", [OPTION + "cumulative", STOCK + "cumulative", OPTION + "history", STOCK + "history"]
)
def test_a_span_in_place_of_minutes(path: str) -> None:
    begin, end = "2026-05-11T13:30:00Z", "2026-05-12T20:00:00.5+00:00"
    query = read(path, since=begin).query
    assert (query.since, query.until, query.cursor, query.minutes) == (ns(2026, 5, 11, 13, 30), None, None, 0)
    query = read(path, since=begin, to=end).query
    assert (query.since, query.until) == (ns(2026, 5, 11, 13, 30), ns(2026, 5, 12, 20) + 500_000_000)


@pytest.mark.parametrize(
    ("error", "given"),
    [
        ("invalid_to", {"to": "2026-05-11T13:30:00Z"}),
        ("invalid_cursor", {"cursor": "29640000"}),
        ("invalid_minutes", {"since": "2026-05-11T13:30:00Z", "minutes": "5"}),
        ("invalid_at", {"since": "2026-05-11T13:30:00Z", "at": "2026-05-12T13:30:00Z"}),
        ("invalid_from", {"since": "2026-05-11T13:30:00Z", "to": "2026-05-11T13:30:00Z"}),
        ("invalid_from", {"since": "2026-05-11T13:30:00Z", "to": "2026-05-10T13:30:00Z"}),
        ("invalid_from", {"since": "2026-05-11"}),
        ("invalid_to", {"since": "2026-05-11T13:30:00Z", "to": "later"}),
        ("invalid_cursor", {"since": "2026-05-11T13:30:00Z", "cursor": "next"}),
        ("invalid_cursor", {"since": "2026-05-11T13:30:00Z", "cursor": ""}),
        ("invalid_cursor", {"since": "2026-05-11T13:30:00Z", "cursor": "1"}),
    ],
)
def test_invalid_spans_are_refused(error: str, given: dict[str, str]) -> None:
    found, message = refused(OPTION + "cumulative", **given)
    assert found == error
    name = error.removeprefix("invalid_")
    assert message.startswith(f"{name} ")
    assert f"'{given['since' if name == 'from' else name]}'" in message


def test_a_format() -> None:
    for text, value in (("json", "json"), ("CSV", "csv"), ("arrow", "arrow"), ("Parquet", "parquet")):
        assert read(OPTION + "recent", format=text) == Request(read(OPTION + "recent").query, value)
    error, message = refused(OPTION + "recent", format="xml")
    assert (error, message) == (
        "invalid_format",
        "format must be one of json, csv, arrow, parquet, not 'xml'.",
    )
