"""An encoded response: the headers and the (compressed) body of one answer, encoded once and cached."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable
from functools import lru_cache

from flowtape.queries import Answer, Made, encode, encode_json, instant
from flowtape.server.envelope import VERSION, enveloped
from flowtape.server.errors import Headers
from flowtape.server.formats import MEDIA, Format, writer
from flowtape.server.protocol import Reply, lines

COMMON: Headers = [
    (b"access-control-allow-origin", b"*"),
    (b"x-content-type-options", b"nosniff"),
]
JSON = (b"content-type", b"application/json")
EXPOSED = (
    b"ETag, Content-Disposition, Retry-After, X-Data-As-Of, X-Data-Source, X-Endpoint-Version, X-Next-Cursor, "
    b"X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
)
EXPOSE = (b"access-control-expose-headers", EXPOSED)
ENDPOINT_VERSION = (b"x-endpoint-version", VERSION.encode())

_GZIP_FROM = 1024
"""Bytes of body from which compression saves a packet."""
_GZIP_ASIDE = 65_536
"""Bytes of body from which compression takes about a millisecond and runs off the event loop."""
_GZIP_LEVEL = 4
_LONGEST_LIST = 1024
"""Bytes of the longest header list that is parsed."""
_CODING = re.compile(r"\s*([\w*-]+)\s*(?:;\s*q\s*=\s*([0-9.]+)\s*)?")


class EncodedResponse:
    """One answer, ready to send. `more` are its own headers, `replay` describes the replay whose prints it shows,
    if any."""

    __slots__ = (
        "__weakref__",
        "_facts",
        "_media",
        "body",
        "etag",
        "gzip",
        "gzip_head",
        "head",
        "packs",
        "unchanged",
    )

    def __init__(self, answer: Answer, more: Headers | None = None, replay: str = "") -> None:
        self.body = answer.body
        self.etag = answer.etag.encode()
        self.packs = len(self.body) >= _GZIP_FROM and answer.media != MEDIA["parquet"]
        self._media = lines([(b"content-type", answer.media.encode())])
        self._facts = lines([*_facts(answer, replay), *(more or [])])
        self.unchanged = lines([(b"etag", self.etag)]) + self._facts
        """The head of a 304."""
        self.head = self._media + b"content-length: %d\r\n" % len(self.body) + self.unchanged
        self.gzip = b""
        self.gzip_head = b""

    @property
    def weight(self) -> int:
        """Bytes of memory, approximately. A compressed body, which may be added later, is counted as large as the
        plain one."""
        return (1 + self.packs) * len(self.body)

    def pack(self) -> None:
        """Return the compressed body. Two threads may call this at the same time; both get the same bytes."""
        packed = zlib.compress(self.body, _GZIP_LEVEL, zlib.MAX_WBITS | 16)
        # The compressed body is another representation, so its ETag is weak.
        about = b"content-length: %d\r\ncontent-encoding: gzip\r\netag: W/%s\r\n" % (len(packed), self.etag)
        self.gzip_head = self._media + about + self._facts
        self.gzip = packed


def encoded_response(
    made: Made, simulated: bool, format: Format = "json", name: str = "", replay: str = ""
) -> EncodedResponse:
    """Return an answer in a format. `name` is the file name of a download, without suffix; `replay` as in
    `EncodedResponse`."""
    more: Headers = []
    if format == "json":
        answer = encode(made, simulated)
    elif format == "envelope":
        answer = encode(made, simulated, write=lambda body: enveloped(encode_json(body), made.as_of))
    else:
        answer = encode(made, simulated, MEDIA[format], writer(format))
        more.append((b"content-disposition", f'inline; filename="{name}.{format}"'.encode()))
    cursor = getattr(made.body, "next_cursor", None)
    if isinstance(cursor, str):
        more.append((b"x-next-cursor", cursor.encode()))
    return EncodedResponse(answer, more, replay)


def _facts(answer: Answer, replay: str) -> Headers:
    headers = [
        *COMMON,
        EXPOSE,
        (b"cache-control", b"private, no-cache"),
        (b"vary", b"Accept, Accept-Encoding"),
        ENDPOINT_VERSION,
    ]
    if answer.as_of is not None:
        headers.append((b"x-data-as-of", instant(answer.as_of).encode()))
    return headers + source(answer.simulated, replay)


def source(simulated: bool, replay: str) -> Headers:
    """Return the header that marks prints as simulated or replayed; empty for others."""
    sources = ["simulated"] * simulated + [replay] * bool(replay)
    return [(b"x-data-source", ", ".join(sources).encode())] if sources else []


def reply(response: EncodedResponse, headers: dict[bytes, bytes], rate: bytes) -> Reply | Awaitable[Reply]:
    """Return the reply to a request with these headers: 304, compressed, or plain. `rate` holds the header lines of
    the key's quota."""
    condition = headers.get(b"if-none-match")
    if condition is not None and matches(condition, response.etag):
        return Reply(304, response.unchanged + rate, b"")
    if response.packs and takes_gzip(headers.get(b"accept-encoding", b"")):
        if not response.gzip:
            if len(response.body) >= _GZIP_ASIDE:
                return _packed_aside(response, rate)
            response.pack()
        return Reply(200, response.gzip_head + rate, response.gzip)
    return Reply(200, response.head + rate, response.body)


async def _packed_aside(response: EncodedResponse, rate: bytes) -> Reply:
    await asyncio.to_thread(response.pack)
    return Reply(200, response.gzip_head + rate, response.gzip)


def matches(condition: bytes, etag: bytes) -> bool:
    """Return whether an If-None-Match names this tag, by the weak comparison of RFC 9110 13.1.2. A long header is
    not parsed."""
    if condition.strip() == b"*":
        return True
    if len(condition) > _LONGEST_LIST:
        return False
    return any(tag.strip().removeprefix(b"W/") == etag for tag in condition.split(b","))


def takes_gzip(accepted: bytes) -> bool:
    """Return whether an Accept-Encoding allows gzip and does not prefer an uncompressed body (RFC 9110 12.5.3).

    A header longer than `_LONGEST_LIST` is not parsed, and the body is sent uncompressed.
    """
    return len(accepted) <= _LONGEST_LIST and _takes_gzip(accepted)


@lru_cache(maxsize=256)
def _takes_gzip(accepted: bytes) -> bool:
    weights: dict[str, float] = {}
    for part in accepted.decode("latin-1").lower().split(","):
        found = _CODING.fullmatch(part)
        if found:
            try:
                weights[found[1]] = float(found[2] or 1)
            except ValueError:
                continue
    weight = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return weight > 0 and weight >= weights.get("identity", 0.0)
