"""The setting `envelope`: the fields that the official client's newest version expects in every body."""

from typing import get_type_hints

import flashalpha.types
import httpx
import pytest

from flowtape.server.routes import ROUTES
from flowtape.settings import Settings
from oracle import MINUTE
from serving import kept, serving
from tapes import T0

from .test_openapi import conforms
from .test_sdk import tape

FEEDS = list(get_type_hints(flashalpha.types.DataAsOf))
NEWEST = "2026-03-06T21:17:50.000Z"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with kept(tmp_path_factory.mktemp("envelope"), T0 + 20 * MINUTE, Settings(envelope=True)) as made:
        made.take(tape())
        with serving(made.app) as url:
            made.url = url
            yield made


def ask(server, path, **options):
    return httpx.get(server.url + path, headers={"X-Api-Key": server.keys["alpha"]}, timeout=20, **options)


def paths():
    for route in ROUTES:
        yield (
            route.path,
            route.path.replace("{symbol}", "SPY") + ("?resolution=1m" if "bars" in route.path else ""),
        )
    yield from (("/v1/account", "/v1/account"), ("/v1/symbols", "/v1/symbols"))


@pytest.mark.parametrize(("declared", "path"), list(paths()))
def test_every_answer_ends_with_the_envelope(server, declared, path):
    found = ask(server, path)
    body = found.json()
    assert list(body)[-2:] == ["data_as_of", "endpoint_version"]
    stamps = body["data_as_of"]
    assert list(stamps) == FEEDS
    assert stamps["node"]
    assert body["endpoint_version"] == found.headers["X-Endpoint-Version"]
    assert stamps["flow_feed"] == (None if path == "/v1/account" else NEWEST)
    assert not any(stamps[name] for name in FEEDS if name not in ("node", "flow_feed"))
    document = httpx.get(server.url + "/openapi.json").json()
    schema = document["paths"][declared]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert conforms(document, schema, body)


def test_an_answer_without_prints_has_an_envelope_too(server):
    found = ask(server, "/v1/flow/options/NONE/cumulative").json()
    assert (found["count"], found["data_as_of"]["flow_feed"], found["endpoint_version"]) == (0, None, "1")


def test_the_etag_covers_the_envelope(server):
    found = ask(server, "/v1/flow/options/SPY/cumulative")
    tag = found.headers["ETag"]
    again = httpx.get(
        server.url + "/v1/flow/options/SPY/cumulative",
        headers={"X-Api-Key": server.keys["alpha"], "If-None-Match": tag},
    )
    assert again.status_code == 304


def test_errors_and_other_formats_have_no_envelope(server):
    assert "data_as_of" not in ask(server, "/v1/flow/options/SPY/cumulative?format=csv").text
    assert list(ask(server, "/v1/flow/options/SPY/cumulative?minutes=x").json()) == ["error", "message"]
    assert ask(server, "/health").json() == {"status": "Healthy"}
    with httpx.stream(
        "GET",
        f"{server.url}/v1/flow/options/SPY/cumulative/stream",
        headers={"X-Api-Key": server.keys["alpha"]},
    ) as stream:
        data = next(line for line in stream.iter_lines() if line.startswith("data:"))
    assert "data_as_of" not in data


def test_the_envelope_is_off_by_default(tmp_path):
    with kept(tmp_path, T0 + 20 * MINUTE) as server:
        server.take(tape())
        for _, path in paths():
            bare, _, query = path.partition("?")
            (found,) = server.ask((bare, {"resolution": "1m"} if query else {}))
            assert not {"data_as_of", "endpoint_version"} & set(found.json())
