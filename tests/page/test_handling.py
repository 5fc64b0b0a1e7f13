"""Keys, filters, saving, telephones: what a hand does on the page."""

import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect

from oracle import MINUTE
from page.conftest import NOW, Desk
from page.looking import print_now, same, seen, state, until
from serving import kept, serving
from tapes import row


def test_enter_leaves_the_search_and_keys_work_again(desk):
    page = desk.open()
    same(page, desk.points())
    page.keyboard.press("/")
    page.keyboard.type("qqq")
    page.keyboard.press("Enter")
    page.keyboard.press("/")
    page.keyboard.type("spy")
    page.keyboard.press("Enter")
    page.keyboard.press("2")
    same(page, desk.points(minutes=60))
    expect(page.get_by_label("Symbol", exact=True)).to_have_value("SPY")


def test_enter_leaves_a_filter_and_keys_work_again(desk):
    page = desk.open()
    same(page, desk.points())
    page.get_by_text("Filters").click()
    page.get_by_label("Days to expiry").fill("0..7")
    page.keyboard.press("Enter")
    page.keyboard.press("2")
    same(page, desk.points(minutes=60, dte="0..7"))


def test_filters_stay_open_when_the_last_one_is_cleared(desk):
    page = desk.open("/?side=buy")
    same(page, desk.points(side="buy"))
    page.get_by_label("Side", exact=True).select_option("Both")
    same(page, desk.points())
    expect(page.get_by_label("Side", exact=True)).to_be_visible()


@pytest.mark.parametrize("height", [640, 900])
def test_the_time_axis_is_on_the_screen(desk, height):
    page = desk.open("/?side=buy&colour=red", viewport={"width": 1400, "height": height})
    same(page, desk.points(side="buy"))
    expect(page.get_by_label("Side", exact=True)).to_be_visible()
    box = page.locator("#plot").bounding_box()
    assert box["y"] + box["height"] <= height


def test_the_newest_prints_time_is_exact(desk):
    page = desk.open()
    same(page, desk.points())
    until(page, "flowtape.drawn().price.length")
    page.route("**/divergence*", lambda route: route.abort())
    desk.world.clock.now = NOW + 80 * 10**9
    print_now(desk, 1, ts=NOW + 75 * 10**9, quote_ts=NOW)
    newest = desk.api("/v1/flow/options/SPY/cumulative", minutes=1).headers["X-Data-As-Of"]
    assert newest > "2026-05-12T18:00:44"
    expect(page.locator(".status")).to_contain_text(f"14:00:{newest[17:19]} ET")
    desk.errors.clear()


def test_the_prints_age_is_by_the_servers_clock(tmp_path, chromium):
    now = time.time_ns()
    with kept(tmp_path, now) as world, serving(world.app) as url:
        world.take([row(ts=now - 10**9, quote_ts=now - 2 * 10**9)])
        desk = Desk(world, url, chromium)
        page = desk.open(clock_ahead=3_600_000)
        expect(page.locator(".status")).to_contain_text(re.compile(r", \d+ s ago"))
        desk.close()


def test_what_is_saved_says_what_it_is(desk):
    page = desk.open("/?minutes=60&right=P&side=buy&measure=premium")
    same(page, desk.points(minutes=60, right="P", side="buy", measure="premium"))
    name = "SPY-options-{}-premium-2026-05-12-1h-right-puts-side-buys-simulated."
    with page.expect_download() as csv:
        page.get_by_role("button", name="Download CSV").click()
    assert csv.value.suggested_filename == name.format("cumulative") + "csv"
    line = Path(csv.value.path()).read_text().splitlines()[1]
    assert line.endswith(',SPY,options,premium,USD,"right puts, side buys",simulated')
    with page.expect_download() as png:
        page.get_by_role("button", name="Download PNG").click()
    assert png.value.suggested_filename == name.format("chart") + "png"
    height = int.from_bytes(Path(png.value.path()).read_bytes()[20:24], "big")
    assert height > page.locator("#plot").bounding_box()["height"] + 60


def test_the_picture_is_captioned(desk):
    page = desk.open("/?minutes=60&right=P")
    same(page, desk.points(minutes=60, right="P"))
    page.evaluate(
        """() => {
            window.written = [];
            const plain = CanvasRenderingContext2D.prototype.fillText;
            CanvasRenderingContext2D.prototype.fillText = function (text, ...more) {
                window.written.push(text);
                return plain.call(this, text, ...more);
            };
        }"""
    )
    with page.expect_download():
        page.get_by_role("button", name="Download PNG").click()
    written = " ".join(page.evaluate("window.written"))
    for words in (
        "SPY options: cumulative net volume in contracts",
        "Tue 12 May 2026",
        "ET · simulated · filters: right puts",
        "aggressor side inferred from the prevailing quote",
    ):
        assert words in written


def test_a_copied_link_is_told_in_sight(desk):
    page = desk.open()
    same(page, desk.points())
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    said = page.get_by_text("The link was copied.")
    expect(said).to_be_visible()
    assert said.bounding_box()["width"] > 100


def test_tables_say_which_filters_they_do_not_follow(desk):
    page = desk.open("/?right=P&side=buy&dte=0..60&at=2026-05-12T16:00:00Z")
    expect(page.locator(".scope")).to_contain_text("All symbols: all puts, as of Tue 12 May")
    expect(page.locator(".scope")).to_contain_text("not filtered by days to expiry, side.")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".scope")).to_have_text("All symbols: all options.")


def phone(desk, path="/"):
    page = desk.open(path, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    same(page, desk.points())
    return page


def test_on_a_phone_the_chart_comes_first(desk):
    page = phone(desk)
    chart = page.locator("#plot").bounding_box()
    assert chart["y"] < 300
    assert chart["y"] + chart["height"] <= 844
    assert page.get_by_role("group", name="Window").bounding_box()["y"] > chart["y"] + chart["height"]


def test_a_swipe_in_the_phones_chart_scrolls_the_page(desk):
    page = phone(desk)
    chart = page.locator("#plot").bounding_box()
    client = page.context.new_cdp_session(page)
    x, y = chart["x"] + chart["width"] / 2, chart["y"] + chart["height"] / 2

    def touch(kind, *points):
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": list(points)})

    touch("touchStart", {"x": x, "y": y})
    for step in range(1, 13):
        touch("touchMove", {"x": x, "y": y - 15 * step})
    touch("touchEnd")
    until(page, "scrollY > 100")


def test_the_page_does_not_move_while_it_loads(desk):
    page = desk.open()
    same(page, desk.points())
    seen(page, "sight.margin !== null")
    shift = page.evaluate(
        """() => new Promise(done => {
            let sum = 0;
            new PerformanceObserver(list => list.getEntries().forEach(entry => (sum += entry.value)))
                .observe({ type: "layout-shift", buffered: true });
            setTimeout(() => done(sum), 100);
        })"""
    )
    assert shift < 0.1


def test_a_symbol_that_falls_quiet_is_not_called_live(desk):
    page = desk.open()
    same(page, desk.points())
    state(page, "live")
    desk.world.clock.now = NOW + 600 * MINUTE
    print_now(desk, 1, symbol="QQQ", root="QQQ", ts=NOW + 600 * MINUTE - 10**9, quote_ts=NOW)
    expect(page.get_by_role("status", name="Connection")).not_to_contain_text("live")
