"""The pages without a key: health, metrics, the OpenAPI document, its viewer, and the page with the chart."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import msgspec

from flowtape.server.encoded import COMMON, JSON, takes_gzip
from flowtape.server.errors import Headers, UnhealthyBody
from flowtape.server.metrics import MEDIA
from flowtape.server.openapi import HealthyBody, document
from flowtape.server.protocol import Reply, lines
from flowtape.server.routes import Route
from flowtape.settings import Settings

ALWAYS = ("/health", "/metrics")
"""Paths that are answered regardless of how many requests an address has in progress."""
GUARDED = ("/metrics", "/docs", "/openapi.json")
"""Prefixes of paths that are answered only if the `Host` header names this server, so that a page of another site
cannot read them (DNS rebinding)."""
Page = Callable[[dict[bytes, bytes]], Awaitable[Reply]]

_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>flowtape API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """fetch("/openapi.json").then((found) => found.json()).then((spec) => {
  // Requests go where the page came from, also behind a proxy that the document does not know of.
  spec.servers = [{ url: location.origin }];
  SwaggerUIBundle({
    spec,
    dom_id: "#page",
    deepLinking: true,
    displayRequestDuration: true,
    tryItOutEnabled: true,
    validatorUrl: null,
  });
});
"""
# Swagger UI writes style attributes and draws its icons from data: URLs; nothing else is allowed in.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS: Headers = [
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
]
_KEPT_A_DAY: Headers = [(b"cache-control", b"public, max-age=86400")]
_JAVASCRIPT = b"text/javascript; charset=utf-8"


WEB = Path(__file__).parent / "web"
"""The folder with the built page."""
_KINDS = {".js": _JAVASCRIPT, ".css": b"text/css; charset=utf-8", ".svg": b"image/svg+xml"}
_FLOW_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FLOW_HEADERS: Headers = [
    (b"content-security-policy", _FLOW_POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
]
# Their names change with their content.
_KEPT_FOREVER: Headers = [
    (b"cache-control", b"public, max-age=31536000, immutable"),
]
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")
_HOSTS = 8
"""Hosts whose OpenAPI document is cached."""
_NOT_BUILT = b"The page is not built: `make serve` builds it. The API is described at /docs.\n"


class Pages:
    """The pages by path. `health` returns why answers cannot be given, None when they can; `detail` returns further
    text, empty for none; `metrics` returns the page for Prometheus."""

    def __init__(
        self,
        health: Callable[[], UnhealthyBody | None],
        detail: Callable[[], str],
        metrics: Callable[[], bytes],
        routes: tuple[Route, ...],
        settings: Settings,
    ) -> None:
        self._health, self._detail, self._metrics = health, detail, metrics
        self._pages: dict[str, Page] = {
            **_flow_page(),
            "/health": self._health_page,
            "/metrics": self._metrics_page,
            "/openapi.json": _Document(routes, settings),
            "/docs": _Static(_HTML.encode, b"text/html; charset=utf-8", _PAGE_HEADERS),
            "/docs/start.js": _Static(_START.encode, _JAVASCRIPT, _KEPT_A_DAY),
            "/docs/swagger-ui-bundle.js": _Static(_asset("swagger-ui-bundle.js"), _JAVASCRIPT, _KEPT_A_DAY),
            "/docs/swagger-ui.css": _Static(
                _asset("swagger-ui.css"), b"text/css; charset=utf-8", _KEPT_A_DAY
            ),
        }

    def find(self, path: str) -> Page | None:
        """Return the page at a path."""
        return self._pages.get(path)

    async def _metrics_page(self, headers: dict[bytes, bytes]) -> Reply:
        # No CORS header: pages of other origins must not read it.
        body = await asyncio.to_thread(self._metrics)
        length = (b"content-length", b"%d" % len(body))
        return Reply(200, lines([(b"content-type", MEDIA), length, (b"cache-control", b"no-store")]), body)

    async def _health_page(self, headers: dict[bytes, bytes]) -> Reply:
        trouble = self._health()
        body = msgspec.json.encode(trouble or HealthyBody("Healthy", self._detail() or msgspec.UNSET))
        length = (b"content-length", b"%d" % len(body))
        head = lines([JSON, length, (b"cache-control", b"no-store"), *COMMON])
        return Reply(503 if trouble else 200, head, body)


def _flow_page(folder: Path = WEB) -> dict[str, Page]:
    """Return the chart page and its files, by path; a path outside these is no page."""
    if not (folder / "index.html").is_file():
        return {"/": _not_built}
    files = sorted(file for file in (folder / "assets").iterdir() if file.suffix in _KINDS)
    html = _Static((folder / "index.html").read_bytes, b"text/html; charset=utf-8", _FLOW_HEADERS)
    assets = {
        f"/assets/{file.name}": _Static(file.read_bytes, _KINDS[file.suffix], _KEPT_FOREVER) for file in files
    }
    return {"/": html, **assets}


async def _not_built(headers: dict[bytes, bytes]) -> Reply:
    length = (b"content-length", b"%d" % len(_NOT_BUILT))
    head = lines([(b"content-type", b"text/plain; charset=utf-8"), length, *COMMON])
    return Reply(404, head, _NOT_BUILT)


class _Static:
    """A body that never changes: read at the first request, and kept both plain and compressed."""

    def __init__(self, read: Callable[[], bytes], kind: bytes, headers: Headers) -> None:
        self._read = read
        self._head = lines([(b"content-type", kind), (b"vary", b"Accept-Encoding"), *headers, *COMMON])
        self._bodies: tuple[bytes, bytes] | None = None

    async def __call__(self, headers: dict[bytes, bytes]) -> Reply:
        if self._bodies is None:
            self._bodies = await asyncio.to_thread(self._load)
        plain, packed = self._bodies
        if takes_gzip(headers.get(b"accept-encoding", b"")):
            coding = b"content-encoding: gzip\r\ncontent-length: %d\r\n" % len(packed)
            return Reply(200, self._head + coding, packed)
        return Reply(200, self._head + b"content-length: %d\r\n" % len(plain), plain)

    def _load(self) -> tuple[bytes, bytes]:
        plain = self._read()
        return plain, zlib.compress(plain, 6, zlib.MAX_WBITS | 16)


class _Document:
    """The OpenAPI document with the server's address, which clients that import it need: the setting `public_url`,
    or the host of the request."""

    def __init__(self, routes: tuple[Route, ...], settings: Settings) -> None:
        self._page = partial(_openapi, routes, settings)
        self._url = settings.public_url.rstrip("/")
        self._listens = f"{settings.host}:{settings.port}"
        self._made: dict[str, _Static] = {}

    async def __call__(self, headers: dict[bytes, bytes]) -> Reply:
        host = headers.get(b"host", b"").decode("latin-1")
        url = self._url or f"http://{host if _HOST.fullmatch(host) else self._listens}"
        if url not in self._made:
            if len(self._made) >= _HOSTS:
                self._made.clear()
            self._made[url] = _Static(partial(self._page, url), b"application/json", [(b"vary", b"Host")])
        return await self._made[url](headers)


def _openapi(routes: tuple[Route, ...], settings: Settings, url: str) -> bytes:
    return msgspec.json.encode(document(routes, settings, url))


def _asset(name: str) -> Callable[[], bytes]:
    """Return a reader of a file of Swagger UI in the installed package."""

    def read() -> bytes:
        # Not imported, since the package would load a template engine.
        spec = find_spec("swagger_ui")
        folders = spec.submodule_search_locations if spec else None
        if not folders:
            raise FileNotFoundError("swagger_ui")
        return (Path(folders[0]) / "static" / name).read_bytes()

    return read
