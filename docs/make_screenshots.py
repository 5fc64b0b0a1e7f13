"""Takes the page's pictures in docs/ from a simulated market: `python -m docs.make_screenshots`.

Needs the built page (`make page`), Chromium (FLOWTAPE_TEST_CHROMIUM names one that is not on the path) and Playwright.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from benchmarks.page import served

DOCS = Path(__file__).parent
SHOTS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("dark", "/?minutes=1440", {"color_scheme": "dark"}, "live"),
    ("light", "/?minutes=240&symbol=QQQ&anchor=session", {"color_scheme": "light"}, "live"),
    ("phone", "/?minutes=240", {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}}, "live"),
    ("empty", "/?symbol=NONE", {"color_scheme": "dark"}, "no print to show"),
    ("error", "/?symbol=SPY", {"color_scheme": "dark"}, "refused"),
)
"""Name of the picture, what it shows, how, and what the page says of its connection."""


def main() -> None:
    """Take them all."""
    from playwright.sync_api import expect, sync_playwright

    path = os.environ.get("FLOWTAPE_TEST_CHROMIUM") or shutil.which("chromium")
    with served() as (url, key), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, view, options, state in SHOTS:
            context = browser.new_context(**{"viewport": {"width": 1360, "height": 860}} | options)
            page = context.new_page()
            page.goto(f"{url}{view}#key={'ft_expired' if state == 'refused' else key}")
            expect(page.get_by_role("status", name="Connection")).to_contain_text(state, timeout=60_000)
            if state == "live":
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
