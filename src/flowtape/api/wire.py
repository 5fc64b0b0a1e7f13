"""An answer as it goes over the wire: its headers and its compressed body, made once and kept."""

from __future__ import annotations

import asyncio
import re
import zlib
from datetime import UTC, datetime
from functools import lru_cache

from flowtape.answers import Answer
from flowtape.api.errors import Headers

Reply = tuple[int, Headers, bytes]
"""Status, headers, body."""

COMMON: Headers = [
    (b"access-control-allow-origin", b"*"),
    (b"x-content-type-options", b"nosniff"),
]
JSON = (b"content-type", b"application/json")
EXPOSED = (
    b"ETag, Retry-After, X-Data-As-Of, X-Data-Source, X-Endpoint-Version, "
    b"X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
)
EXPOSE = (b"access-control-expose-headers", EXPOSED)

_GZIP_FROM = 1024
"""Bytes of body from which compression is worth a packet."""
_GZIP_ASIDE = 65_536
"""Bytes of body from which compression takes the better part of a millisecond, and leaves the event loop."""
_GZIP_LEVEL = 4
_KEPT = 64 * 2**20
"""Bytes of bodies, plain and compressed, that are kept ready."""
_CODING = re.compile(r"\s*([\w*-]+)\s*(?:;\s*q\s*=\s*([0-9.]+)\s*)?")


class Wire:
    """One answer, ready to send."""

    __slots__ = ("body", "etag", "gzip", "gzip_headers", "headers", "unchanged")

    def __init__(self, answer: Answer) -> None:
        common = _facts(answer)
        self.body = answer.body
        self.etag = answer.etag.encode()
        self.unchanged: Headers = [(b"etag", self.etag), *common]
        self.headers: Headers = [JSON, (b"content-length", b"%d" % len(self.body)), *self.unchanged]
        self.gzip = b""
        self.gzip_headers: Headers = []

    def pack(self) -> None:
        """Make the compressed body; two threads may do so at once, and make the same."""
        packed = zlib.compress(self.body, _GZIP_LEVEL, zlib.MAX_WBITS | 16)
        self.gzip_headers = [
            JSON,
            (b"content-length", b"%d" % len(packed)),
            (b"content-encoding", b"gzip"),
            # Compressed bytes are another representation, so the tag is only a weak one for them.
            (b"etag", b"W/" + self.etag),
            *self.unchanged[1:],
        ]
        self.gzip = packed


def _facts(answer: Answer) -> Headers:
    headers = [
        *COMMON,
        EXPOSE,
        (b"cache-control", b"private, no-cache"),
        (b"vary", b"Accept-Encoding"),
        (b"x-endpoint-version", b"1"),
    ]
    if answer.as_of is not None:
        headers.append((b"x-data-as-of", instant(answer.as_of).encode()))
    if answer.simulated:
        headers.append((b"x-data-source", b"simulated"))
    return headers


def instant(ns: int) -> str:
    """ISO 8601 of ns since 1970, UTC, with as many decimals as it needs: none, 3, 6 or 9."""
    seconds, rest = divmod(ns, 10**9)
    fraction = f"{rest:09d}"
    while fraction.endswith("000"):
        fraction = fraction[:-3]
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{fraction}Z" if fraction else f"{whole}Z"


class Wires:
    """The answers sent last, ready to send again, oldest out first."""

    def __init__(self) -> None:
        self._kept: dict[Answer, Wire] = {}
        self._bytes = 0

    def get(self, answer: Answer) -> Wire:
        """The answer, ready to send."""
        wire = self._kept.get(answer)
        if wire is None:
            wire = self._kept[answer] = Wire(answer)
            # Twice, for a compressed body that may be added later and is smaller than the plain one.
            self._bytes += 2 * len(answer.body)
            while self._bytes > _KEPT and len(self._kept) > 1:
                oldest = next(iter(self._kept))
                self._bytes -= 2 * len(oldest.body)
                del self._kept[oldest]
        return wire


async def reply(wire: Wire, headers: dict[bytes, bytes], rate: Headers) -> Reply:
    """The reply to a request with these headers: 304, compressed, or plain."""
    condition = headers.get(b"if-none-match")
    if condition is not None and matches(condition, wire.etag):
        return 304, wire.unchanged + rate, b""
    if len(wire.body) >= _GZIP_FROM and takes_gzip(headers.get(b"accept-encoding", b"")):
        if not wire.gzip:
            if len(wire.body) < _GZIP_ASIDE:
                wire.pack()
            else:
                await asyncio.to_thread(wire.pack)
        return 200, wire.gzip_headers + rate, wire.gzip
    return 200, wire.headers + rate, wire.body


def matches(condition: bytes, etag: bytes) -> bool:
    """Whether an If-None-Match names this tag (compared weakly, as RFC 9110 13.1.2 says)."""
    if condition.strip() == b"*":
        return True
    return any(tag.strip().removeprefix(b"W/") == etag for tag in condition.split(b","))


@lru_cache(maxsize=256)
def takes_gzip(accepted: bytes) -> bool:
    """Whether an Accept-Encoding allows gzip, and does not like plain better (RFC 9110 12.5.3)."""
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
