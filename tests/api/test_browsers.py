"""Scripts of another origin in a real browser: which requests they may send, and what they may read."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from playwright.sync_api import expect

from browsing import chromium, needs_chromium
from flowtape.settings import Settings
from oracle import MINUTE
from serving import kept, serving
from tapes import T0, row

__all__ = ["chromium"]
pytestmark = needs_chromium
LIMIT = 20_000
PATH = "/v1/flow/options/SPY/cumulative"
FETCH = """async ([url, headers]) => {
    const found = await fetch(url, { headers });
    return { status: found.status, headers: Object.fromEntries(found.headers), text: await found.text() };
}"""
FOLLOW = """([url, name]) => {
    window.seen = [];
    window.source = new EventSource(url);
    for (const kind of ["window", "change"])
        source.addEventListener(kind, event => seen.push([kind, event.lastEventId, event.data]));
    source.addEventListener("message", event => seen.push(["message", event.lastEventId, event.data]));
}"""
RESUME = """async ([url, headers]) => {
    const found = await fetch(url, { headers });
    const reader = found.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    while (!text.includes("data: ")) text += (await reader.read()).value;
    await reader.cancel();
    return text;
}"""


class Blank(BaseHTTPRequestHandler):
    """A page without a script."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title>")

    def log_message(self, *_):
        """Log nothing."""


@pytest.fixture
def world(tmp_path):
    with kept(tmp_path, T0 + 10 * MINUTE) as made, serving(made.app) as url:
        made.url = url
        made.take([row(seq=1, ts=T0 + MINUTE, price=13_000)])
        yield made


@pytest.fixture
def script(chromium):
    """Yield a page of another origin (another port)."""
    server = HTTPServer(("127.0.0.1", 0), Blank)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    context = chromium.new_context()
    context.set_default_timeout(LIMIT)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    yield page
    context.close()
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_a_script_sends_its_key_and_reads_the_headers(world, script):
    headers = {"X-Api-Key": world.keys["alpha"], "X-Source": "test", "Cache-Control": "no-cache"}
    found = script.evaluate(FETCH, [world.url + PATH, headers])
    assert found["status"] == 200
    assert found["headers"]["x-ratelimit-limit"] == "unlimited"
    assert found["headers"]["x-data-as-of"] == "2026-03-06T20:59:00Z"
    assert found["headers"]["x-endpoint-version"] == "1"
    condition = {"X-Api-Key": headers["X-Api-Key"], "If-None-Match": found["headers"]["etag"]}
    assert script.evaluate(FETCH, [world.url + PATH, condition])["status"] == 304


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        (PATH, "wrong", 401),
        (PATH + "?minutes=x", None, 400),
        ("/v1/nothing", None, 404),
        ("/v1/flow/x/", None, 404),
    ],
)
def test_a_script_can_read_error_bodies(world, script, path, key, status):
    found = script.evaluate(FETCH, [world.url + path, {"X-Api-Key": key or world.keys["alpha"]}])
    assert found["status"] == status
    assert found["text"].startswith("{")


def test_swagger_ui_sends_requests_to_its_own_server(tmp_path, chromium):
    with (
        kept(tmp_path, T0, Settings(public_url="https://elsewhere.example")) as made,
        serving(made.app) as url,
    ):
        context = chromium.new_context()
        page = context.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url + "/docs#/server/health")
        page.get_by_role("button", name="Execute").click(timeout=LIMIT)
        expect(page.locator(".live-responses-table .response .response-col_status")).to_contain_text("200")
        expect(page.locator(".request-url")).to_contain_text(url + "/health")
        context.close()
        assert errors == []


def test_a_script_can_read_retry_after(world, script):
    headers = {"X-Api-Key": world.keys["free"]}
    statuses = [script.evaluate(FETCH, [world.url + "/v1/symbols", headers]) for _ in range(6)]
    assert [one["status"] for one in statuses] == [200] * 5 + [429]
    assert int(statuses[-1]["headers"]["retry-after"]) >= 1


def test_an_event_source_gets_no_empty_event(world, script):
    script.evaluate(FOLLOW, [f"{world.url}{PATH}/stream?apiKey={world.keys['alpha']}", "seen"])
    script.wait_for_function("() => window.seen.length === 1")
    world.take([row(seq=2, ts=T0 + 2 * MINUTE, price=13_000)])
    script.wait_for_function("() => window.seen.length === 2")
    assert [kind for kind, _, _ in script.evaluate("seen")] == ["window", "change"]
    script.evaluate("source.close()")


def test_a_script_resumes_a_stream_by_the_last_event(world, script):
    stream, key = f"{world.url}{PATH}/stream", {"X-Api-Key": world.keys["alpha"]}
    first = script.evaluate(RESUME, [stream, key])
    assert first.startswith("retry: 1000\nevent: window\nid: ")
    last = first.partition("id: ")[2].partition("\n")[0]
    world.take([row(seq=2, ts=T0 + 2 * MINUTE, price=13_000)])
    again = script.evaluate(RESUME, [stream, key | {"Last-Event-ID": last}])
    assert "event: change\n" in again
    assert "event: window\n" not in again
