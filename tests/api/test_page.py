"""The page's files over HTTP."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest

from flowtape.server import pages
from flowtape.server.pages import WEB

from .conftest import World

BUILT = pytest.mark.skipif(not (WEB / "index.html").is_file(), reason="the page is not built: `make page`")


@BUILT
def test_the_page_loads_nothing_from_elsewhere(world: World) -> None:
    front = httpx.get(world.url + "/")
    assert front.status_code == 200
    assert front.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = front.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert "unsafe" not in policy
    assert front.headers["X-Content-Type-Options"] == "nosniff"
    assert front.headers["Referrer-Policy"] == "no-referrer"
    used = re.findall(r'(?:src|href)="([^"]+)"', front.text)
    assert len(used) == 3
    for path in used:
        found = httpx.get(world.url + path)
        assert found.status_code == 200
        assert "immutable" in found.headers["Cache-Control"]
        plain = httpx.get(world.url + path, headers={"Accept-Encoding": "identity"})
        assert plain.content == found.content
        assert httpx.head(world.url + path).content == b""


def test_only_the_pages_files_are_served(world: World) -> None:
    for path in (
        "/assets/",
        "/assets/../index.html",
        "/assets/%2e%2e/index.html",
        "/assets//etc/passwd",
        "/index.html",
    ):
        assert httpx.get(world.url + path).status_code == 404, path


def test_a_page_that_was_not_built_says_so(tmp_path: Path) -> None:
    found = pages._flow_page(tmp_path)
    assert list(found) == ["/"]
    status, head, body = asyncio.run(found["/"]({}))
    assert status == 404
    assert b"make serve" in body
    assert b"content-length: %d\r\n" % len(body) in head
