"""The filters of a request: the words of each one, their meaning, and the text that an answer repeats."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Any, Generic, NamedTuple, TypeVar

from flowtape.model.conditions import FAMILIES_OF
from flowtape.model.prints import PRICE_SCALE
from flowtape.model.query import DateRange
from flowtape.server.params import DATE_PATTERN, MOST, Chosen, Param, choice, parse_date

MOST_PARTS = 100
"""The most parts of a list."""

_DIGITS = re.compile(r"[0-9]{1,5}", re.ASCII)
_PRICE = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,4}))?", re.ASCII)
Value = TypeVar("Value", int, date)


class _Range(NamedTuple, Generic[Value]):
    """The first and last value (both included), and the text of the range."""

    ends: tuple[Value, Value]
    text: str


def _range(
    text: str, parse: Callable[[str], Value], shown: Callable[[Value], str], open_ends: tuple[Value, Value]
) -> _Range[Value]:
    """Return the range of `a`, `a..b`, `..b` or `a..`; an open end is one of `open_ends`."""
    first, dots, last = (part.strip() for part in text.partition(".."))
    if not dots:
        value = parse(first)
        return _Range((value, value), shown(value))
    if not first and not last:
        raise ValueError("a value, or a range with a first or last one", text)
    low = parse(first) if first else open_ends[0]
    high = parse(last) if last else open_ends[1]
    if low > high:
        raise ValueError("a range that begins before it ends", text)
    return _Range((low, high), f"{shown(low) if first else ''}..{shown(high) if last else ''}")


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > MOST_PARTS:
        raise ValueError(f"a list of at most {MOST_PARTS} parts")
    return parts


def _expiries(text: str) -> Chosen:
    found = [_range(part, parse_date, date.isoformat, (date.min, date.max)) for part in _parts(text)]
    ranges: list[DateRange] = []
    for low, high in sorted(one.ends for one in found):
        if ranges and low <= ranges[-1][1]:
            ranges[-1] = ranges[-1][0], max(high, ranges[-1][1])
        else:
            ranges.append((low, high))
    return Chosen(tuple(ranges), ",".join(one.text for one in found))


def _between(parse: Callable[[str], int], shown: Callable[[int], str]) -> Callable[[str], Chosen]:
    """Return a parser of a whole number ≥ 0 or a range of them."""

    def parsed(text: str) -> Chosen:
        return Chosen(*_range(text, parse, shown, (0, MOST)))

    return parsed


def _days(text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise ValueError("a number of days such as 0, or a range such as 0..7")
    return int(text)


def _price(text: str) -> int:
    """Return a strike in 1/10,000 USD, at most the largest that can be stored."""
    found = _PRICE.fullmatch(text)
    if not found:
        raise ValueError("a price to 4 decimals such as 590, or a range such as 590..610")
    return min(int(found[1]) * PRICE_SCALE + int((found[2] or "").ljust(4, "0")), MOST)


def _shown_price(price: int) -> str:
    dollars, rest = divmod(price, PRICE_SCALE)
    return f"{dollars}.{rest:04d}".rstrip("0") if rest else str(dollars)


def _families(known: tuple[str, ...]) -> Callable[[str], Chosen]:
    """Return a parser of a list of families of sale conditions."""

    def parsed(text: str) -> Chosen:
        names = []
        for part in _parts(text):
            name = re.sub(r"[ _-]|hours$|^priced", "", part.lower())
            if name not in known:
                raise ValueError(f"a list of {', '.join(known)}", part)
            names.append(name)
        return Chosen(tuple(sorted(set(names))), ",".join(names))

    return parsed


def _same(parse: Callable[[str], str]) -> Callable[[str], Chosen]:
    def parsed(text: str) -> Chosen:
        value = parse(text)
        return Chosen(value, value)

    return parsed


def _filter(
    name: str, parse: Callable[[str], Chosen], schema: dict[str, Any], help: str, field: str = ""
) -> Param:
    return Param(
        name=name,
        field=field or name,
        filter=True,
        parse=parse,
        schema={"type": "string", **schema},
        help=f"{help} All when absent.",
    )


_DAYS = rf"(?:{DATE_PATTERN}(?:\.\.{DATE_PATTERN}?)?|\.\.{DATE_PATTERN})"
EXPIRY = _filter(
    "expiry",
    _expiries,
    {
        "pattern": rf"^{_DAYS}(?:,{_DAYS}){{0,{MOST_PARTS - 1}}}$",
        "examples": ["2026-05-15", "2026-05-15,2026-06-19", "2026-05-01..2026-06-30", "2026-05-15.."],
    },
    "Expirations: a date `YYYY-MM-DD`, a range `first..last` (inclusive; either may be omitted), or a list "
    f"of up to {MOST_PARTS} of them, separated by commas.",
    field="expiries",
)
RIGHT = _filter(
    "right",
    _same(choice(("C", "P"), {"call": "C", "put": "P"})),
    {"enum": ["C", "P", "call", "put"]},
    "Calls or puts only, in any case.",
)
DTE = _filter(
    "dte",
    _between(_days, str),
    {
        "pattern": r"^(?:[0-9]{1,5}|[0-9]{1,5}\.\.(?:[0-9]{1,5})?|\.\.[0-9]{1,5})$",
        "examples": ["0", "0..7", "30.."],
    },
    "Days from the print's trading day to its expiry: a number, or a range `first..last`.",
)
_STRIKES = r"[0-9]{1,9}(?:\.[0-9]{1,4})?"
STRIKE = _filter(
    "strike",
    _between(_price, _shown_price),
    {
        "pattern": rf"^(?:{_STRIKES}|{_STRIKES}\.\.(?:{_STRIKES})?|\.\.{_STRIKES})$",
        "examples": ["600", "590..610", "..42.5"],
    },
    "Strikes in USD: a price to 4 decimals, or a range `first..last`.",
)


def _exclude(known: tuple[str, ...], *examples: str) -> Param:
    names = "|".join(known)
    return _filter(
        "exclude",
        _families(known),
        {"pattern": rf"^(?:{names})(?:,(?:{names})){{0,{MOST_PARTS - 1}}}$", "examples": list(examples)},
        f"Families of sale conditions to exclude, separated by commas: {', '.join(known)}.",
    )


EXCLUDE = _exclude(FAMILIES_OF["option"], "multileg", "multileg,auction")
EXCLUDE_STOCKS = _exclude(FAMILIES_OF["stock"], "auction", "auction,elsewhere")
SIDE = _filter("side", _same(choice(("buy", "sell"))), {"enum": ["buy", "sell"]}, "Prints of one side only.")
