"""The OpenAPI document, generated from the route table and the structs of the bodies."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from flowtape.server.account import ACCOUNT, SYMBOLS, AccountBody, SymbolsBody
from flowtape.server.envelope import DataAsOf, Envelope
from flowtape.server.errors import ErrorBody, QuotaBody, TierBody, UnauthorizedBody, UnhealthyBody
from flowtape.server.formats import FORMATS, MEDIA
from flowtape.server.params import KEY_PARAMETER, Param
from flowtape.server.queries import CURSOR
from flowtape.server.routes import Route
from flowtape.server.streams import ANSWERS, LAST_EVENT_ID, STREAMS
from flowtape.settings import Settings
from flowtape.version import __version__


class HealthyBody(msgspec.Struct, frozen=True):
    """Answers can be given. `detail` names days that were classified under other settings; absent for none."""

    status: Literal["Healthy"]
    detail: str | msgspec.UnsetType = msgspec.UNSET


_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "X-RateLimit-Limit": ("Requests a day on this key's plan, or `unlimited`.", {"type": "string"}),
    "X-RateLimit-Remaining": ("Requests left today, or `unlimited`.", {"type": "string"}),
    "X-RateLimit-Reset": ("When the count restarts, in Unix seconds.", {"type": "integer"}),
    "X-Data-As-Of": (
        "The time of the newest print that this answer could see; absent without one.",
        {"type": "string", "format": "date-time"},
    ),
    "X-Data-Source": (
        "`simulated` if any print may be simulated; `replay` with its day and speed if a file is replayed.",
        {"type": "string", "examples": ["simulated", "replay; day=2016-06-01; speed=60"]},
    ),
    "X-Endpoint-Version": ("The version of this endpoint.", {"type": "string"}),
    "X-Next-Cursor": (
        "The `cursor` of the next page of a span; absent on the last page.",
        {"type": "string"},
    ),
    "Content-Disposition": (
        "The file name of a download; absent for JSON.",
        {"type": "string"},
    ),
    "ETag": ("The ETag of the answer, for `If-None-Match`.", {"type": "string"}),
    "Retry-After": (
        "Whole seconds to wait before the next request, at least 1.",
        {"type": "integer", "minimum": 1},
    ),
}
_RATE = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_DATA = ("ETag", "X-Data-As-Of", "X-Data-Source", "X-Endpoint-Version")
_ERRORS: tuple[tuple[int, str, type[msgspec.Struct], tuple[str, ...]], ...] = (
    (400, "A parameter cannot be used.", ErrorBody, _RATE),
    (401, "No key, or an unknown key.", UnauthorizedBody, ()),
    (403, "The key's plan is too low.", TierBody, _RATE),
    (404, "No route has this path.", ErrorBody, ()),
    (405, "Only GET, HEAD and OPTIONS are allowed.", ErrorBody, ()),
    (429, "The day's requests are used up.", QuotaBody, (*_RATE, "Retry-After")),
    (500, "An error of the server.", ErrorBody, ()),
    (
        502,
        "The store cannot be read, the live feed is silent, or the window is still loading.",
        ErrorBody,
        (*_RATE, "Retry-After"),
    ),
)


def document(routes: tuple[Route, ...], settings: Settings, url: str = "/") -> dict[str, Any]:
    """Return the document as JSON values: the routes and their streams. `url` is the server's address."""
    bodies: list[Any] = [*{route.body for route in routes}, *{row[2] for row in _ERRORS}]
    bodies += [
        AccountBody,
        HealthyBody,
        SymbolsBody,
        UnhealthyBody,
        *([Envelope] if settings.envelope else []),
    ]
    bodies.sort(key=lambda body: body.__name__)
    schemas, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    refs = dict(zip(bodies, schemas, strict=True))
    if settings.envelope:
        _add_envelope(components, [route.body for route in routes] + [AccountBody, SymbolsBody])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "flowtape",
            "version": __version__,
            "description": "Signed options flow from your own tape, minute by minute.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": url}],
        "paths": {
            **{route.path: {"get": _operation(route, refs, settings)} for route in routes},
            **{
                route.path: {"get": _stream(route, refs, settings)}
                for route in STREAMS
                if ANSWERS[route.path] in routes
            },
            ACCOUNT: {"get": _account(refs)},
            SYMBOLS: {"get": _symbols(refs)},
            "/health": {"get": _health(refs)},
        },
        "components": {
            "schemas": {name: _plain(schema) for name, schema in components.items()},
            "headers": {
                name: {"description": text, "schema": schema} for name, (text, schema) in _HEADERS.items()
            },
            "securitySchemes": {
                "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
                "query": {"type": "apiKey", "in": "query", "name": KEY_PARAMETER},
            },
        },
    }


def _add_envelope(components: dict[str, Any], bodies: list[type[msgspec.Struct]]) -> None:
    """Append the fields of the envelope to the schemas of answers."""
    envelope = components.pop(Envelope.__name__)
    components[DataAsOf.__name__]["required"] = list(components[DataAsOf.__name__]["properties"])
    for name in {body.__name__ for body in bodies}:
        schema = components[name]
        schema["properties"] = {**schema["properties"], **envelope["properties"]}
        schema["required"] = [*schema["required"], *envelope["properties"]]


def _plain(schema: Any) -> Any:
    """Return a schema in the form that code generators support.

    A choice of types becomes a `type`: text or null is `["string", "null"]`, integer or number is a number. Numbers
    get a `format`, since Go and Java use 32 bits without one.
    """
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _plain(value) for name, value in schema.items() if name != "anyOf"}
    choices = schema.get("anyOf", [])
    if not choices or any(set(one) != {"type"} for one in choices):
        more = {"anyOf": _plain(choices)} if choices else _wide(schema.get("type"))
        return made | more
    types = [one["type"] for one in choices if one["type"] != "integer" or {"type": "number"} not in choices]
    return made | ({"type": types[0], **_wide(types[0])} if len(types) == 1 else {"type": types})


def _wide(kind: object) -> dict[str, str]:
    formats = {"integer": "int64", "number": "double"}
    return {"format": formats[kind]} if isinstance(kind, str) and kind in formats else {}


_KEYED: list[dict[str, list[str]]] = [{"header": []}, {"query": []}]
_UNCHANGED = {
    "description": "The answer is unchanged since `If-None-Match`.",
    "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in (*_RATE, *_DATA)},
}


def _operation(route: Route, refs: dict[Any, Any], settings: Settings) -> dict[str, Any]:
    return {
        "operationId": "_".join(
            part.replace("-", "_") for part in route.path.split("/")[2:] if not part.startswith("{")
        ),
        "tags": [f"{route.asset}s"],
        "summary": route.summary,
        "description": f"{route.help} Needs the {settings.flow_plan} plan or higher.",
        "security": _KEYED,
        "parameters": [_parameter(param) for param in route.params],
        "responses": {"200": _found(route, refs), "304": _UNCHANGED, **_failures(refs)},
    }


def _found(route: Route, refs: dict[Any, Any]) -> dict[str, Any]:
    more = ("Content-Disposition", *(("X-Next-Cursor",) if CURSOR in route.params else ()))
    found = _response("The answer.", refs[route.body], (*_RATE, *_DATA, *more))
    found["content"] |= {MEDIA[name]: {} for name in FORMATS if name != "json"}
    found["content"][MEDIA["csv"]] = {"schema": {"type": "string"}}
    return found


def _stream(route: Route, refs: dict[Any, Any], settings: Settings) -> dict[str, Any]:
    made = _operation(route, refs, settings)
    place = "The `id` of the last received event; later events are sent."
    header = {"name": "Last-Event-ID", "in": "header", "description": place, "schema": {"type": "string"}}
    named = {"name": LAST_EVENT_ID, "in": "query", "description": place, "schema": {"type": "string"}}
    events = _response("The events, without end.", None, (*_RATE, "X-Data-Source", "X-Endpoint-Version"))
    events["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    full = _response("The server has its maximum of streams.", refs[ErrorBody], ("Retry-After",))
    responses = {"200": events, **_failures(refs), "503": full}
    return made | {"parameters": [*made["parameters"], header, named], "responses": responses}


def _failures(refs: dict[Any, Any], *without: int) -> dict[str, Any]:
    return {
        str(status): _response(text, refs[body], names)
        for status, text, body, names in _ERRORS
        if status not in without
    }


def _account(refs: dict[Any, Any]) -> dict[str, Any]:
    found = _response("The account of the key.", refs[AccountBody], (*_RATE, "ETag", "X-Endpoint-Version"))
    return {
        "operationId": "account",
        "tags": ["account"],
        "summary": "The key's plan and its use today",
        "description": "Any plan; costs no quota.",
        "security": _KEYED,
        "responses": {"200": found, "304": _UNCHANGED, **_failures(refs, 400, 403, 404, 429, 502)},
    }


def _symbols(refs: dict[Any, Any]) -> dict[str, Any]:
    found = _response("The symbols.", refs[SymbolsBody], (*_RATE, *_DATA))
    return {
        "operationId": "symbols",
        "tags": ["account"],
        "summary": "The symbols with stored prints",
        "description": "Any plan; costs one request.",
        "security": _KEYED,
        "responses": {"200": found, "304": _UNCHANGED, **_failures(refs, 400, 403, 404)},
    }


def _parameter(param: Param) -> dict[str, Any]:
    return {
        "name": param.name,
        "in": param.where,
        "required": param.where == "path" or param.required,
        "description": param.help,
        "schema": param.schema,
    }


def _response(text: str, schema: Any, headers: tuple[str, ...]) -> dict[str, Any]:
    return {
        "description": text,
        "headers": _refs(headers),
        "content": {"application/json": {"schema": schema}},
    }


def _refs(headers: tuple[str, ...]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}


def _health(refs: dict[Any, Any]) -> dict[str, Any]:
    return {
        "operationId": "health",
        "tags": ["server"],
        "summary": "Whether answers may be trusted",
        "security": [],
        "responses": {
            "200": _response("They may.", refs[HealthyBody], ()),
            "503": _response("They may not, and why.", refs[UnhealthyBody], ()),
        },
    }
