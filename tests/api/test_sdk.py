"""The official Python client with only its base URL changed: every method, every field, every error."""

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from numbers import Real
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

import flashalpha
import flashalpha.types
import httpx
import pytest

from flowtape.settings import Settings
from oracle import MINUTE
from serving import Kept, kept, serving
from tapes import ROW, SECOND, STOCK, T0

NOW = T0 + 20 * MINUTE
METHODS = sorted(
    name
    for name, _ in inspect.getmembers(flashalpha.FlashAlpha, inspect.isfunction)
    if re.fullmatch(r"flow_(option|stock|options|stocks)_.+|flow_dealer_premium|account|health|symbols", name)
)
ENVELOPE = {"endpoint_version", "data_as_of"}
"""Fields that are sent in headers."""
MAY_BE_ABSENT = {"note", "expiry"}
"""`expiry` is echoed only if it was given."""
NULL = {"account": {"email"}, "flow_dealer_premium": {"expiry"}}
"""The fields that are null in an answer about symbols with prints."""
OPTIONAL = {
    "limit": 7, "n": 3, "minutes": 33, "window_minutes": 33, "min_size": 2, "min_trades": 1,
    "expiry": "2026-03-20",
}  # fmt: skip
RESOLUTIONS = ("1s", "1m", "5m", "15m", "30m", "1h", "4h")

Connect = Callable[..., flashalpha.FlashAlpha]


def tape() -> list[dict[str, Any]]:
    """Return prints of options and stocks of two symbols, one bought and one sold on balance, some of them blocks."""
    made = []
    for base, size in ((ROW, 100), (STOCK, 10_000)):
        for n in range(120):
            symbol, price = (
                ("SPY", 13_000 if n % 3 else 11_000) if n % 2 else ("AAPL", 11_000 if n % 6 else 13_000)
            )
            made.append(
                base
                | {"ts": T0 + n * 10 * SECOND, "seq": n, "symbol": symbol, "root": symbol, "price": price}
                | {"size": size if n % 10 < 2 else 1 + n}
            )
    return made


class World:
    """A server over a store with prints; a test controls its clock and its feed."""

    def __init__(self, server: Kept, url: str) -> None:
        self.server, self.url = server, url
        self.clients: list[flashalpha.FlashAlpha] = []

    def client(self, key: str) -> flashalpha.FlashAlpha:
        self.clients.append(flashalpha.FlashAlpha(key, base_url=self.url))
        return self.clients[-1]

    def plan(self, plan: str) -> flashalpha.FlashAlpha:
        return self.client(self.server.keys[plan])


@contextlib.contextmanager
def a_world(folder: Path, settings: Settings) -> Iterator[World]:
    with kept(folder, NOW, settings) as server:
        server.take(tape())
        with serving(server.app) as url:
            made = World(server, url)
            try:
                yield made
            finally:
                for client in made.clients:
                    client._session.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with a_world(tmp_path_factory.mktemp("sdk"), Settings()) as made:
        yield made


def body_of(method: str) -> type:
    """Return the TypedDict of a method's annotation."""
    name = inspect.signature(getattr(flashalpha.FlashAlpha, method)).return_annotation
    found = getattr(flashalpha.types, name)
    assert is_typeddict(found)
    return found  # type: ignore[no-any-return]


def faults(value: object, hint: Any, where: str, nulls: set[str]) -> list[str]:
    """Return one line for each place where a value differs from its annotation."""
    if get_origin(hint) is Union:
        if value is None:
            return [] if where.rpartition(".")[2] in nulls else [f"{where} is null"]
        (hint,) = (one for one in get_args(hint) if one is not type(None))
    if is_typeddict(hint):
        return _faults_of_body(value, hint, where, nulls)
    if get_origin(hint) is list:
        if not isinstance(value, list) or not value:
            return [f"{where} is {value!r}, no list with rows"]
        (row,) = get_args(hint)
        return [line for n, one in enumerate(value) for line in faults(one, row, f"{where}[{n}]", nulls)]
    fine = isinstance(value, Real) and not isinstance(value, bool) if hint is float else type(value) is hint
    return [] if fine else [f"{where} is {value!r}, no {hint.__name__}"]


def _faults_of_body(value: object, hint: Any, where: str, nulls: set[str]) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where} is {value!r}, no object"]
    named = {name: one for name, one in get_type_hints(hint).items() if name not in ENVELOPE}
    lines = [f"{where}.{name} is missing" for name in named.keys() - value.keys() - MAY_BE_ABSENT]
    lines += [f"{where}.{name} is unknown to the client" for name in value.keys() - named.keys()]
    for name in named.keys() & value.keys():
        lines += faults(value[name], named[name], f"{where}.{name}", nulls)
    return lines


def test_every_method_of_the_client_is_tested() -> None:
    assert len(METHODS) == 19
    for name in (
        "flow_options_leaderboard",
        "flow_stocks_outliers",
        "flow_stock_bars",
        "flow_dealer_premium",
    ):
        assert name in METHODS


def test_the_readme_names_the_methods_that_work() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("| methods that work |") : readme.index("All other methods answer 404")]
    assert sorted(re.findall(r"`(\w+)`", table)) == METHODS


OTHERS = sorted(
    name
    for name, found in inspect.getmembers(flashalpha.FlashAlpha, inspect.isfunction)
    if not name.startswith("_") and name not in METHODS and "self._" in inspect.getsource(found)
)


@pytest.mark.parametrize("method", OTHERS)
def test_all_other_methods_answer_404(world: World, method: str) -> None:
    called = getattr(world.plan("alpha"), method)
    names = list(inspect.signature(called).parameters.values())
    values = {"float": 1.0, "int": 1, "list": [], "dict": {}, "bool": True}
    given = {
        one.name: next((value for kind, value in values.items() if kind in str(one.annotation)), "SPY")
        for one in names
        if one.default is one.empty and one.kind is not one.VAR_KEYWORD
    }
    with pytest.raises(flashalpha.NotFoundError):
        called(**given)


def calls(method: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the (required, optional) arguments of a method's calls."""
    names = list(inspect.signature(getattr(flashalpha.FlashAlpha, method)).parameters.values())[1:]
    required = [parameter.name for parameter in names if parameter.default is parameter.empty]
    optional = {
        parameter.name: OPTIONAL[parameter.name] for parameter in names if parameter.name not in required
    }
    for symbol in ("SPY", "aapl", "^spy") if "symbol" in required else ("",):
        for resolution in RESOLUTIONS if "resolution" in required else ("",):
            values = {"symbol": symbol, "resolution": resolution}
            given = {name: values[name] for name in required}
            yield given, {}
            yield given, optional


@pytest.mark.parametrize("method", METHODS)
def test_every_method_and_every_field(world: World, method: str) -> None:
    hint, client = body_of(method), world.plan("alpha")
    for required, optional in calls(method):
        found = getattr(client, method)(**required, **optional)
        assert faults(found, hint, method, NULL.get(method, set())) == [], (required, optional)
        if "symbol" in required:
            assert found["symbol"] == required["symbol"].upper().lstrip("^")
        if "expiry" in optional:
            assert found["expiry"] == optional["expiry"]
        for name, key in (("limit", "limit"), ("n", "n"), ("minutes", "minutes"), ("min_size", "minSize")):
            if name in optional and key in found:
                assert found[key] == optional[name]


@pytest.mark.parametrize("method", METHODS)
def test_a_symbol_without_prints_has_an_answer(world: World, method: str) -> None:
    client = world.plan("alpha")
    for required, optional in calls(method):
        if required.get("symbol") == "SPY":
            found = getattr(client, method)(**required | {"symbol": "NONE"}, **optional)
            assert found.get("count", 0) == 0
            assert [value for value in found.values() if isinstance(value, list)] in ([], [[]])


def test_the_envelope_travels_in_headers(world: World) -> None:
    headers = {"X-Api-Key": world.server.keys["alpha"]}
    found = httpx.get(f"{world.url}/v1/flow/stocks/SPY/recent", headers=headers).headers
    assert found["X-Endpoint-Version"]
    assert found["X-Data-As-Of"].startswith("2026-03-06T21:17:50")
    assert found["X-RateLimit-Remaining"] == "unlimited"


def test_the_account_of_each_plan(world: World) -> None:
    for plan, limit in (("free", 5), ("basic", 250), ("growth", 2500)):
        found = world.plan(plan).account()
        assert (found["plan"], found["daily_limit"], found["email"]) == (plan, str(limit), None)
        assert int(found["remaining"]) == limit - found["usage_today"]
        assert found["resets_at"].startswith("2026-03-07T00:00:00")
    for plan in ("alpha", "enterprise"):
        found = world.plan(plan).account()
        assert (found["plan"], found["daily_limit"], found["remaining"]) == (plan, "unlimited", "unlimited")


def test_the_symbols(world: World) -> None:
    found = world.plan("alpha").symbols()
    assert (sorted(found["symbols"]), found["count"]) == (["AAPL", "SPY"], 2)


FLOW = [name for name in METHODS if name.startswith("flow_")]
GIVEN = {"symbol": "SPY", "resolution": "1m"}


def call(client: flashalpha.FlashAlpha, method: str) -> Any:
    parameters = inspect.signature(getattr(client, method)).parameters
    return getattr(client, method)(**{name: GIVEN[name] for name in parameters if name in GIVEN})


@pytest.mark.parametrize("method", [*FLOW, "account", "symbols"])
def test_an_unknown_key(world: World, method: str) -> None:
    with pytest.raises(flashalpha.AuthenticationError, match=r"Invalid API key\.") as error:
        call(world.client("wrong"), method)
    assert error.value.status_code == 401


@pytest.mark.parametrize("method", FLOW)
def test_a_plan_too_low(world: World, method: str) -> None:
    for plan in ("free", "basic", "growth"):
        with pytest.raises(flashalpha.TierRestrictedError) as error:
            call(world.plan(plan), method)
        assert (error.value.status_code, error.value.current_plan) == (403, plan.capitalize())
        assert error.value.required_plan == "Alpha"


def test_client_errors_name_the_parameter(world: World) -> None:
    client = world.plan("alpha")
    with pytest.raises(flashalpha.FlashAlphaError, match=r"expiry must be .*'soon'") as error:
        client.flow_option_cumulative("SPY", expiry="soon")
    assert (error.value.status_code, error.value.response["error"]) == (400, "invalid_expiry")
    with pytest.raises(flashalpha.FlashAlphaError, match="resolution") as error:
        client.flow_stock_bars("SPY", resolution="2m")
    assert (error.value.status_code, error.value.response["error"]) == (400, "invalid_resolution")
    with pytest.raises(flashalpha.NotFoundError):
        client.surface("SPY")


@pytest.mark.parametrize("method", FLOW)
def test_a_silent_feed(world: World, method: str) -> None:
    world.server.feed.silent = 31.0
    try:
        with pytest.raises(flashalpha.ServerError) as error:
            call(world.plan("alpha"), method)
        assert (error.value.status_code, error.value.response["error"]) == (502, "upstream_unavailable")
    finally:
        world.server.feed.silent = None


@pytest.mark.parametrize("before_midnight", [12 * 3600, 1])
def test_a_day_s_requests_used_up(tmp_path: Path, before_midnight: int) -> None:
    with a_world(tmp_path, Settings(limit_alpha=len(FLOW))) as made:
        midnight = 20_519 * 86_400 * SECOND
        made.server.clock.now = midnight - before_midnight * SECOND + SECOND // 2
        client = made.plan("alpha")
        for method in FLOW:
            call(client, method)
        for method in FLOW:
            with pytest.raises(flashalpha.RateLimitError) as error:
                call(client, method)
            assert error.value.status_code == 429
            assert error.value.retry_after == before_midnight
            assert error.value.response["upgrade_to"] == "Enterprise"
        assert client.health() == {"status": "Healthy"}
