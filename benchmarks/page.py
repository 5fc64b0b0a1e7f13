"""The page in Chromium: how long until it shows, and how long a change takes at 10,080 points."""

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
from statistics import median
from typing import Any

from benchmarks.report import Aim, Section
from benchmarks.scale import Scale

LOADS = 7
_LOADED = """() => new Promise(done => {
    const look = () => window.flowtape && flowtape.points().length && flowtape.drawn().cumulative.length
        ? done(performance.now()) : setTimeout(look, 5);
    look();
})"""
_FRAMES = """seconds => new Promise(done => {
    const times = [];
    const frame = now => {
        times.push(now);
        if (now - times[0] < 1000 * seconds) requestAnimationFrame(frame);
        else done(times.slice(1).map((time, place) => time - times[place]));
    };
    requestAnimationFrame(frame);
})"""
_UPDATES = """() => {
    const times = [];
    for (let turn = 0; turn < 200; turn += 1) {
        const started = performance.now();
        flowtape.again();
        times.push(performance.now() - started);
    }
    return times;
}"""


@contextmanager
def served() -> Iterator[tuple[str, str]]:
    """A simulated market with its week: address and key."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "flowtape", "serve", "--simulate", "--port", "0"]
        command += ["--store", str(Path(folder) / "s.duckdb")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            said = server.stdout.readline() + server.stdout.readline()
            link = re.search(r"(http\S+)/#key=(\S+)", said)
            assert link is not None
            try:
                yield link[1], link[2]
            finally:
                server.terminate()


def run(scale: Scale) -> list[Section]:
    """One table."""
    from playwright.sync_api import expect, sync_playwright

    path = os.environ.get("FLOWTAPE_TEST_CHROMIUM") or shutil.which("chromium")
    with served() as (url, key), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{url}/#key={key}")
        expect(page.get_by_text(re.compile(r", \d+ s ago"))).to_be_visible(timeout=300_000)
        told = {
            name: _load(page, f"{url}/?minutes={minutes}")
            for name, minutes in (("day", 240), ("week", 10_080))
        }
        points = page.evaluate("flowtape.points().length")
        updates = page.evaluate(_UPDATES)
        page.mouse.move(500, 400)
        still = page.evaluate(_FRAMES, 3)
        moving = _while_moving(page)
        browser.close()
    return [_section(points, told, updates, still, moving)]


def _load(page: Any, address: str) -> float:
    """Median milliseconds from navigation to a line that is drawn."""
    found = []
    for _ in range(LOADS):
        page.goto(address)
        found.append(page.evaluate(_LOADED))
    return median(found)


def _while_moving(page: Any) -> list[float]:
    """Milliseconds from frame to frame while the crosshair moves and the wheel zooms."""
    page.evaluate(f"() => {{ window.measured = ({_FRAMES})(4); }}")
    for step in range(150):
        page.mouse.move(200 + 5 * step, 300 + step % 50)
        if step % 10 == 0:
            page.mouse.wheel(0, 60 if step % 20 else -60)
    found: list[float] = page.evaluate("() => window.measured")
    return found


def _section(
    points: int, told: dict[str, float], updates: list[float], still: list[float], moving: list[float]
) -> Section:
    def high(values: list[float]) -> float:
        return sorted(values)[int(0.95 * len(values))]

    rows = [
        ["first view, 240 minutes: navigation to a line that is drawn", f"{told['day']:.0f} ms"],
        ["first view, seven days", f"{told['week']:.0f} ms"],
        [f"a change of the last minute at {points:,} points, p50", f"{median(updates):.2f} ms"],
        [f"a change of the last minute at {points:,} points, p95", f"{high(updates):.2f} ms"],
        ["frame to frame at rest, live, p50", f"{median(still):.1f} ms"],
        ["frame to frame at rest, live, p95", f"{high(still):.1f} ms"],
        ["frame to frame, crosshair and zoom, p50", f"{median(moving):.1f} ms"],
        ["frame to frame, crosshair and zoom, p95", f"{high(moving):.1f} ms"],
    ]
    aims = [
        Aim("first view of the page", "1,000 ms", f"{told['day']:.0f} ms", told["day"] <= 1000),
        Aim("frames at seven days of points", "16.7 ms", f"{median(moving):.1f} ms", median(moving) <= 17.5),
    ]
    notes = [
        "headless Chromium, which draws without a graphics card, beside the server on the same cores",
        "a change: the series take the newest minute again, without the drawing that follows in the next frame",
    ]
    return Section("The page", ["figure", "measured"], rows, aims=aims, notes=notes)
