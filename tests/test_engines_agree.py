"""Every route answers, by every parameter, with the same bytes and headers from either engine, the embedded store and
ClickHouse: on a simulated week and on the Cboe day."""

from datetime import UTC, date, datetime

import pytest

from flowtape.server.routes import CUMULATIVE, ROUTES
from flowtape.simulation.tape import Market, write_tape
from serving import Kept
from stores import ENGINE

OTHER = "chdb" if ENGINE == "duckdb" else ENGINE
WEEK = [date(2026, 5, day) for day in (6, 7, 8, 11, 12)]
TOLD = ("etag", "x-data-as-of", "x-data-source", "content-type")
LONG = {"minutes": "10080", "windowMinutes": "10080"}
VALUES = {
    "limit": ("500",),
    "minSize": ("2",),
    "minTrades": ("0",),
    "minutes": ("10080",),
    "windowMinutes": ("10080",),
    "days": ("60",),
    "resolution": ("5m",),
    "right": ("P",),
    "dte": ("0..7",),
    "exclude": ("multileg", "regular,late"),
    "side": ("buy",),
    "measure": ("premium", "directional", "directional_premium"),
    "split": ("right",),
    "anchor": ("session",),
    "include": ("quality",),
}
"""Of each parameter, what is asked; those of one tape (`at`, `from`, `expiry`, `strike`) are named with it. How an
answer is written (`format`) no store knows of."""


class Both:
    """The same tape in both engines, each with a server of its own whose clock shows `now`. `each` names the routes
    that are asked by each parameter alone, too; the others share those parameters' code."""

    def __init__(self, folder, now, files, format, symbol, values, each):
        self.symbol, self.values, self.each = symbol, {**VALUES, **values}, each
        self.kept = []
        for name, engine in (("one", "duckdb"), ("other", OTHER)):
            (folder / name).mkdir()
            made = Kept(folder / name, ns(now), engine=engine)
            for file in files:
                outcome = made.take_file(file, format)
                assert (outcome.rejected, outcome.refused) == (0, 0)
            self.kept.append(made)

    def requests(self, route):
        """Paths and arguments of a route: as it is, as of then, by each parameter, and by several together."""
        path = route.path.replace("{symbol}", self.symbol)
        names = [param.name for param in route.params if param.where == "query"]
        values = self.values
        if route.asset == "stock":
            values = values | {"exclude": ("auction", "regular,late"), "measure": ("premium",)}
        always = {"resolution": "1m"} if "resolution" in names else {}
        long = {name: most for name, most in LONG.items() if name in names}
        yield path, always
        alone = names if route.path in self.each else [name for name in names if name == "at"]
        for name in alone:
            for value in values.get(name, ()):
                yield path, {**always, **(long if name != "from" else {}), name: value}
        if "from" in names:
            yield path, {**always, "from": self.values["at"][0], "to": self.values["at"][-1]}
        chosen = {name: values[name][0] for name in ("right", "exclude", "at") if name in names}
        yield path, {**always, **long, **chosen}

    def check(self, route):
        asked = list(self.requests(route))
        answers = [made.ask(*asked) for made in self.kept]
        for request, ours, theirs in zip(asked, *answers, strict=True):
            assert ours.status_code == 200, (request, ours.text)
            assert ours.content == theirs.content, request
            assert {name: ours.headers.get(name) for name in TOLD} == {
                name: theirs.headers.get(name) for name in TOLD
            }, request
        return answers[0]

    def close(self):
        for made in self.kept:
            made.close()


def ns(instant):
    return int(datetime.fromisoformat(instant).replace(tzinfo=UTC).timestamp()) * 10**9


@pytest.fixture
def week(tmp_path):
    """A simulated week of both assets, a file a day, the clock in its last minute; the day before it once more, as a
    tape that comes again."""
    market = Market(seed=11, underlyings=6)
    files = []
    for day in WEEK:
        files.append(tmp_path / f"{day}.parquet")
        write_tape(market, [day], files[-1], assets="both", rows=800)
    values = {
        "at": ("2026-05-08T17:00:30Z", "2026-05-12T19:00:00Z"),
        "expiry": ("2026-05-15", "2026-05-08..2026-06-30"),
        "strike": ("300..700",),
    }
    every = [route.path for route in ROUTES if route.asset == "option" or route.path.endswith("/bars")]
    made = Both(tmp_path, "2026-05-12T19:59:30", [*files, files[-2]], "table", "SPY", values, every)
    yield made
    made.close()


@pytest.fixture
def cboe(shared, tmp_path):
    """The Cboe sample, the clock in the last minute of its day."""
    file = shared / "data" / "cboe" / "UnderlyingOptionsTrades_2016-06-01.csv"
    values = {
        "at": ("2016-06-01T15:07:31.25Z", "2016-06-01T20:15:00Z"),
        "expiry": ("2016-06-15", "2016-06-08..2016-07-30"),
        "strike": ("10..20",),
    }
    made = Both(tmp_path, "2016-06-01T20:14:59", [file], "cboe", "VIX", values, [CUMULATIVE["option"].path])
    yield made
    made.close()


def test_duckdb_and_clickhouse_agree_on_a_simulated_week(week):
    for route in ROUTES:
        assert any(answer.json().get("count", 1) for answer in week.check(route)), route.path


def test_duckdb_and_clickhouse_agree_on_the_cboe_day(cboe):
    for route in ROUTES:
        if route.asset == "option":
            cboe.check(route)
