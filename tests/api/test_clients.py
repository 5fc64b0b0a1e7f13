"""The official client works against the server with nothing changed but the base URL."""

from collections.abc import Callable, Iterator

import flashalpha
import pytest

from flowtape.errors import StoreError
from flowtape.settings import Settings

from .conftest import World

Connect = Callable[[str], flashalpha.FlashAlpha]


@pytest.fixture
def connect(world: World) -> Iterator[Connect]:
    made = []

    def make(key: str, base: str = world.url) -> flashalpha.FlashAlpha:
        made.append(flashalpha.FlashAlpha(key, base_url=base))
        return made[-1]

    yield make
    for client in made:
        client._session.close()


def test_an_answer(world: World, connect: Connect) -> None:
    found = connect(world.raw["alpha"]).flow_option_cumulative("^vix", minutes=2, expiry="2026-05-15")
    assert list(found) == ["symbol", "expiry", "minutes", "count", "points"]
    assert found["symbol"] == "VIX"
    assert len(found["points"]) == 2
    assert world.flow.asked[-1][2] == 2


def test_its_own_errors(world: World, connect: Connect) -> None:
    with pytest.raises(flashalpha.AuthenticationError, match=r"Invalid API key\.") as unknown:
        connect("wrong").flow_option_cumulative("VIX")
    assert unknown.value.status_code == 401
    with pytest.raises(flashalpha.TierRestrictedError) as low:
        connect(world.raw["growth"]).flow_option_cumulative("VIX")
    assert (low.value.current_plan, low.value.required_plan) == ("Growth", "Alpha")
    with pytest.raises(flashalpha.FlashAlphaError, match="expiry must be a date") as bad:
        connect(world.raw["alpha"]).flow_option_cumulative("VIX", expiry="soon")
    assert bad.value.status_code == 400
    with pytest.raises(flashalpha.NotFoundError):
        connect(world.raw["alpha"]).surface("VIX")
    world.flow.trouble = StoreError("broken")
    with pytest.raises(flashalpha.ServerError) as down:
        connect(world.raw["alpha"]).flow_option_cumulative("VIX")
    assert down.value.status_code == 502


def test_its_rate_limit_error_and_health(worlds: Callable[[Settings], World], connect: Connect) -> None:
    world = worlds(Settings(limit_alpha=1))
    client = flashalpha.FlashAlpha(world.raw["alpha"], base_url=world.url)
    try:
        client.flow_option_cumulative("VIX")
        with pytest.raises(flashalpha.RateLimitError) as over:
            client.flow_option_cumulative("VIX")
        assert over.value.retry_after == 12 * 3600
        assert client.health() == {"status": "Healthy"}
    finally:
        client._session.close()
