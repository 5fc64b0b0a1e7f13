"""What all answers share: the head of a body, rows from columns, and the encoding."""

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
"""Encode a body as JSON."""


class Answer(msgspec.Struct, frozen=True):
    """An encoded body. `etag` is strong, `media` is the media type, `as_of` the newest print that the answer could see
    (ns UTC), `simulated` whether any of its prints is simulated."""

    body: bytes
    etag: str
    as_of: int | None
    simulated: bool
    media: str = JSON


class Made(NamedTuple):
    """A body and the newest counted print that it could see (ns UTC)."""

    body: msgspec.Struct
    as_of: int | None


class Head(msgspec.Struct, rename="camel", kw_only=True):
    """The first fields of a body about one symbol. A filter is present when it was asked for, with the text of the
    request."""

    symbol: str
    expiry: Text = UNSET
    right: Text = UNSET
    dte: Text = UNSET
    strike: Text = UNSET
    exclude: Text = UNSET
    side: Text = UNSET


class Rows(list[T]):
    """Rows of the struct `T` with some of its fields; `columns` holds the same values by field."""

    def __init__(self, kind: type[T], columns: Mapping[str, Sequence[Any]]) -> None:
        names = tuple(name for name in kind.__struct_fields__ if name in columns)
        self.kind = kind
        self.columns = {name: columns[name] for name in names}
        super().__init__(map(_part(kind, names), *self.columns.values()))


@cache
def _part(kind: type[T], names: tuple[str, ...]) -> Callable[..., T]:
    """Return a struct like `kind` with only the fields `names`, by position.

    Such structs are created and encoded several times faster than structs with many unset fields.
    """
    rename = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    made: Any = msgspec.defstruct(kind.__name__, [(name, Any) for name in names], rename=rename, gc=False)
    return made  # type: ignore[no-any-return]


def echo(query: Query) -> dict[str, Any]:
    """Return the fields of `Head` for a query."""
    return {"symbol": query.symbol, **dict(query.echo)}


def encode(
    made: Made, simulated: bool, media: str = JSON, write: Callable[[msgspec.Struct], bytes] = encode_json
) -> Answer:
    """Return a body encoded as JSON, or with `write`."""
    data = write(made.body)
    return Answer(
        data, f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"', made.as_of, simulated, media
    )
