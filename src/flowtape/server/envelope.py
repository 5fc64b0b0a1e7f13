"""The envelope: two fields at the end of every JSON body, with the setting `envelope`.

Their names and shapes are those of the FlashAlpha SDK 1.3.0. Without the setting, headers carry the same facts.
"""

from __future__ import annotations

import socket

import msgspec

from flowtape.queries import stamp

VERSION = "1"
"""The version of every endpoint."""
_NODE = socket.gethostname()


class DataAsOf(msgspec.Struct, kw_only=True):
    """The time of the newest data of each feed. `node` is the name of the machine, `flow_feed` the time of the
    newest print that the answer could see, null without one. The other feeds do not exist in flowtape and are null."""

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
    """The fields of the envelope, in order."""

    data_as_of: DataAsOf
    endpoint_version: str = VERSION


def enveloped(body: bytes, as_of: int | None) -> bytes:
    """Return a JSON object with the envelope at its end; `as_of` is in ns UTC."""
    flow_feed = None if as_of is None else stamp(as_of)
    more = msgspec.json.encode(Envelope(data_as_of=DataAsOf(flow_feed=flow_feed)))
    return body[:-1] + (b"," if body != b"{}" else b"") + more[1:]
