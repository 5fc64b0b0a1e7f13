"""The envelope: the two fields that end every JSON body where the setting `envelope` asks for them.

Their names and shapes are those of the FlashAlpha SDK 1.3.0. Without the setting the same facts are in headers alone.
"""

from __future__ import annotations

import socket

import msgspec

from flowtape.queries import stamp

VERSION = "1"
"""The version of every endpoint."""
_NODE = socket.gethostname()


class DataAsOf(msgspec.Struct, kw_only=True):
    """When each feed last delivered to the server that answers. `node` is the machine's name, `flow_feed` the time of
    the newest print that the answer could see, null while there is none. flowtape has no other feeds: they are null."""

    node: str = _NODE
    equity_feed: str | None = None
    equity_options_feed: str | None = None
    index_feed: str | None = None
    index_options_feed: str | None = None
    futures_feed: str | None = None
    futures_options_feed: str | None = None
    flow_feed: str | None
    oi_feed: str | None = None
    macro_feed: str | None = None


class Envelope(msgspec.Struct, kw_only=True):
    """The fields, in their order."""

    data_as_of: DataAsOf
    endpoint_version: str = VERSION


def enveloped(body: bytes, as_of: int | None) -> bytes:
    """A JSON object with the envelope at its end; `as_of` in ns UTC."""
    flow_feed = None if as_of is None else stamp(as_of)
    more = msgspec.json.encode(Envelope(data_as_of=DataAsOf(flow_feed=flow_feed)))
    return body[:-1] + (b"," if body != b"{}" else b"") + more[1:]
