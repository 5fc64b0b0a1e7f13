"""Chromium, for tests of what a browser makes of the server."""

import os
import shutil

import pytest

CHROMIUM = (
    os.environ.get("FLOWTAPE_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


# Not longer than the tests of a module: while it runs, no other event loop can in this thread.
@pytest.fixture(scope="module")
def chromium():
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
