"""What people see and do, in Chromium, beside what the API says."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from playwright.sync_api import expect

import flowtape.server.streams
from flowtape.feeds.backlog import Backlog
from flowtape.feeds.replay import Replay
from oracle import MINUTE
from page.conftest import DAY, NOW, Desk
from page.looking import print_now, same, state, until
from serving import kept, serving
from tapes import row

AXE = Path(__file__).parent.parent.parent / "web/node_modules/axe-core/axe.min.js"


def test_the_line_drawn_is_the_apis(desk):
    page = desk.open()
    points = desk.points()
    assert len(points) > 200
    same(page, points)
    drawn = page.evaluate("flowtape.drawn()")
    at = [(point["time"], point["value"]) for point in drawn["cumulative"]]
    seconds = page.evaluate("flowtape.points().map(point => Date.parse(point.ts) / 1000)")
    assert at == list(zip(seconds, [point["cumulative"] for point in points], strict=True))
    assert [bar["value"] for bar in drawn["net"]] == [point["netVolume"] for point in points]
    until(page, "flowtape.drawn().price.length")
    prices = desk.points("/v1/flow/options/SPY/divergence")
    assert [one["value"] for one in page.evaluate("flowtape.drawn().price")] == [
        one["price"] for one in prices
    ]
    expect(page.get_by_text("simulated", exact=True)).to_be_visible()


def test_the_read_out_has_every_field(desk):
    page = desk.open()
    last = desk.points()[-1]
    same(page, desk.points())
    chart = page.get_by_role("region", name="Flow chart")
    for value in (f"{abs(last['cumulative']):,}", str(last["vwap"]), str(last["tradeCount"])):
        expect(chart.locator(".readout")).to_contain_text(value)
    page.get_by_role("img", name="Cumulative net flow").press("ArrowLeft")
    before = desk.points()[-2]
    expect(chart.locator(".readout")).to_contain_text(f"{abs(before['cumulative']):,}")


def test_new_prints_arrive_without_asking(desk):
    page = desk.open()
    same(page, desk.points())
    state(page, "live")
    for seq in range(3):
        print_now(desk, seq)
        same(page, desk.points())
    before = desk.points()
    print_now(desk, 9, ts=NOW - 30 * MINUTE, quote_ts=NOW - 31 * MINUTE)
    after = desk.points()
    assert after != before
    same(page, after)
    drawn = page.evaluate("flowtape.drawn().cumulative.map(point => point.value)")
    assert drawn == [point["cumulative"] for point in after]


def test_a_lost_line_is_told_and_made_good(desk):
    page = desk.open()
    same(page, desk.points())
    state(page, "live")
    desk.line.cut()
    state(page, "not live")
    print_now(desk, 1)
    print_now(desk, 2, ts=NOW - 5 * MINUTE, quote_ts=NOW - 6 * MINUTE)
    desk.line.mend()
    state(page, "live")
    same(page, desk.points())
    # The browser itself tells of the requests that did not get through.
    assert all("net::ERR" in error for error in desk.errors)
    desk.errors.clear()


def test_a_browser_without_a_network_says_so_at_once(desk):
    page = desk.open()
    state(page, "live")
    page.context.set_offline(True)
    state(page, "not live")
    page.context.set_offline(False)
    state(page, "live")
    desk.errors.clear()


def test_numbers_not_to_be_trusted_are_not_shown_as_live(desk):
    page = desk.open()
    state(page, "live")
    desk.world.feed.silent = 99.0
    state(page, "does not trust")
    desk.world.feed.silent = None
    state(page, "live")
    desk.errors.clear()


def test_filters(desk):
    page = desk.open()
    same(page, desk.points())
    page.get_by_text("Filters").click()
    page.get_by_label("Right").select_option("Puts")
    same(page, desk.points(right="P"))
    page.get_by_label("Side", exact=True).select_option("Buys")
    same(page, desk.points(right="P", side="buy"))
    field = page.get_by_label("Days to expiry")
    field.fill("0..7")
    field.press("Enter")
    same(page, desk.points(right="P", side="buy", dte="0..7"))
    field.fill("soon")
    field.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="soon").first).to_be_visible()
    expect(field).to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Clear").click()
    same(page, desk.points())
    assert all("400" in error for error in desk.errors)
    desk.errors.clear()


def test_windows_assets_and_the_past(desk):
    page = desk.open()
    page.get_by_role("group", name="Window").get_by_role("radio", name="30m").check()
    same(page, desk.points(minutes=30))
    page.get_by_role("group", name="Asset").get_by_role("radio", name="Stocks").check()
    same(page, desk.points("/v1/flow/stocks/SPY/cumulative", minutes=30))
    page.get_by_text("Filters").click()
    page.get_by_label("As of").fill("2026-05-12 12:00")
    page.get_by_label("As of").press("Enter")
    same(page, desk.points("/v1/flow/stocks/SPY/cumulative", minutes=30, at="2026-05-12T16:00:00Z"))
    state(page, "the past")
    page.go_back()
    same(page, desk.points("/v1/flow/stocks/SPY/cumulative", minutes=30))
    page.go_back()
    same(page, desk.points(minutes=30))


def test_a_link_restores_the_view(desk):
    page = desk.open("/?symbol=QQQ&minutes=60&right=C&measure=premium&anchor=session")
    wanted = {"minutes": 60, "right": "C", "measure": "premium", "anchor": "session"}
    points = desk.points("/v1/flow/options/QQQ/cumulative", **wanted)
    assert points
    same(page, points)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    assert desk.key not in link
    again = desk.open(link.removeprefix(desk.url))
    same(again, points)
    odd = desk.open("/?minutes=soon&colour=red")
    expect(odd.get_by_role("alert").filter(has_text="minutes 'soon', colour 'red'")).to_be_visible()
    same(odd, desk.points())


def test_downloads(desk):
    page = desk.open("/?minutes=60")
    same(page, desk.points(minutes=60))
    with page.expect_download() as csv:
        page.get_by_role("button", name="Download CSV").click()
    path = "/v1/flow/options/SPY/cumulative"
    head, *rows = desk.api(path, minutes=60, format="csv").text.splitlines()
    found = Path(csv.value.path()).read_text().splitlines()
    assert found[0] == f"{head},symbol,asset,measure,unit,filters,tape"
    assert found[1:] == [f"{one},SPY,options,volume,contracts,none,simulated" for one in rows]
    with page.expect_download() as png:
        page.get_by_role("button", name="Download PNG").click()
    picture = Path(png.value.path()).read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 10_000


def test_the_key_stays_out_of_addresses(desk):
    page = desk.open()
    state(page, "live")
    assert desk.key not in page.url
    assert not [url for url in desk.asked if desk.key in url.partition("#")[0]]
    page.goto(desk.url)
    state(page, "live")


def test_a_key_is_asked_for_and_again_when_it_is_revoked(desk, monkeypatch):
    monkeypatch.setattr(flowtape.server.streams, "HEARTBEAT", 0.05)
    page = desk.open(key=False)
    dialog = page.get_by_role("dialog", name="API key")
    dialog.get_by_label("API key").fill("ft_wrong")
    dialog.get_by_role("button", name="Use key").click()
    expect(dialog).to_contain_text("Invalid API key.")
    dialog.get_by_label("API key").fill(desk.key)
    dialog.get_by_role("button", name="Use key").click()
    state(page, "live")
    expect(dialog).to_be_hidden()
    desk.world.book.revoke(desk.world.book.find(desk.key.encode()).id)
    expect(dialog).to_contain_text("Invalid API key.")
    state(page, "the key is refused")
    dialog.get_by_label("API key").fill(desk.world.book.create("alpha", "other"))
    dialog.get_by_role("button", name="Use key").click()
    state(page, "live")
    assert all("401" in error for error in desk.errors)
    desk.errors.clear()


def test_the_search_finds_a_class_of_shares_however_it_is_written(desk):
    desk.world.take([row(symbol="BRK.B", root="BRKB")])
    page = desk.open()
    for written in ("brkb", "BRK-B", "brk/b"):
        page.get_by_label("Symbol", exact=True).fill(written)
        expect(page.get_by_role("option", name="BRK.B", exact=True)).to_be_visible()
    page.keyboard.press("Enter")
    same(page, desk.points("/v1/flow/options/BRKB/cumulative"))


def test_by_keyboard_alone(desk):
    page = desk.open()
    same(page, desk.points())
    page.keyboard.press("/")
    page.keyboard.type("qq")
    expect(page.get_by_role("option", name="QQQ")).to_be_visible()
    page.keyboard.press("Enter")
    same(page, desk.points("/v1/flow/options/QQQ/cumulative"))
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keys").focus()
    page.keyboard.press("2")
    same(page, desk.points("/v1/flow/options/QQQ/cumulative", minutes=60))
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()
    page.get_by_role("table", name="Leaders").get_by_role("button", name="SPY").focus()
    page.keyboard.press("Enter")
    same(page, desk.points(minutes=60))


def test_an_unknown_symbol_is_named_and_never_live(desk):
    page = desk.open("/?symbol=NONE")
    expect(page.get_by_text("This store keeps no print of NONE options.")).to_be_visible()
    state(page, "connected, no print to show")


def test_tables_are_the_apis(desk):
    page = desk.open()
    drift = desk.api("/v1/flow/options/drift", windowMinutes=240, limit=8).json()["drift"]
    table = page.get_by_role("table", name="Drift")
    expect(table.locator("tbody tr")).to_have_count(len(drift))
    assert [text.strip() for text in table.locator("tbody th").all_inner_texts()] == [
        one["symbol"] for one in drift
    ]
    days = desk.api("/v1/flow/options/SPY/sessions").json()["sessions"]
    for name, parts in (
        ("Sessions", {"outside", "open", "midday", "close"}),
        ("Halves", {"morning", "afternoon"}),
    ):
        wanted = [part["part"] for day in days for part in day["parts"] if part["part"] in parts]
        rows = page.get_by_role("table", name=name).locator("tbody th[scope=row]")
        expect(rows).to_have_count(len(wanted))
        assert sorted(rows.all_inner_texts()) == sorted(wanted)


def test_boards_follow_the_instant_and_the_right_of_the_chart(desk):
    at = "2026-05-12T16:00:00Z"
    page = desk.open(f"/?at={at}&right=P")
    asked = {"windowMinutes": 240, "at": at, "right": "P"}
    board = desk.api("/v1/flow/options/leaderboard", n=8, **asked).json()
    rows = page.get_by_role("table", name="Leaders").locator("tbody th")
    expect(rows).to_have_text([one["symbol"] for one in (*board["buyers"], *board["sellers"])])
    found = desk.api("/v1/flow/options/outliers", limit=8, **asked).json()["outliers"]
    rows = page.get_by_role("table", name="Outliers").locator("tbody th")
    expect(rows).to_have_text([one["symbol"] for one in found])


def test_a_link_with_an_option_s_filter_of_stocks_says_so(desk):
    page = desk.open("/?asset=stocks&right=C")
    expect(page.get_by_text("cannot be used: right 'C' of stocks.")).to_be_visible()
    state(page, "live")


@pytest.mark.parametrize(("scheme", "width"), [("dark", 1400), ("light", 1400), ("dark", 360)])
def test_axe_finds_nothing_serious(desk, scheme, width):
    page = desk.open(color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True)
    same(page, desk.points())
    page.get_by_text("Filters").click()
    expect(page.get_by_role("table", name="Drift").locator("tbody tr").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run()")["violations"]
    assert [
        (one["id"], one["impact"], [node["html"] for node in one["nodes"]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ] == []


def test_seven_days_of_points(desk):
    start = NOW // MINUTE * MINUTE - 10_079 * MINUTE
    rows = [
        row(
            symbol="LONG",
            root="LONG",
            ts=start + place * MINUTE,
            quote_ts=start,
            seq=place,
            size=1 + place % 7,
        )
        for place in range(10_080)
    ]
    desk.world.take(rows)
    page = desk.open("/?symbol=LONG&minutes=10080")
    points = desk.points("/v1/flow/options/LONG/cumulative", minutes=10_080)
    assert len(points) == 10_080
    same(page, points)
    assert len(page.evaluate("flowtape.drawn().cumulative")) == 10_080
    assert DAY.isoformat() in points[-1]["ts"]


def test_a_replay_is_labelled_with_its_day_and_speed(tmp_path, chromium):
    played = Replay("vix.csv", date(2016, 6, 1), 60.0, "option", "VIX")
    now = int(datetime(2016, 6, 1, 15, 0, 30, tzinfo=UTC).timestamp()) * 10**9
    with kept(tmp_path, now, replay=played) as world, serving(world.app) as url:
        world.take([row(symbol="VIX", root="VIX", ts=now - 10**9, quote_ts=now - 2 * 10**9)])
        made = Desk(world, url, chromium)
        page = made.open("/?symbol=VIX")
        status = page.locator(".status")
        expect(status).to_contain_text("replay of 2016-06-01, 60×")
        expect(status).to_contain_text("replaying")
        expect(status).to_contain_text("newest print Wed 1 Jun")
        expect(status).not_to_contain_text("ago")
        expect(status).not_to_contain_text("simulated")
        made.close()


def test_a_page_shows_how_far_the_server_has_loaded(desk):
    desk.world.backlogs.set("simulated", Backlog(0.25))
    page = desk.open()
    expect(page.get_by_role("status", name="Connection")).to_have_text("loading")
    expect(page.get_by_role("progressbar", name="Loading")).to_have_attribute("value", "25")
    desk.world.backlogs.set("simulated", Backlog(0.5))
    expect(page.get_by_role("progressbar", name="Loading")).to_have_attribute("value", "50")
    expect(page.get_by_role("alert").first).to_contain_text("Loading: 50 % done.")
    desk.world.backlogs.end("simulated")
    expect(page.get_by_role("status", name="Connection")).to_have_text("live")
    same(page, desk.points())
    desk.errors[:] = [one for one in desk.errors if "502" not in one]


def test_a_market_that_loads_is_labelled_simulated_from_the_start(tmp_path, chromium):
    with kept(tmp_path, NOW, simulates=True) as world, serving(world.app) as url:
        world.backlogs.set("simulated", Backlog(0.25))
        made = Desk(world, url, chromium)
        page = made.open("/?symbol=SPY")
        expect(page.get_by_text("simulated", exact=True)).to_be_visible()
        made.errors[:] = [one for one in made.errors if "502" not in one]
        made.close()
