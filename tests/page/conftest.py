"""The page as a browser has it: a real server, a line that can be cut, and Chromium."""

import asyncio
import threading
from datetime import UTC, date, datetime
from pathlib import Path

import httpx
import pytest

from browsing import CHROMIUM, chromium
from flowtape.server.pages import WEB
from flowtape.simulation.tape import Market, write_tape
from serving import kept, serving

DAY = date(2026, 5, 12)
NOW = int(datetime(2026, 5, 12, 17, 59, 30, tzinfo=UTC).timestamp()) * 10**9
LIMIT = 20_000
__all__ = ["chromium"]


def pytest_collection_modifyitems(items):
    reason = "no chromium on this machine" if CHROMIUM is None else "the page is not built: `make page`"
    if CHROMIUM is None or not (WEB / "index.html").is_file():
        for item in items:
            if Path(item.fspath).parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def tape(tmp_path_factory):
    path = tmp_path_factory.mktemp("tape") / "day.parquet"
    write_tape(Market(seed=7, underlyings=4), DAY, path, assets="both", rows=14_000)
    return path


class Line:
    """A server's address that can be cut: everything that goes through it breaks, and nothing new gets in. With a
    `pause` of some seconds after each 64 KB it is slow."""

    def __init__(self, port):
        self.target, self.open, self.writers, self.pause = port, True, set(), 0.0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.server = self.run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    def run(self, what):
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(10)

    async def _serve(self, reader, writer):
        if not self.open:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self.writers |= {writer, back}
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        self.writers -= {writer, back}

    async def _pass(self, reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(self.pause)
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def _cut(self):
        self.open = False
        for writer in self.writers:
            writer.transport.abort()

    async def _mend(self):
        self.open = True

    def cut(self):
        self.run(self._cut())

    def mend(self):
        self.run(self._mend())

    async def _close(self):
        self.server.close()
        await self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=5) if others else None

    def close(self):
        self.run(self._close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


class Desk:
    """A server, and pages opened on it; what a page says in its console, and what it asks, is kept."""

    def __init__(self, world, url, chromium):
        self.world, self.key, self.chromium = world, world.keys["alpha"], chromium
        self.line = Line(int(url.rpartition(":")[2]))
        self.url, self.errors, self.asked, self.contexts = self.line.url, [], [], []
        self.direct = url

    def open(self, path="/", key=True, clock_ahead=0, **options):
        """Open a page; its machine's clock is ahead by so many ms."""
        context = self.chromium.new_context(
            **{"viewport": {"width": 1400, "height": 900}, "accept_downloads": True} | options
        )
        context.set_default_timeout(LIMIT)
        self.contexts.append(context)
        page = context.new_page()
        if clock_ahead:
            page.add_init_script(f"{{ const now = Date.now; Date.now = () => now() + {clock_ahead}; }}")
        page.on("console", lambda said: said.type == "error" and self.errors.append(said.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(self.url + path + (f"#key={self.key}" if key else ""))
        return page

    def api(self, path, **params):
        answer = httpx.get(self.direct + path, params=params, headers={"X-Api-Key": self.key}, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer

    def points(self, path="/v1/flow/options/SPY/cumulative", **params):
        return self.api(path, **params).json()["points"]

    def close(self):
        for context in self.contexts:
            context.close()
        self.line.close()


@pytest.fixture
def desk(tmp_path, tape, chromium):
    with kept(tmp_path, NOW) as world, serving(world.app) as url:
        world.take_file(tape, "table")
        made = Desk(world, url, chromium)
        yield made
        made.close()
        assert made.errors == []
