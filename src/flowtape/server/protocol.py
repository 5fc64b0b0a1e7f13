"""HTTP/1.1 on one connection. httptools (llhttp) parses the bytes.

The head of a request, its body, the waiting requests of a connection and the unread bytes of answers are all
bounded.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast
from urllib.parse import unquote

import httptools

from flowtape.server.errors import Headers
from flowtape.server.logs import event

if TYPE_CHECKING:
    from flowtape.server.connections import Connections

MOST_HEAD = 65_536
"""Bytes of a request line and headers together; a request with more is answered with 414 or 431."""
MOST_BODY = 65_536
"""Bytes of a request body, which no route reads; a request with more is answered with 413."""
LONGEST_FORWARDED = 1024
"""Bytes of `X-Forwarded-For` that are read, from its end."""
MOST_WAITING = 128
"""Requests that wait on a connection for the previous one; with more, the connection is closed after these."""
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_CLOSE = b"connection: close\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n"
_EMPTY = b"content-length: 0\r\n"
_WITHOUT_BODY = (204, 304)
_UNKNOWN = 2**63
_SERVED = (b"GET", b"HEAD", b"OPTIONS")
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (/[!-~]*) HTTP/1\.[01]\r\n")
"""A request line with any method."""
_VERSIONS = ("1.1", "1.0")
_LONGEST_PATH = 1024


class Request:
    """A request. `target` is its path and query as sent; `headers` have names in lower case.

    Several `X-Forwarded-For` headers are joined by commas. `address` is the address that the request is counted
    for, empty if it is not counted.
    """

    __slots__ = ("address", "headers", "keep_alive", "method", "target", "version")

    def __init__(self, method: str, target: bytes, headers: dict[bytes, bytes], address: str = "") -> None:
        self.method, self.target, self.headers, self.address = method, target, headers, address
        self.keep_alive, self.version = True, "1.1"

    @property
    def raw_path(self) -> bytes:
        """The path as sent."""
        return self.target.partition(b"?")[0]

    @property
    def path(self) -> str:
        """The beginning of the path, percent-decoded; no route or page has a longer one."""
        return unquote(self.raw_path[:_LONGEST_PATH].decode("latin-1"))

    @property
    def query(self) -> bytes:
        """The query as sent, without its question mark."""
        return self.target.partition(b"?")[2]


class Body(Protocol):
    """A body that is sent in parts, as they become available."""

    async def serve(self, send: Send) -> bool:
        """Send all parts. Return False if the client does not take them; then the connection is aborted."""

    def hang_up(self) -> None:
        """The client has gone: `serve` must return."""

    def release(self) -> None:
        """The answer has ended, for whatever reason."""


Send = Callable[[bytes], Awaitable[None] | None]
"""Sends a part. Returns None if the client keeps up, else an awaitable that ends when it has read enough."""


class Reply(NamedTuple):
    """An answer. `head` holds the lines of its headers, each with its line end."""

    status: int
    head: bytes
    body: bytes | Body


_log = logging.getLogger(__name__)
Answerer = Callable[[Request], Reply | Awaitable[Reply]]


def lines(headers: Headers) -> bytes:
    """Return headers as they are sent. Raises `ValueError` if one has a line end in it."""
    parts = [b"%s: %s\r\n" % header for header in headers]
    if any(b"\n" in part[:-2] or b"\r" in part[:-2] for part in parts):
        raise ValueError("a header has a line end in it")
    return b"".join(parts)


class Connection(asyncio.Protocol):
    """One connection of a client."""

    __slots__ = (
        "_between",
        "_drained",
        "_half",
        "_head",
        "_headers",
        "_parser",
        "_queue",
        "_received",
        "_refusal",
        "_requests",
        "_server",
        "_size",
        "_stopping",
        "_stream",
        "_target",
        "_unread",
        "address",
        "busy",
        "paused",
        "proxied",
        "since",
        "transport",
        "unsent",
    )  # fmt: skip

    def __init__(self, server: Connections) -> None:
        self._server = server
        self._parser: httptools.HttpRequestParser | None = None
        self._queue: deque[Request] | None = None
        self._stream: Body | None = None
        self._drained: asyncio.Future[None] | None = None
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._received = self._size = self._requests = self._refusal = 0
        self._head = self._between = True
        # Whether parsing has ended, and whether the client may still send.
        self._stopping = self._unread = self._half = False
        self.transport: asyncio.Transport
        self.address = ""
        """The address that the connection is counted for; empty if it is not counted."""
        self.proxied = False
        """Whether the client is a named proxy. Its requests are counted for the address that it forwards."""
        self.busy = False
        """Whether an answer is in progress."""
        self.paused = False
        """Whether the client reads too slowly."""
        self.since = 0.0
        """When the connection began to wait (monotonic seconds): for a request, or for the client to read."""
        self.unsent = _UNKNOWN
        """Bytes that the client had not read at the last check."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, or refuse it."""
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.since = self._server.now
        if not self._server.add(self, str(peer[0]) if peer else ""):
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Cancel the answer in progress: the client has gone."""
        self._server.discard(self)
        self._stopping, self._parser, self._queue = True, None, None
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._stream is not None:
            self._stream.hang_up()

    def eof_received(self) -> bool:
        """The client sends nothing more. Return whether an answer is in progress that it may still read."""
        self._stopping, self._unread, self._half = True, False, True
        # A client that half-closes a stream's connection has left, as browsers do.
        return self.busy and self._stream is None

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        if self._stopping:
            return
        between, self._requests = self._between, 0
        self._received += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            event(_log, logging.ERROR, "connection failed", error=repr(error.__context__))
            self._refuse(500)
            return
        except httptools.HttpParserError:
            self._take_unparsed(data if between and self._requests == 1 else b"")
            return
        if self._received > (MOST_HEAD if self._head else MOST_HEAD + MOST_BODY):
            self._refuse((431 if self._headers else 414) if self._head else 413)

    def _take_unparsed(self, data: bytes) -> None:
        """Answer the request at the start of `data` if only its method is unknown to llhttp; refuse any other."""
        found = _LINE.match(data)
        if self._stopping:
            return
        if found is None or found[1] in _SERVED:
            self._refuse(400)
        else:
            self._take_last(Request(found[1].decode(), found[2], {}, self.address))

    def _feed(self, data: bytes) -> None:
        while data and not self._stopping:
            if self._parser is None:
                self._parser = httptools.HttpRequestParser(self)
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # No upgrade is supported: the request is answered as usual, and the next one is read.
                self._parser, data = None, data[upgrade.args[0] :]

    def on_message_begin(self) -> None:
        """A request begins."""
        self._target, self._headers, self._size, self._head = b"", {}, 0, True
        self._requests += 1
        self._between = False

    def on_url(self, part: bytes) -> None:
        """A part of the target."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. Of a repeated header the last counts, except `X-Forwarded-For`. Trailers are dropped, since
        proxies forward any."""
        if not self._head:
            return
        name = name.lower()
        self._size += len(name) + len(value) + 4
        value = value.rstrip(b" \t")
        if name in self._headers:
            if name == b"host":
                self._refuse(400)
            elif name == b"x-forwarded-for":
                value = (self._headers[name] + b", " + value)[-LONGEST_FORWARDED:]
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        """The head of a request is complete."""
        self._head = False
        headers = self._headers
        if len(self._target) > MOST_HEAD:
            self._refuse(414)
        elif self._size > MOST_HEAD:
            self._refuse(431)
        elif b"content-length" in headers and _longer(headers[b"content-length"], MOST_BODY):
            self._refuse(413)
        elif b"expect" in headers:
            self._go_on()

    def _go_on(self) -> None:
        """Send `100 Continue` to a client that waits for it, unless an earlier answer is in progress."""
        parser = self._parser
        if parser is None or self._stopping or self.busy or self._queue:
            return
        if parser.get_http_version() == "1.1" and _has_body(self._headers):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_message_complete(self) -> None:
        """A request is complete: answer it, or let it wait for the previous one."""
        parser = self._parser
        self._received, self._head, self._between = 0, True, True
        if self._stopping or parser is None:
            return
        request = Request(
            parser.get_method().decode("latin-1"), _origin_form(self._target), self._headers, self.address
        )
        if self.proxied:
            request.address = self._server.forwarded(self._headers.get(b"x-forwarded-for", b""))
        request.version = parser.get_http_version()
        if request.version not in _VERSIONS:
            self._refuse(400)
        elif parser.should_upgrade() and (request.method == "CONNECT" or _has_body(self._headers)):
            # llhttp does not report where the next request begins.
            self._take_last(request)
        else:
            # HTTP/1.0: one answer per connection.
            request.keep_alive = request.version == "1.1" and parser.should_keep_alive()
            self._stopping = not request.keep_alive
            self._take(request)

    def _take(self, request: Request) -> None:
        """Answer a request."""
        if not self.busy and not self.paused and not self._queue:
            self._answer(request)
            return
        if self._queue is None:
            self._queue = deque()
            self.transport.pause_reading()
        self._queue.append(request)
        if len(self._queue) >= MOST_WAITING:
            request.keep_alive, self._stopping, self._unread = False, True, True

    def _take_last(self, request: Request) -> None:
        """Answer a request after which nothing can be read."""
        request.keep_alive, self._stopping, self._unread = False, True, True
        self._take(request)

    def _answer(self, request: Request) -> None:
        reply = self._server.answer(request)
        if isinstance(reply, Reply) and isinstance(reply.body, bytes):
            self._write(request, reply, reply.body)
            return
        self.busy = True
        task = self._server.loop.create_task(self._answer_later(request, reply))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    async def _answer_later(self, request: Request, reply: Reply | Awaitable[Reply]) -> None:
        self._server.enter(request.address)
        try:
            found = reply if isinstance(reply, Reply) else await reply
            if isinstance(found.body, bytes):
                self._write(request, found, found.body)
            else:
                await self._write_parts(request, found, found.body)
        except Exception as error:
            event(_log, logging.ERROR, "connection failed", error=repr(error))
            self.transport.abort()
        finally:
            self._server.leave(request.address)
            self.busy, self.since = False, self._server.now
        self._next()

    def _write(self, request: Request, reply: Reply, body: bytes) -> None:
        """Send a complete answer."""
        if self.transport.is_closing():
            return
        closes = not request.keep_alive or self._server.stopping
        parts = (
            _STATUS_LINES[reply.status], reply.head, _CLOSE if closes else b"", self._server.date, b"\r\n",
            b"" if request.method == "HEAD" or reply.status in _WITHOUT_BODY else body,
        )  # fmt: skip
        self.transport.write(b"".join(parts))
        self.since, self.unsent = self._server.now, _UNKNOWN
        if closes:
            self._end()

    async def _write_parts(self, request: Request, reply: Reply, body: Body) -> None:
        """Send an answer in parts, then close the connection."""
        chunked = request.version == "1.1"
        head = reply.head + (_CHUNKED if chunked else b"") + _CLOSE
        took = request.method == "HEAD"
        try:
            self._send(b"".join((_STATUS_LINES[reply.status], head, self._server.date, b"\r\n")))
            if not (took or self._half or self.transport.is_closing()):
                self._stream = body
                took = await body.serve(self._send_chunk if chunked else self._send)
                if took and chunked:
                    self._send(b"0\r\n\r\n")
        finally:
            self._stream = None
            body.release()
            if took:
                self._end()
            else:
                self.transport.abort()

    def _send_chunk(self, part: bytes) -> Awaitable[None] | None:
        return self._send(b"%x\r\n%s\r\n" % (len(part), part))

    def _send(self, part: bytes) -> Awaitable[None] | None:
        if not self.transport.is_closing():
            self.transport.write(part)
        if not self.paused:
            return None
        if self._drained is None:
            self._drained = self._server.loop.create_future()
        return self._drained

    def pause_writing(self) -> None:
        """The client reads too slowly: answer no further request until it has read."""
        self.paused, self.since = True, self._server.now

    def resume_writing(self) -> None:
        """The client has read."""
        self.paused, self.since, self.unsent = False, self._server.now, _UNKNOWN
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None
        self._next()

    def _next(self) -> None:
        """Answer the waiting requests while the client reads."""
        while self._queue and not self.busy and not self.paused:
            self._answer(self._queue.popleft())
        if self.busy or self._queue:
            return
        if self._stopping:
            self._end()
        elif self._queue is not None:
            self._queue = None
            self.transport.resume_reading()

    def _refuse(self, status: int) -> None:
        """Answer an invalid request in its turn, and parse nothing more."""
        if not self._stopping:
            self._refusal, self._stopping, self._unread = status, True, True
            self._next()

    def _end(self) -> None:
        """Close the connection after everything written is sent."""
        refusal, self._refusal = self._refusal, 0
        self._stopping, self._queue = True, None
        if self.transport.is_closing():
            return
        if refusal:
            self.transport.write(_STATUS_LINES[refusal] + self._server.date + _EMPTY + _CLOSE + b"\r\n")
        if not self._unread:
            self.transport.close()
            return
        # If the connection were closed while the client still sends, it would be reset and answers would be lost.
        # So the client's bytes are read and dropped until it closes or its time is up.
        self.since = self._server.now
        self.transport.write_eof()
        self.transport.resume_reading()


def _has_body(headers: dict[bytes, bytes]) -> bool:
    return b"content-length" in headers or b"transfer-encoding" in headers


def _longer(length: bytes, most: int) -> bool:
    """Return whether a text of digits, with any number of leading zeros, is a number above `most`."""
    digits = length.lstrip(b"0")
    return len(digits) > len(str(most)) or int(digits or b"0") > most


def _origin_form(target: bytes) -> bytes:
    """Return the path and query of a target in absolute form, as sent to a proxy; other targets unchanged, without
    a fragment."""
    if b"#" in target:
        target = target.partition(b"#")[0]
    if target.startswith(b"/"):
        return target
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        return target
    if url.host is None:
        return target
    return (url.path or b"/") + (b"?" + url.query if url.query else b"")
