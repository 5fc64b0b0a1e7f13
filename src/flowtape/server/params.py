"""Parameters, each declared once for the parser and for the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

import msgspec

from flowtape.model.prints import SYMBOL_LENGTH, is_symbol
from flowtape.server.errors import invalid, shown


def _date_pattern(years: str, leap_years: str) -> str:
    """Return a pattern of the dates YYYY-MM-DD of some years, with the days of each month.

    Without look-ahead, which the regular expressions of Go do not have.
    """
    long, short = r"(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])", r"(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    february = r"02-(?:0[1-9]|1[0-9]|2[0-8])"
    return f"(?:(?:{years})-(?:{long}|{short}|{february})|(?:{leap_years})-02-29)"


_LEAP = "(?:0[48]|[2468][048]|[13579][26])"
DATE_PATTERN = _date_pattern("(?:19|2[0-2])[0-9]{2}", f"(?:19|2[0-2]){_LEAP}|2000")
"""The pattern of a date in the OpenAPI document: the years 1900 to 2299."""
_INSTANTS = _date_pattern(
    "197[1-9]|19[89][0-9]|2[01][0-9]{2}|22[0-5][0-9]",
    f"19(?:7[26]|8[048]|9[26])|2[01]{_LEAP}|22(?:0[48]|[24][048]|[135][26])|2000",
)
INSTANT_PATTERN = (
    f"^{_INSTANTS}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$"
)
"""The pattern of an instant in the OpenAPI document: RFC 3339, years 1971 to 2259, any time zone."""
KEY_PARAMETER = "apiKey"
MOST = 2**31 - 1
"""The largest whole number that clients in every language can hold."""

MOST_QUERY = 8192
"""Bytes of the longest query string."""
MOST_PAIRS = 64
"""The most arguments of a query string."""
_LONGEST_NAME = 3 * len(KEY_PARAMETER)
_LONGEST_KEY = 512

_WHOLE = re.compile(r"([+-]?)0*([0-9]+)", re.ASCII)
_INSTANT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt +]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?"
    r"(?:[Zz]|([+ -])([0-9]{2})(?::?([0-9]{2}))?)?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(2262, 1, 1, tzinfo=UTC)
"""64-bit nanoseconds end in April 2262."""
_MAX_DIGITS = 18


class Param(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter, and the field of `Query` that it sets (empty for none).

    `parse` raises `ValueError` with a description of valid values and, if only a part of the text is wrong, that
    part. The `parse` of a `filter` returns a `Chosen`, for a field of `Filter`.
    """

    name: str
    where: Literal["path", "query"] = "query"
    field: str = ""
    filter: bool = False
    parse: Callable[[str], Any]
    default: Any = None
    required: bool = False
    schema: dict[str, Any]
    help: str

    def read(self, text: str) -> Any:
        """Return the parameter's value; raises a 400 naming the parameter and the text."""
        try:
            return self.parse(text)
        except ValueError as error:
            expected, *part = error.args
            raise invalid(
                self.name, f"must be {expected}, not '{shown(part[0] if part else text)}'."
            ) from None


class Chosen(NamedTuple):
    """A filter's value, and the text of it in an answer."""

    value: Any
    text: str


class Given(NamedTuple):
    """A parameter of a request: its text and its value."""

    text: str
    value: Any


def whole(name: str, field: str, default: int, low: int, high: int, help: str) -> Param:
    """Return a parameter that is a whole number of any length, clamped to low..high."""

    def parse(text: str) -> int:
        found = _WHOLE.fullmatch(text)
        if not found:
            raise ValueError("a whole number")
        sign, digits = found.groups()
        if len(digits) > _MAX_DIGITS:
            return low if sign == "-" else high
        return min(max(int(sign + digits), low), high)

    bounds = f"At least {low}." if high == MOST else f"Clamped to {low}..{high}."
    return Param(
        name=name,
        field=field,
        parse=parse,
        default=default,
        schema={"type": "integer", "default": default},
        help=f"{help} {bounds}",
    )


def choice(words: Iterable[str], synonyms: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """Return a parser of one of some words, or of a synonym, in any case."""
    names = {word.lower(): word for word in words}
    expected = "one of " + ", ".join(names.values())
    names |= synonyms or {}

    def parse(text: str) -> str:
        if text.lower() not in names:
            raise ValueError(expected)
        return names[text.lower()]

    return parse


def word(name: str, field: str, words: tuple[str, ...], default: str, help: str) -> Param:
    """Return a parameter that is one of some words, in any case."""
    schema = {"type": "string", "enum": [*words], "default": default}
    return Param(name=name, field=field, parse=choice(words), default=default, schema=schema, help=help)


def parse_date(text: str) -> date:
    """Return a date written YYYY-MM-DD."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = date.min
    if day.isoformat() != text:
        raise ValueError("a date as YYYY-MM-DD", text)
    return day


def parse_instant(text: str) -> int:
    """Return an instant in ns since 1970 UTC."""
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


def parse_symbol(text: str) -> str:
    """Return a symbol in upper case."""
    # Checked first, since some letters outside ASCII have ASCII capitals.
    name = text.removeprefix("^").upper() if text.isascii() else ""
    if not is_symbol(name):
        raise ValueError(f"a symbol such as SPY, BRK.B or ES=F, at most {SYMBOL_LENGTH} characters")
    return name


def is_named(name: str, parameter: str) -> bool:
    """Return whether a name of a query is that of a parameter, in any case."""
    return name.lower() == parameter.lower()


def key_in(query: bytes) -> bytes:
    """Return the key in a query string; empty if there is none, more than one, or too many arguments.

    It runs before the key is known, so it decodes only names, and only of a bounded number of arguments.
    """
    given = []
    for part in query.split(b"&", MOST_PAIRS)[:MOST_PAIRS]:
        name, _, value = part.partition(b"=")
        if len(name) <= _LONGEST_NAME and is_named(unquote(name.decode("latin-1")), KEY_PARAMETER):
            given.append(unquote(value[:_LONGEST_KEY].decode("latin-1")).encode())
    return given[0] if len(given) == 1 else b""


def check_query(query: bytes) -> None:
    """Raise a 400 if a query string is longer than `MOST_QUERY` or has more than `MOST_PAIRS` arguments."""
    if len(query) > MOST_QUERY:
        raise invalid("query", f"is {len(query):,} bytes long; at most {MOST_QUERY:,} are taken.")
    pairs = query.count(b"&") + 1
    if pairs > MOST_PAIRS:
        raise invalid("query", f"has {pairs:,} arguments; at most {MOST_PAIRS} are taken.")


def query_pairs(query: bytes) -> list[tuple[str, str]]:
    """Return the first `MOST_PAIRS` arguments of a query string, percent-decoded.

    `+` stays a plus: no parameter has a space, and the offset of an instant is often sent unescaped.
    """
    pairs = []
    for part in query.decode("latin-1").split("&", MOST_PAIRS)[:MOST_PAIRS]:
        if part:
            name, _, value = part.partition("=")
            pairs.append((unquote(name), unquote(value)))
    return pairs


def read_all(
    params: tuple[Param, ...], path: Mapping[str, str], pairs: list[tuple[str, str]]
) -> dict[str, Given]:
    """Return the given parameters of a request by name; names that `params` does not have are ignored.

    A missing required parameter is read as an empty text. Raises a 400 for the first parameter that is given twice
    or cannot be used.
    """
    values = {}
    for param in params:
        texts = (
            [path[param.name]]
            if param.where == "path"
            else [value for name, value in pairs if is_named(name, param.name)]
        )
        if len(texts) > 1:
            both = ", ".join(f"'{shown(value)}'" for value in texts[:2])
            raise invalid(param.name, f"is given {len(texts)} times ({both}); give it once.")
        if texts or param.required:
            text = texts[0] if texts else ""
            values[param.name] = Given(text, param.read(text))
    return values
