"""What all answers share: how a body begins, how its rows are made of columns, and how it goes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from flowtape.model.query import Query

T = TypeVar("T", bound=msgspec.Struct)
Text = str | UnsetType

JSON = "application/json"
encode_json: Callable[[msgspec.Struct], bytes] = msgspec.json.Encoder().encode
"""A body in JSON."""


class Answer(msgspec.Struct, frozen=True):
    """A body as bytes and what it rests on: a strong ETag, the newest print it could see (ns UTC), and
    whether any of it was simulated; `media` is the bytes' media type."""

    body: bytes
    etag: str
    as_of: int | None
    simulated: bool
    media: str = JSON


class Made(NamedTuple):
    """A body and the newest counted print it could see, ns UTC."""

    body: msgspec.Struct
    as_of: int | None


class Head(msgspec.Struct, rename="camel", kw_only=True):
    """How the body of one symbol begins: filters are there when asked for, as they were asked."""

    symbol: str
    expiry: Text = UNSET
    right: Text = UNSET
    dte: Text = UNSET
    strike: Text = UNSET
    exclude: Text = UNSET
    side: Text = UNSET


class Rows(list[T]):
    """Rows of a declared kind that hold some of its fields; `columns` are the same values by field."""

    def __init__(self, kind: type[T], columns: Mapping[str, Sequence[Any]]) -> None:
        names = tuple(name for name in kind.__struct_fields__ if name in columns)
        self.kind = kind
        self.columns = {name: columns[name] for name in names}
        super().__init__(map(_part(kind, names), *self.columns.values()))


@cache
def _part(kind: type[T], names: tuple[str, ...]) -> Callable[..., T]:
    """A struct like `kind` with some of its fields, all by position: made and written several times faster than
    one of many fields that are mostly unset."""
    rename = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    made: Any = msgspec.defstruct(kind.__name__, [(name, Any) for name in names], rename=rename, gc=False)
    return made  # type: ignore[no-any-return]


def echo(query: Query) -> dict[str, Any]:
    """The fields of `Head` of a query."""
    return {"symbol": query.symbol, **dict(query.echo)}


def encode(
    made: Made, simulated: bool, media: str = JSON, write: Callable[[msgspec.Struct], bytes] = encode_json
) -> Answer:
    """A body on its way out, in JSON or as `write` puts it."""
    data = write(made.body)
    return Answer(
        data, f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"', made.as_of, simulated, media
    )
