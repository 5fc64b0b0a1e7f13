"""The parameters of a request other than filters, and the `Query` that they form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from flowtape.errors import UsageError
from flowtape.model.prints import SYMBOL_PATTERN
from flowtape.model.query import Filter, Query
from flowtape.model.symbols import asked
from flowtape.orderflow.minute_bars import NS_PER_MINUTE
from flowtape.queries import RESOLUTIONS
from flowtape.server.errors import invalid, shown
from flowtape.server.formats import FORMATS, Format
from flowtape.server.params import (
    INSTANT_PATTERN,
    Given,
    Param,
    choice,
    parse_instant,
    parse_symbol,
    read_all,
    word,
)

_QUALITY = "quality"

_ANY_CASE = SYMBOL_PATTERN.replace("^[", r"^\^?[", 1).replace("A-Z", "A-Za-z")
SYMBOL = Param(
    name="symbol",
    where="path",
    field="symbol",
    parse=parse_symbol,
    schema={"type": "string", "pattern": _ANY_CASE, "examples": ["SPY"]},
    help=(
        "The symbol, in any case; an index with or without `^`. For options an OPRA root such as `SPXW` stands for its "
        "underlying. Where `BRK-B`, `BRK/B` or `BRKB` has no prints of its own, it stands for `BRK.B`."
    ),
)


def _instant(name: str, field: str, help: str) -> Param:
    return Param(
        name=name,
        field=field,
        parse=parse_instant,
        schema={"type": "string", "format": "date-time", "pattern": INSTANT_PATTERN},
        help=f"{help} ISO 8601, to the nanosecond; without a zone it is UTC.",
    )


AT = _instant(
    "at", "at", "Point in time: the answer as of this instant, from what was known by then. Now when absent."
)
FROM = _instant("from", "since", "Instead of `minutes`: the first minute, at any stored time.")
TO = _instant("to", "until", "With `from`: the end of the minutes (exclusive). Now when absent.")


def _cursor(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError("what `nextCursor` gave")
    return int(text)


CURSOR = Param(
    name="cursor",
    field="cursor",
    parse=_cursor,
    schema={"type": "string", "pattern": "^[0-9]{1,9}$"},
    help="With `from`: the `nextCursor` of the previous page.",
)
_MEASURES = {
    "option": ("volume", "premium", "directional", "directional_premium"),
    "stock": ("volume", "premium"),
}
_MEASURE_HELP = {
    "option": (
        "Net contracts, or net premium in USD (price x size x 100); `directional` counts puts with the opposite "
        "sign: bullish minus bearish."
    ),
    "stock": "Net shares, or net premium in USD (price x size).",
}


def measure(asset: Literal["option", "stock"], default: str | None, without: str = "") -> Param:
    """Return the parameter `measure` of a route. With `default` None the query has no measure by default; `without`
    describes that case in the help."""
    chosen = choice(_MEASURES[asset])
    schema: dict[str, Any] = {"type": "string", "enum": [*_MEASURES[asset]]}

    def parse(text: str) -> str | None:
        name = chosen(text)
        return None if name == default else name

    return Param(
        name="measure",
        field="measure",
        parse=parse,
        schema=schema if default is None else schema | {"default": default},
        help=f"{_MEASURE_HELP[asset]} {without}".strip(),
    )


def _split(text: str) -> bool:
    if text.lower() != "right":
        raise ValueError("right")
    return True


SPLIT = Param(
    name="split",
    field="split",
    parse=_split,
    default=False,
    schema={"type": "string", "enum": ["right"]},
    help="`right`: the parts of each point's net from calls and from puts, as `calls` and `puts`.",
)
ANCHOR = word(
    "anchor",
    "anchor",
    ("window", "session"),
    "window",
    "Where the running sum begins: at the first point, or at each session's open.",
)


def _include(text: str) -> bool:
    parts = [part.strip().lower() for part in text.split(",")]
    for part in parts:
        if part != _QUALITY:
            raise ValueError(f"a list of {_QUALITY}", part)
    return True


INCLUDE = Param(
    name="include",
    field="quality",
    parse=_include,
    default=False,
    schema={"type": "string", "enum": [_QUALITY]},
    help="Fields to add to each point: `quality`, its share of volume with a quote and with a side, and quote ages.",
)


def _resolution(text: str) -> str:
    if text not in RESOLUTIONS:
        raise ValueError(f"one of {', '.join(RESOLUTIONS)}")
    return text


RESOLUTION = Param(
    name="resolution",
    field="resolution",
    parse=_resolution,
    required=True,
    schema={"type": "string", "enum": [*RESOLUTIONS]},
    help="The length of a bar.",
)
FORMAT = Param(
    name="format",
    parse=choice(FORMATS),
    schema={"type": "string", "enum": [*FORMATS]},
    help="How the answer is written; goes before the header `Accept`. JSON when neither says.",
)


class Request(NamedTuple):
    """The meaning of a target: its query and its format. The headers choose the format if it is None."""

    query: Query
    format: Format | None


def read_request(
    asset: Literal["option", "stock"],
    params: tuple[Param, ...],
    path: Mapping[str, str],
    pairs: list[tuple[str, str]],
) -> Request:
    """Return the query of a route's parameters. Raises a 400 for the first that cannot be used."""
    given = read_all(params, path, pairs)
    _check_span(given)
    fields = {
        param.field: given[param.name].value if param.name in given else param.default
        for param in params
        if param.field and not param.filter
    }
    if "symbol" in fields:
        fields["symbol"] = _asked(fields["symbol"], asset)
    if "from" in given:
        fields["minutes"] = 0
    filters = [param for param in params if param.filter and param.name in given]
    query = Query(
        asset=asset,
        filter=Filter(**{param.field: given[param.name].value.value for param in filters}),
        echo=tuple((param.name, given[param.name].value.text) for param in filters),
        **fields,
    )
    return Request(query, given["format"].value if "format" in given else None)


def _asked(symbol: str, asset: Literal["option", "stock"]) -> str:
    try:
        return asked(symbol, asset)
    except UsageError as error:
        raise invalid("symbol", f"{str(error).partition(': ')[2]}.") from None


def _check_span(given: Mapping[str, Given]) -> None:
    """Raise a 400 if `from` is given with another parameter that names a span, without need of `from`, or not
    before `to`."""
    begin = given.get("from")
    if begin is None:
        for name in ("to", "cursor"):
            if name in given:
                raise invalid(name, f"needs from, where its span begins; it is '{shown(given[name].text)}'.")
        return
    for name in ("minutes", "at"):
        if name in given:
            value = shown(given[name].text)
            raise invalid(
                name, f"cannot be given together with from, which names a span too; it is '{value}'."
            )
    end, cursor = given.get("to"), given.get("cursor")
    if end is not None and begin.value >= end.value:
        raise invalid("from", f"must be before to, '{shown(end.text)}', not '{shown(begin.text)}'.")
    if cursor is not None:
        past = end is not None and cursor.value >= end.value // NS_PER_MINUTE
        if past or cursor.value < begin.value // NS_PER_MINUTE:
            raise invalid(
                "cursor", f"must be what nextCursor gave for this span, not '{shown(cursor.text)}'."
            )
