"""Every route on the Cboe sample and on a made tape of stocks, over a socket, against the plain-Python oracle."""

import contextlib
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import oracle
import oracle_routes as routes
from oracle import MINUTE
from oracle_compare import differences, instruments
from oracle_routes import Tape
from serving import kept, serving
from tapes import SECOND, T0, long_tape, row, rows, stock_tape, write_csv

GOLDEN = Path(__file__).with_name("golden") / "cboe_routes.json"
EVENING = "2016-06-01T20:15:00Z"
INSTANTS = (
    EVENING,
    "2016-06-01T13:30:00Z",
    "2016-06-01T15:07:31.250Z",
    "2016-06-02T03:59:59Z",
    "2016-05-31T20:00:00Z",
)
"""The close, the open, amid a minute, the evening of the day, and before there was any print."""
ROUTES = ("recent", "summary", "blocks", "history", "cumulative", "dealer-premium")
FILTERED = ("summary", "history", "cumulative")
WINDOWED = ("history", "cumulative", "dealer-premium")
ALL_FAMILIES = ("regular", "multileg", "late")
"""The families that the sample has prints of."""
OPENS = {
    "VIX": [
        (datetime(2016, 5, 31, 7, tzinfo=UTC), "2016-05-31"),
        (datetime(2016, 6, 1, 7, tzinfo=UTC), "2016-06-01"),
    ],
    "SPY": [
        (datetime(2026, 3, 6, 14, 30, tzinfo=UTC), "2026-03-06"),
        (datetime(2026, 3, 9, 13, 30, tzinfo=UTC), "2026-03-09"),
    ],
}
"""Sessions by hand: VIX options opened at 2:00 in Chicago then; clocks changed between the two days of SPY."""


def ns(instant):
    if isinstance(instant, str):
        instant = datetime.fromisoformat(instant)
    since = instant - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000


def opens(symbol):
    return [(ns(opened), name) for opened, name in OPENS[symbol]]


class Served:
    """A server, the tape behind it and the instant its clock shows."""

    def __init__(self, rows, now, http, asset):
        self.tape, self.now, self.http, self.asset = Tape(rows), now, http, asset

    def get(self, path, **asked):
        found = self.http.get(f"/v1/flow/{self.asset}s/{path}", params=asked)
        assert found.status_code == 200, (path, asked, found.text)
        return found.json()

    def check(self, symbol, route, at=None, anchor=None, **asked):
        """One answer, equal to the oracle's; gives it."""
        more = {} if at is None else {"at": at}
        found = self.get(f"{symbol}/{route}", **asked, **more, **({"anchor": anchor} if anchor else {}))
        expected = self.expected(symbol, route, at=None if at is None else ns(at), anchor=anchor, **asked)
        assert differences(found, expected) == [], (symbol, route, at, asked)
        return found

    def expected(self, symbol, route, at=None, anchor=None, **asked):
        more = {"now": self.now} if route in WINDOWED else {}
        if anchor == "session":
            more["opens"] = opens(symbol)
        if route == "dealer-premium":
            return routes.dealer_premium(self.tape, symbol, at=at, **more, **asked)
        return getattr(routes, route)(self.tape, self.asset, symbol, at=at, **more, **asked)


@contextlib.contextmanager
def served(folder, now, asset, rows, file, format):
    with kept(folder, now) as made:
        outcome = made.take_file(file, format)
        assert (outcome.rejected, outcome.refused) == (0, 0)
        headers = {"X-Api-Key": made.keys["alpha"]}
        with serving(made.app) as url, httpx.Client(base_url=url, headers=headers) as http:
            yield Served(rows, now, http, asset)


@pytest.fixture(scope="module")
def cboe(shared, tmp_path_factory):
    """The sample, served in the last minute of its day."""
    file = shared / "data" / "cboe" / "UnderlyingOptionsTrades_2016-06-01.csv"
    with served(
        tmp_path_factory.mktemp("cboe"),
        ns("2016-06-01T20:14:59.5Z"),
        "option",
        oracle.read_cboe(file),
        file,
        "cboe",
    ) as made:
        yield made


@pytest.fixture(scope="module")
def stocks(tmp_path_factory):
    """A made tape of stocks, served amid its second day."""
    folder, rows = tmp_path_factory.mktemp("stocks"), stock_tape()
    write_csv(folder / "stocks.csv", rows)
    now = ns("2026-03-10T01:45:00.5Z")
    with served(folder, now, "stock", rows, folder / "stocks.csv", "table") as made:
        yield made


@pytest.mark.parametrize("route", ROUTES)
def test_every_option_route_equals_the_oracle(cboe, route):
    for at in (None, *INSTANTS):
        cboe.check("VIX", route, at)
        cboe.check("VIX", route, at, expiry="2016-06-15")
        cboe.check("VIX", route, at, expiry="2020-01-17")
        cboe.check("SPY", route, at)


@pytest.mark.parametrize("at", [None, EVENING, "2016-06-01T15:07:31.250Z"])
def test_window_lengths_limits_and_sizes_equal_the_oracle(cboe, at):
    for limit in (1, 7, 500):
        cboe.check("VIX", "recent", at, limit=limit)
    for least in (1, 50, 1000, 2_000_000):
        cboe.check("VIX", "blocks", at, minSize=least)
    for minutes in (1, 33, 405, 10_080):
        cboe.check("VIX", "history", at, minutes=minutes)
        cboe.check("VIX", "cumulative", at, minutes=minutes)
        cboe.check("VIX", "dealer-premium", at, windowMinutes=minutes, expiry="2016-06-15")
        cboe.check("VIX", "cumulative", at, minutes=minutes, measure="premium")
        cboe.check("VIX", "cumulative", at, minutes=minutes, anchor="session")
        cboe.check("VIX", "cumulative", at, minutes=minutes, anchor="session", measure="premium", side="buy")


FILTERS = (
    {"right": "C"},
    {"expiry": "2016-06-15,2016-09-21"},
    {"expiry": "2016-06-08..2016-07-20"},
    {"expiry": "2016-06-08,2016-09-21..2016-10-19"},
    {"dte": "7"},
    {"dte": "0..14"},
    {"strike": "15"},
    {"strike": "12.5..17"},
    {"exclude": "multileg"},
    {"exclude": "late,regular"},
    {"side": "buy"},
    {"side": "sell"},
    {"right": "P", "dte": "14..50", "strike": "13..20", "exclude": "multileg", "side": "sell"},
    {"expiry": "2016-06-15", "right": "C", "side": "buy", "exclude": "late"},
)


@pytest.mark.parametrize("asked", FILTERS, ids=str)
@pytest.mark.parametrize("route", FILTERED)
def test_filters_alone_and_combined_equal_the_oracle(cboe, route, asked):
    window = {} if route == "summary" else {"minutes": 405}
    for at in (None, EVENING, "2016-06-01T18:44:10.5Z"):
        found = cboe.check("VIX", route, at, **window, **asked)
        assert list(found)[1 : 1 + len(asked)] == [name for name in routes.FILTERS if name in asked]
        if route != "summary":
            cboe.check("VIX", route, at, **window, **asked, include="quality")


def sums(bodies):
    """Volumes and counts by minute, over some answers of `history`."""
    total = {}
    for body in bodies:
        for bucket in body["buckets"]:
            numbers = [bucket[name] for name in ("buyVolume", "sellVolume", "midVolume", "tradeCount")]
            total[bucket["ts"]] = list(map(sum, zip(total.get(bucket["ts"], [0] * 4), numbers, strict=True)))
    return total


@pytest.mark.parametrize("at", [None, EVENING])
def test_filters_partition_the_whole(cboe, at):
    def history(**asked):
        return cboe.check("VIX", "history", at, minutes=405, **asked)

    rows = cboe.tape.of("option", "VIX")
    whole = sums([history()])
    assert whole
    parts = {
        "right": "CP",
        "expiry": sorted({row["expiry"].isoformat() for row in rows}),
        "dte": sorted({str((row["expiry"] - oracle.day(row["ts"])).days) for row in rows}),
        "strike": sorted({f"{row['strike'] / 10_000:g}" for row in rows}),
        "exclude": [
            ",".join(f for f in oracle.FAMILIES if f not in (kept, "cancel", "elsewhere"))
            for kept in ALL_FAMILIES
        ],
    }
    for name, values in parts.items():
        assert sums(history(**{name: value}) for value in values) == whole, name
    halves = sums(history(side=side) for side in ("buy", "sell"))
    for ts, (buy, sell, mid, count) in whole.items():
        found = halves.get(ts, [0] * 4)
        assert found[:3] == [buy, sell, 0]
        unsided = [
            row for row in rows if not row["sign"] and routes.instant(row["ts"] // MINUTE * MINUTE) == ts
        ]
        assert (found[3], mid) == (count - len(unsided), routes.volume(unsided))


@pytest.mark.parametrize("route", [*ROUTES, "leaderboard", "outliers"])
def test_the_golden_answers_are_unchanged(cboe, route):
    """To the byte, and so the ids of instruments too."""
    asked = {} if route in ("leaderboard", "outliers") else {"at": EVENING}
    path = route if not asked else f"VIX/{route}"
    found = cboe.http.get(f"/v1/flow/options/{path}", params=asked).content
    assert hashlib.sha256(found).hexdigest() == json.loads(GOLDEN.read_text())[path], found[:2000]


def test_cross_sections_of_the_sample_equal_the_oracle(cboe):
    for asked in ({}, {"windowMinutes": 30}, {"windowMinutes": 1}, {"windowMinutes": 10_080}):
        check_leaders(cboe, **asked)


def check_leaders(made, **asked):
    for n in (1, 50):
        expected = routes.leaderboard(made.tape, made.asset, now=made.now, n=n, **asked)
        assert differences(made.get("leaderboard", n=n, **asked), expected) == []
    for limit, least in ((200, 0), (1, 20), (20, 10_000)):
        more = asked | {"limit": limit, "minTrades": least}
        expected = routes.outliers(made.tape, made.asset, now=made.now, **more)
        assert differences(made.get("outliers", **more), expected) == []


def test_instrument_ids_of_the_sample_equal_their_contracts(cboe):
    bodies = [
        cboe.get("VIX/recent", limit=500, **more) for more in ({}, {"at": EVENING}, {"expiry": "2016-06-15"})
    ]
    seen = instruments(bodies)
    assert len(seen) > 20
    ids = [number for numbers in seen.values() for number in numbers]
    assert len(ids) == len(set(ids)) == len(seen), "one number a contract, and one contract a number"
    assert all(type(number) is int and 0 <= number < 2**53 for number in ids)


@pytest.mark.parametrize("route", ["recent", "summary", "blocks", "history", "cumulative"])
def test_every_stock_route_equals_the_oracle(stocks, route):
    instants = (
        None,
        "2026-03-10T02:00:00Z",
        "2026-03-09T14:00:00.5Z",
        "2026-03-07T01:00:00Z",
        "2026-03-06T14:00:00Z",
    )
    for symbol in ("SPY", "QQQ", "F", "NONE"):
        for at in instants:
            stocks.check(symbol, route, at)
            if route == "recent":
                stocks.check(symbol, route, at, limit=500)
            if route == "blocks":
                stocks.check(symbol, route, at, minSize=300)
            if route in WINDOWED:
                for minutes in (1, 700, 10_080):
                    stocks.check(symbol, route, at, minutes=minutes)
                stocks.check(symbol, route, at, minutes=5000, side="sell", exclude="elsewhere,late")
                stocks.check(symbol, route, at, minutes=5000, include="quality")


@pytest.mark.parametrize(
    "at", [None, "2026-03-10T02:00:00Z", "2026-03-09T14:00:00.5Z", "2026-03-07T01:00:00Z"]
)
def test_session_sums_equal_the_oracle(stocks, at):
    for minutes in (1, 240, 10_080):
        for asked in ({}, {"measure": "premium"}, {"side": "buy"}):
            stocks.check("SPY", "cumulative", at, minutes=minutes, anchor="session", **asked)


@pytest.mark.parametrize("resolution", routes.SECONDS)
def test_bars_equal_the_oracle(stocks, resolution):
    for symbol in ("SPY", "F", "NONE"):
        for minutes in (1, 60, 61, 700, 1440):
            found = stocks.get(f"{symbol}/bars", resolution=resolution, minutes=minutes)
            expected = routes.bars(
                stocks.tape, symbol, now=stocks.now, resolution=resolution, minutes=minutes
            )
            assert differences(found, expected) == [], (symbol, minutes)


def test_stock_cross_sections_equal_the_oracle(stocks):
    for asked in ({}, {"windowMinutes": 90}, {"windowMinutes": 10_080}):
        check_leaders(stocks, **asked)


@pytest.mark.parametrize(("route", "rows"), [("cumulative", "points"), ("history", "buckets")])
@pytest.mark.parametrize("asset", ["option", "stock"])
def test_pages_of_history_join_to_the_whole(tmp_path, asset, route, rows):
    tape, first = long_tape(10_500, asset), T0 // MINUTE
    begin, end = first + 20, first + 10_400
    with kept(tmp_path, T0) as made:
        made.take(tape)
        bounds = {name: routes.instant(minute * MINUTE) for name, minute in (("from", begin), ("to", end))}
        path, asked, pages = f"/v1/flow/{asset}s/SPY/{route}", dict(bounds), []
        while len(pages) < 3:
            (answer,) = made.ask((path, asked))
            assert answer.status_code == 200, answer.text
            pages.append(answer.json())
            if pages[-1].get("nextCursor") is None:
                break
            asked = bounds | {"cursor": pages[-1]["nextCursor"]}
    assert [len(page[rows]) for page in pages] == [10_080, 300]
    expected = getattr(routes, route)(Tape(tape), asset, "SPY", bounds=(begin, end))[rows]
    assert differences([row for page in pages for row in page[rows]], expected) == []
    for page in pages:
        assert list(page)[:4] == ["symbol", "from", "to", "count"]
        assert {name: page[name] for name in bounds} == bounds
        assert page["count"] == len(page[rows])


@pytest.mark.parametrize("now", [T0 + 3600 * SECOND, T0 + 3000 * 86_400 * SECOND])
def test_a_late_print_and_a_cancel_change_every_past_answer(tmp_path, now):
    """In the week that is held in memory, and long after it."""
    first = [row(ts=T0 + n * SECOND, seq=n, size=1 + n % 3) for n in range(40)]
    more = [
        row(ts=T0 + 7 * SECOND, seq=90, size=500, price=13_000),
        row(ts=T0 + 50 * SECOND, seq=91, size=first[8]["size"], condition="CANC"),
    ]
    made = Served(first, now, None, "option")
    requests = [(route, {"at": nanoseconds(T0 + 300 * SECOND)}) for route in ROUTES]
    requests += [("recent", {}), ("summary", {}), ("blocks", {}), ("cumulative", {"side": "buy"})]
    with kept(tmp_path, now) as server:
        for taken in (first, more):
            server.take(taken)
            made.tape = Tape(first if taken is first else first + more)
            answers = server.ask(*((f"/v1/flow/options/SPY/{route}", asked) for route, asked in requests))
            for (route, asked), answer in zip(requests, answers, strict=True):
                at = T0 + 300 * SECOND if "at" in asked else None
                rest = {name: value for name, value in asked.items() if name != "at"}
                expected = made.expected("SPY", route, at=at, **rest)
                assert differences(answer.json(), expected) == [], (route, asked)


MEASURES = {"measure": st.sampled_from(["volume", "premium"])}
QUALITY = {"include": st.just("quality")}
OPTION_FILTERS = {
    "expiry": st.sampled_from(
        ["2026-03-06", "2026-03-06,2026-03-20", "2026-03-07..2026-04-01", "2026-03-01..2026-03-19"]
    ),
    "right": st.sampled_from("CP"),
    "dte": st.sampled_from(["0", "0..13", "13", "14", "1..20"]),
    "strike": st.sampled_from(["600", "590..600", "600.5", "600.1..700"]),
}  # fmt: skip
EXCLUDES = {
    "option": ["multileg", "auction,cross", "late", "regular,unknown", "extended,floor"],
    "stock": ["auction", "elsewhere,late", "late", "regular,unknown"],
}


@st.composite
def questions(draw, asset):
    """Requests of one symbol: (route, symbol, at, arguments)."""
    filters = {"exclude": st.sampled_from(EXCLUDES[asset]), "side": st.sampled_from(["buy", "sell"])}
    filters |= OPTION_FILTERS if asset == "option" else {}
    made = []
    for route in ("recent", "summary", "blocks", "history", "cumulative"):
        symbol = draw(st.sampled_from(["SPY", "SPX"]))
        at = draw(st.none() | st.integers(0, 10 * 3600))
        asked = {}
        if route in FILTERED:
            asked = draw(st.fixed_dictionaries({}, optional=filters))
        elif asset == "option":
            asked = draw(st.fixed_dictionaries({}, optional={"expiry": st.just("2026-03-20")}))
        if route in WINDOWED:
            asked["minutes"] = draw(st.sampled_from([1, 5, 600, 10_080]))
            more = QUALITY | (MEASURES if route == "cumulative" else {})
            asked |= draw(st.fixed_dictionaries({}, optional=more))
        if route == "recent":
            asked["limit"] = draw(st.sampled_from([1, 3, 500]))
        if route == "blocks":
            asked["minSize"] = draw(st.sampled_from([1, 2, 1000]))
        made.append((route, symbol, None if at is None else T0 + at * SECOND, asked))
    return made


# What is drawn is small as it is; making it smaller still would take minutes.
@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.data(), st.sampled_from(["option", "stock"]))
def test_any_answer_to_any_tape_equals_the_oracle(tmp_path_factory, data, asset):
    now = T0 + data.draw(st.sampled_from([8 * 60, 9 * 3600])) * SECOND
    tape = [one for one in data.draw(rows(asset=asset)) if one["ts"] < now]
    asked = data.draw(questions(asset))
    made = Served(tape, now, None, asset)
    with kept(tmp_path_factory.mktemp("any"), now) as server:
        half = data.draw(st.integers(0, len(tape)))
        server.take(tape[:half])
        server.take(tape[half:])
        requests = [
            (f"/v1/flow/{asset}s/{symbol}/{route}", more | ({} if at is None else {"at": nanoseconds(at)}))
            for route, symbol, at, more in asked
        ]
        answers = server.ask(
            *requests,
            (f"/v1/flow/{asset}s/leaderboard", {}),
            (f"/v1/flow/{asset}s/outliers", {"minTrades": 2}),
        )
    *answers, leaders, outliers = answers
    for (route, symbol, at, more), answer in zip(asked, answers, strict=True):
        assert answer.status_code == 200, answer.text
        assert differences(answer.json(), made.expected(symbol, route, at, **more)) == [], (route, at, more)
    assert differences(leaders.json(), routes.leaderboard(made.tape, asset, now=now)) == []
    assert differences(outliers.json(), routes.outliers(made.tape, asset, now=now, minTrades=2)) == []


def nanoseconds(at):
    return f"{routes.instant(at)[:-1]}.{at % 10**9:09}Z"
