"""Names of query parameters: known ones that a route does not take are refused, unknown ones ignored."""

import re

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtape.server.errors import Refusal
from flowtape.server.names import Names
from flowtape.server.routes import ROUTES
from flowtape.server.streams import LAST_EVENT_ID, STREAMS, query_names

from .conftest import PATH, World

VALUE = {"minutes": "5", "windowMinutes": "5", "right": "C", "at": "2026-05-12T15:00:00Z", "resolution": "1m"}
ALL = sorted({param.name for route in ROUTES for param in route.params} | {LAST_EVENT_ID})
BOARD = "/v1/flow/options/leaderboard"


@pytest.mark.parametrize("route", [*ROUTES, *STREAMS], ids=lambda route: route.path)
def test_a_parameter_of_other_routes_is_refused_by_name(world: World, route) -> None:
    path = route.path.replace("{symbol}", "SPY")
    for name in set(ALL) - set(query_names(route)):
        found = world.get(path, params={name: VALUE.get(name, "1")})
        assert found.status_code == 400, name
        word = re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name)
        assert found.json()["error"] == f"invalid_{word}"
        assert found.json()["message"].startswith(f"{name} cannot be given here, where it would not count")
        assert f"it is '{VALUE.get(name, '1')}'" in found.json()["message"]


@pytest.mark.parametrize("path", ["/v1/account", "/v1/symbols"])
@pytest.mark.parametrize("name", ["at", "format", "symbol", "minutes"])
def test_a_route_without_parameters_takes_none(world: World, path: str, name: str) -> None:
    assert world.get(path, params={name: "1"}).json()["error"] == f"invalid_{name}"
    assert world.get(path, params={"_": "1"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "name", "meant"),
    [
        (PATH, "minute", "minutes"), (PATH, "minuets", "minutes"), (PATH, "mins", "minutes"),
        (PATH, "window", "minutes"),
        (PATH, "expiration", "expiry"), (PATH, "Expirey", "expiry"), (PATH, "since", "from"), (PATH, "start", "from"),
        (PATH, "end", "to"), (PATH, "strikes", "strike"), (PATH, "rigth", "right"), (PATH, "type", "right"),
        (PATH, "maxDte", "dte"), (PATH, "aggressor", "side"),
        (PATH, "conditions", "exclude"), (PATH, "as_of", "at"),
        (PATH, "next_cursor", "cursor"), (PATH, "sied", "side"),
        (PATH, "api_key", "apiKey"),
        (BOARD, "window_minutes", "windowMinutes"), (BOARD, "window", "windowMinutes"), (BOARD, "rights", "right"),
        (BOARD, "top", "n"), ("/v1/flow/options/outliers", "min_trades", "minTrades"),
        ("/v1/flow/options/SPY/blocks", "minsizes", "minSize"), ("/v1/account", "apikeys", "apiKey"),
    ],
)  # fmt: skip
def test_a_name_like_a_parameter_is_refused_with_the_parameter(
    world: World, path: str, name: str, meant: str
) -> None:
    found = world.get(path, params={name: "5"})
    assert (found.status_code, found.json()["error"]) == (400, "unknown_parameter")
    assert found.json()["message"].startswith(f"There is no parameter {name}; did you mean {meant}?")
    assert ("'5'" in found.json()["message"]) == (meant != "apiKey")


def test_the_nearest_parameter_of_the_route_itself_is_named_first(world: World) -> None:
    assert "(did you mean windowMinutes?)" in world.get(BOARD, params={"minutes": "5"}).json()["message"]
    assert "(did you mean n?)" in world.get(BOARD, params={"limit": "5"}).json()["message"]
    elsewhere = world.get(BOARD, params={"expiration": "2026-05-15"}).json()
    assert elsewhere["error"] == "unknown_parameter"
    assert "expiry, which it is like, cannot be given here" in elsewhere["message"]
    root = world.get(PATH, params={"root": "SPXW"}).json()
    assert "symbol, which it is like, cannot be given here" in root["message"]
    size = world.get(PATH, params={"maxSize": "10"}).json()
    assert "minSize, which it is like, cannot be given here" in size["message"]


@pytest.mark.parametrize(
    "name",
    ["_", "t", "ts", "cb", "v", "nocache", "cacheBust", "utm_source", "callback", "x" * 5000, "é", "id", "%"],
)
def test_a_name_unlike_any_parameter_is_ignored(world: World, name: str) -> None:
    for path in (PATH, BOARD, "/v1/symbols"):
        assert world.get(path, params={name: "1"}).status_code == 200


def test_names_are_checked_after_key_and_plan(world: World) -> None:
    assert httpx.get(world.url + PATH, params={"minute": "5"}).status_code == 401
    assert world.get(PATH, plan="growth", params={"minute": "5"}).status_code == 403


@given(st.text(max_size=40), st.text(max_size=10))
def test_any_name_is_accepted_refused_or_ignored(name: str, value: str) -> None:
    names = Names((param for route in ROUTES for param in route.params), (LAST_EVENT_ID,))
    refusals = []
    try:
        names.check(("minutes",), [(name, value)])
    except Refusal as refusal:
        refusals.append(refusal)
    assert all(refusal.status == 400 and refusal.body.message.isprintable() for refusal in refusals)
