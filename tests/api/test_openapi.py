"""The OpenAPI document compared with itself, the server, and the reference pages."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowtape.server.errors import Refusal
from flowtape.server.formats import MEDIA
from flowtape.server.routes import ROUTES
from flowtape.server.streams import STREAMS
from flowtape.settings import Settings

from .conftest import PATH, World

ROOT = Path(__file__).resolve().parents[2]
CUMULATIVE = "/v1/flow/options/{symbol}/cumulative"


@pytest.fixture
def document(world: World) -> dict[str, Any]:
    found = httpx.get(world.url + "/openapi.json")
    assert found.headers["Content-Type"] == "application/json"
    return found.json()  # type: ignore[no-any-return]


def refs(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            else:
                yield from refs(value)
    elif isinstance(node, list):
        for value in node:
            yield from refs(value)


def resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def conforms(document: dict[str, Any], schema: dict[str, Any], value: object) -> bool:
    """Return whether a value conforms to a schema, by the part of JSON Schema that the document uses."""
    schema = resolve(document, schema)
    if "anyOf" in schema:
        return any(conforms(document, one, value) for one in schema["anyOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    if schema.get("type") == "array":
        return isinstance(value, list) and all(conforms(document, schema["items"], one) for one in value)
    if schema.get("type") == "object":
        return (
            isinstance(value, dict)
            and set(schema["required"]) <= set(value) <= set(schema["properties"])
            and all(conforms(document, schema["properties"][name], one) for name, one in value.items())
        )
    types = {"string": str, "integer": int, "number": (int, float), "null": type(None), "boolean": bool}
    named = schema.get("type", [])
    named = named if isinstance(named, list) else [named]
    return not named or any(isinstance(value, types[name]) for name in named)


def test_every_reference_of_the_document_resolves(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        *(route.path for route in (*ROUTES, *STREAMS)), "/health", "/v1/account", "/v1/symbols",
    }  # fmt: skip
    for ref in refs(document):
        assert resolve(document, {"$ref": ref})
    operations = [path["get"] for path in document["paths"].values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    for path, item in document["paths"].items():
        named = {
            one["name"]
            for one in item["get"].get("parameters", [])
            if one["in"] == "path" and one["required"]
        }
        assert named == set(re.findall(r"{(\w+)}", path))


def test_a_field_of_one_kind_has_one_type(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["AccountBody"]["properties"]["email"] == {"type": ["string", "null"]}
    assert "email" in schemas["AccountBody"]["required"]
    assert schemas["CumulativePoint"]["properties"]["cumulative"] == {"type": "number", "format": "double"}
    assert schemas["Trade"]["properties"]["instrumentId"] == {"type": "integer", "format": "int64"}
    assert "anyOf" not in str(document)


@pytest.mark.parametrize("host", ["127.0.0.1:8787", "flow", "localhost:1", "[::1]:8787"])
def test_the_document_has_the_requested_address(world: World, host: str) -> None:
    found = httpx.get(world.url + "/openapi.json", headers={"Host": host})
    assert found.json()["servers"] == [{"url": f"http://{host}"}]


@pytest.mark.parametrize("host", ["a b", "x/y", "x?", '"', "x" * 300, "user@x", ""])
def test_an_invalid_host_is_not_repeated(world: World, host: str) -> None:
    found = httpx.get(world.url + "/openapi.json", headers={"Host": host})
    if found.status_code == 200:
        assert found.json()["servers"] == [{"url": "http://127.0.0.1:8787"}]


def test_the_document_has_the_configured_address(worlds: Callable[[Settings], World]) -> None:
    world = worlds(Settings(public_url="https://flow.example.com/tape/"))
    assert httpx.get(world.url + "/openapi.json").json()["servers"] == [
        {"url": "https://flow.example.com/tape"}
    ]


def test_streams_are_in_the_document(document: dict[str, Any]) -> None:
    found = document["paths"][CUMULATIVE + "/stream"]["get"]
    assert list(found["responses"]["200"]["content"]) == ["text/event-stream"]
    assert [(one["name"], one["in"]) for one in found["parameters"][-2:]] == [
        ("Last-Event-ID", "header"), ("lastEventId", "query"),
    ]  # fmt: skip
    assert not {"at", "from", "format"} & {one["name"] for one in found["parameters"]}
    assert set(found["responses"]) == {"200", "400", "401", "403", "404", "405", "429", "500", "502", "503"}


def texts_of(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "integer":
        return st.integers().map(str)
    return st.from_regex(schema["pattern"].removeprefix("^").removesuffix("$"), fullmatch=True)


PARAMS = {param.name: param for route in ROUTES for param in route.params}


@pytest.mark.parametrize("name", sorted(PARAMS))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_values_valid_by_the_document_are_accepted(name: str, data: st.DataObject) -> None:
    """Except ranges that begin after they end, which no schema can express."""
    text = data.draw(texts_of(PARAMS[name].schema))
    said = ""
    try:
        PARAMS[name].read(text)
    except Refusal as refusal:
        said = refusal.body.message
    assert not said or (name in ("dte", "expiry", "strike") and "begins before it ends" in said)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("expiry", day) for day in ("9999-12-31", "0001-01-01", "2026-02-29", "2026-13-01", "2026-04-31")),
        *(("at", f"{day}T00:00:00Z") for day in ("2262-04-12", "1969-12-31", "2026-02-29", "2026-00-10", "2100-02-29")),
        ("at", "2026-05-12T24:00:00Z"), ("at", "2026-05-12T23:59:60Z"), ("at", "2026-05-12"),
    ],
)  # fmt: skip
def test_dates_outside_the_calendar_violate_the_document(name: str, text: str) -> None:
    assert re.search(PARAMS[name].schema["pattern"], text) is None


def test_every_status_is_declared_with_its_headers(document: dict[str, Any]) -> None:
    found = document["paths"][CUMULATIVE]["get"]
    assert set(found["responses"]) == {
        "200",
        "304",
        "400",
        "401",
        "403",
        "404",
        "405",
        "429",
        "500",
        "502",
    }
    assert [one["name"] for one in found["parameters"]] == [
        "symbol", "minutes", "expiry", "right", "dte", "strike", "exclude", "side", "at", "from", "to", "cursor",
        "measure", "split", "anchor", "include", "format",
    ]  # fmt: skip
    assert set(found["responses"]["200"]["content"]) == set(MEDIA.values())
    bars = document["paths"]["/v1/flow/stocks/{symbol}/bars"]["get"]["parameters"]
    assert [one["name"] for one in bars if one["required"]] == ["symbol", "resolution"]
    assert set(document["paths"]["/v1/account"]["get"]["responses"]) == {"200", "304", "401", "405", "500"}
    assert "Retry-After" in found["responses"]["429"]["headers"]
    assert set(document["paths"]["/health"]["get"]["responses"]) == {"200", "503"}


@pytest.mark.parametrize(
    ("target", "key", "status"),
    [
        (PATH, "alpha", 200),
        (PATH + "?expiry=2026-05-15", "alpha", 200),
        (PATH + "?minutes=x", "alpha", 400),
        (PATH, "", 401),
        (PATH, "free", 403),
        ("/nothing", "", 404),
        ("/health", "", 200),
        ("/v1/account", "free", 200),
        ("/v1/account", "", 401),
        ("/v1/symbols", "alpha", 200),
    ],
)
def test_bodies_conform_to_the_declared_schemas(
    world: World, document: dict[str, Any], target: str, key: str, status: int
) -> None:
    found = httpx.get(world.url + target, headers={"X-Api-Key": world.raw[key]} if key else {})
    assert found.status_code == status
    path = target if target in document["paths"] else CUMULATIVE
    declared = document["paths"][path]["get"]["responses"][str(status)]
    assert conforms(document, declared["content"]["application/json"]["schema"], found.json())
    optional = {"X-Data-Source", "X-Next-Cursor", "Content-Disposition"}
    assert set(declared["headers"]) - optional <= {name.title() for name in found.headers} | {
        name for name in declared["headers"] if name.lower() in found.headers
    }


def test_reference_pages_have_every_route_parameter_and_status(document: dict[str, Any]) -> None:
    pages = ROOT / "docs/reference"
    page = "".join((pages / f"{name}.md").read_text(encoding="utf-8") for name in ("api", "streams"))
    for path, item in document["paths"].items():
        assert f"`GET {path}`" in page
        for parameter in item["get"].get("parameters", []):
            assert f"| `{parameter['name']}` |" in page
    for status in document["paths"][CUMULATIVE]["get"]["responses"]:
        assert f"| {status} |" in page
    for header in document["components"]["headers"]:
        assert f"`{header}`" in page


def test_swagger_ui_is_served(world: World) -> None:
    page = httpx.get(world.url + "/docs")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "default-src 'none'" in policy
    assert "<script>" not in page.text
    used = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(used) == 3
    for path in used:
        found = httpx.get(world.url + path)
        assert found.status_code == 200
        assert found.headers["Content-Type"].split(";")[0] in ("text/css", "text/javascript")
        assert "max-age" in found.headers["Cache-Control"]
        plain = httpx.get(world.url + path, headers={"Accept-Encoding": "identity"})
        assert plain.content == found.content
        assert "Content-Encoding" in found.headers
    assert "/openapi.json" in httpx.get(world.url + "/docs/start.js").text
    assert httpx.get(world.url + "/docs/swagger-ui-bundle.js.map").status_code == 404
    assert httpx.get(world.url + "/docs/..%2f..%2fx").status_code == 404


def test_the_plan_is_the_one_of_the_settings() -> None:
    from flowtape.server.openapi import document

    found = document(ROUTES, Settings(flow_plan="Growth"))
    assert "Needs the Growth plan" in found["paths"][CUMULATIVE]["get"]["description"]
