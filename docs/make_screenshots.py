"""Takes the page's pictures in docs/ from a simulated market: `python docs/make_screenshots.py`.

Needs the built page (`make page`), Chromium (FLOWTAPE_TEST_CHROMIUM names one that is not on the path) and Playwright.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
SHOTS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("dark", "/?minutes=1440", {"color_scheme": "dark"}, "live"),
    ("light", "/?minutes=240&symbol=QQQ&anchor=session", {"color_scheme": "light"}, "live"),
    ("phone", "/?minutes=240", {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}}, "live"),
    ("empty", "/?symbol=NONE", {"color_scheme": "dark"}, "live"),
    ("error", "/?symbol=SPY", {"color_scheme": "dark"}, "refused"),
)
"""Name of the picture, what it shows, how, and what the page says of its connection."""


@contextmanager
def served() -> Iterator[tuple[str, str]]:
    """A simulated market with its week taken in: address and key."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "flowtape", "serve", "--simulate", "--port", "0"]
        store = ["--store", f"{folder}/s.duckdb"]
        with subprocess.Popen([*command, *store], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            said = server.stdout.readline() + server.stdout.readline()
            link = re.search(r"(http\S+)/#key=(\S+)", said)
            assert link is not None
            try:
                yield link[1], link[2]
            finally:
                server.terminate()


def main() -> None:
    """Take them all."""
    from playwright.sync_api import expect, sync_playwright

    path = os.environ.get("FLOWTAPE_TEST_CHROMIUM") or shutil.which("chromium")
    with served() as (url, key), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, view, options, state in SHOTS:
            context = browser.new_context(**{"viewport": {"width": 1360, "height": 860}} | options)
            page = context.new_page()
            page.goto(f"{url}{view}#key={key if state == 'live' else 'ft_expired'}")
            expect(page.get_by_role("status", name="Connection")).to_contain_text(state, timeout=60_000)
            if state == "live" and name != "empty":
                # The week is in once the newest print is seconds old.
                expect(page.get_by_text(re.compile(r", \d+ s ago"))).to_be_visible(timeout=180_000)
                page.reload()
                expect(page.get_by_role("table", name="Sessions").locator("tbody tr").first).to_be_visible(
                    timeout=60_000
                )
            page.screenshot(path=DOCS / f"page-{name}.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
