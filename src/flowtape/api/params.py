"""Parameters: what each one takes, declared once for the parser and for the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, Literal
from urllib.parse import unquote

import msgspec

from flowtape.api.errors import invalid, shown
from flowtape.prints import underlying_of

KEY_PARAMETER = "apiKey"

_WHOLE = re.compile(r"([+-]?)0*([0-9]+)", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_INSTANT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt +]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?"
    r"(?:[Zz]|([+ -])([0-9]{2})(?::?([0-9]{2}))?)?"
)
_SYMBOL = re.compile(r"\^?([A-Za-z0-9./-]{1,16})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(2262, 1, 1, tzinfo=UTC)
"""Nanoseconds in 64 bits end in April 2262."""
_MAX_DIGITS = 18


class Param(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter. `parse` raises ValueError with what the value must be."""

    name: str
    where: Literal["path", "query"] = "query"
    parse: Callable[[str], Any]
    default: Any = None
    schema: dict[str, Any]
    help: str

    def read(self, text: str) -> Any:
        """The parameter's value; raises a 400 naming the parameter and the text."""
        try:
            return self.parse(text)
        except ValueError as error:
            raise invalid(self.name, f"must be {error}, not '{shown(text)}'.") from None


def whole(name: str, default: int, low: int, high: int, help: str) -> Param:
    """A whole number, clamped to low..high however long it is written."""

    def parse(text: str) -> int:
        found = _WHOLE.fullmatch(text)
        if not found:
            raise ValueError("a whole number")
        sign, digits = found.groups()
        if len(digits) > _MAX_DIGITS:
            return low if sign == "-" else high
        return min(max(int(sign + digits), low), high)

    schema = {"type": "integer", "default": default}
    return Param(
        name=name, parse=parse, default=default, schema=schema, help=f"{help} Clamped to {low}..{high}."
    )


def _expiry(text: str) -> date:
    if _DATE.fullmatch(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass
    raise ValueError("a date as YYYY-MM-DD")


def _instant(text: str) -> int:
    """Nanoseconds since 1970, UTC."""
    found = _INSTANT.fullmatch(text)
    if not found:
        raise ValueError("an instant as 2016-06-01T20:15:00Z")
    day, hour, minute, second, fraction, sign, zone_hours, zone_minutes = found.groups()
    try:
        offset = timedelta(hours=int(zone_hours or 0), minutes=_below_60(zone_minutes))
        zone = timezone(-offset if sign == "-" else offset)
        whole_day = date.fromisoformat(day)
        instant = datetime(
            whole_day.year,
            whole_day.month,
            whole_day.day,
            int(hour),
            int(minute),
            int(second or 0),
            tzinfo=zone,
        )
        inside = _EPOCH <= instant < _LAST
    except (ValueError, OverflowError):
        raise ValueError("an instant as 2016-06-01T20:15:00Z") from None
    if not inside:
        raise ValueError("an instant from 1970 to 2261")
    since = instant - _EPOCH
    return (since.days * 86_400 + since.seconds) * 10**9 + int((fraction or "").ljust(9, "0"))


def _below_60(minutes: str | None) -> int:
    number = int(minutes or 0)
    if number > 59:
        raise ValueError
    return number


def _symbol(text: str) -> str:
    # Matched before it is upper-cased: some letters outside ASCII have ASCII capitals.
    found = _SYMBOL.fullmatch(text)
    if not found:
        raise ValueError("1 to 16 of the characters A-Z, 0-9, '.', '/' and '-'")
    return underlying_of(found[1])


SYMBOL = Param(
    name="symbol",
    where="path",
    parse=_symbol,
    schema={"type": "string", "example": "SPY"},
    help=(
        "The underlying, in any case; an index with or without `^`. "
        "An OPRA root such as `SPXW` stands for its underlying."
    ),
)
EXPIRY = Param(
    name="expiry",
    parse=_expiry,
    schema={"type": "string", "format": "date"},
    help="One expiration, `YYYY-MM-DD`; all of them when absent.",
)
AT = Param(
    name="at",
    parse=_instant,
    schema={"type": "string", "format": "date-time"},
    help=(
        "The answer as it stood at this instant: only whole minutes that end by it. "
        "ISO 8601, to the nanosecond; without a zone it is UTC. Now when absent."
    ),
)


def query_pairs(query: bytes) -> list[tuple[str, str]]:
    """The arguments of a query string, percent-decoded.

    `+` stays a plus: no parameter takes a space, and the offset of an instant is often sent unescaped.
    """
    pairs = []
    for part in query.decode("latin-1").split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append((unquote(name), unquote(value)))
    return pairs


def read_all(
    params: tuple[Param, ...], path: Mapping[str, str], pairs: list[tuple[str, str]]
) -> tuple[Any, ...]:
    """The values of a route's parameters, in their order; names it does not have are ignored.

    Raises a 400 for the first parameter that is given twice or cannot be used.
    """
    values = []
    for param in params:
        given = (
            [path[param.name]]
            if param.where == "path"
            else [value for name, value in pairs if name == param.name]
        )
        if len(given) > 1:
            both = ", ".join(f"'{shown(value)}'" for value in given[:2])
            raise invalid(param.name, f"is given {len(given)} times ({both}); give it once.")
        values.append(param.read(given[0]) if given else param.default)
    return tuple(values)
