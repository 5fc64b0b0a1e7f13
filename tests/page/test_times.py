"""Times typed and shown by New York's clock, and stores whose prints are all in the past."""

import contextlib
import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import expect

from oracle import MINUTE
from page.conftest import NOW, Desk
from page.looking import print_now, same, seen, state
from serving import kept, serving
from tapes import row

SPY = "/v1/flow/options/SPY/cumulative"
NEW_YORK = ZoneInfo("America/New_York")


def ns(*moment):
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 10**9


def minutes_of(start, count, **changes):
    """A buy of 1 to 5 in each of so many minutes."""
    return [
        row(
            ts=start + place * MINUTE,
            quote_ts=start + place * MINUTE - 1,
            seq=place + 1,
            size=1 + place % 5,
            price=13_000,
            **changes,
        )
        for place in range(count)
    ]


@pytest.fixture
def opened(tmp_path, chromium):
    """Opens the page on a server of some rows at an instant."""
    with contextlib.ExitStack() as stack:

        def start(rows, now=NOW):
            world = stack.enter_context(kept(tmp_path, now))
            world.take(rows)
            desk = Desk(world, stack.enter_context(serving(world.app)), chromium)
            stack.callback(desk.close)
            return desk

        yield start


def as_of(page, text):
    field = page.get_by_label("As of")
    if not field.is_visible():
        page.get_by_text("Filters").click()
    field.fill(text)
    field.press("Enter")
    return field


@pytest.mark.parametrize(
    ("typed", "instant", "shown"),
    [
        ("2026-05-12 12:00", "2026-05-12T16:00:00Z", "2026-05-12 12:00 ET"),
        ("11:30", "2026-05-12T15:30:00Z", "2026-05-12 11:30 ET"),
        ("12", "2026-05-12T16:00:00Z", "2026-05-12 12:00 ET"),
        ("1pm", "2026-05-12T17:00:00Z", "2026-05-12 13:00 ET"),
        ("2026-05-12T16:00Z", "2026-05-12T16:00:00Z", "2026-05-12 12:00 ET"),
        ("2026-05-12", "2026-05-12T20:15:00Z", "2026-05-12 16:15 ET"),
    ],
)
def test_times_typed_are_new_yorks(desk, typed, instant, shown):
    page = desk.open()
    same(page, desk.points())
    field = as_of(page, typed)
    state(page, "the past")
    same(page, desk.points(at=instant))
    expect(field).to_have_value(shown)
    assert f"at={instant}" in page.url.replace("%3A", ":")


def test_a_time_that_cannot_be_read_says_how_to_write_one(desk):
    page = desk.open()
    same(page, desk.points())
    field = as_of(page, "soon")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_text("Write 2026-11-27 15:00 (New York)")).to_be_visible()
    as_of(page, "2026-03-08 02:30")
    expect(page.get_by_text("New York's clock skips 02:30 on 2026-03-08.")).to_be_visible()
    state(page, "live")


def test_a_day_without_prints_is_refused_with_the_newest_before(desk):
    page = desk.open()
    same(page, desk.points())
    as_of(page, "2026-05-13")
    expect(
        page.get_by_text(re.compile("No print of SPY is kept of Wed 13 May.*Tue 12 May")).first
    ).to_be_visible()
    state(page, "nothing to show")


def test_a_link_without_a_zone_is_new_yorks(desk):
    page = desk.open("/?at=2026-05-12 12:00")
    same(page, desk.points(at="2026-05-12T16:00:00Z"))


def test_days_begin_at_new_yorks_midnight(opened):
    desk = opened(minutes_of(NOW - 2_900 * MINUTE, 2_890))
    page = desk.open("/?minutes=4320")
    same(page, desk.points(minutes=4320))
    ticks = seen(page, "sight.ticks.some(([, text]) => /May/.test(text))")["ticks"]
    days = [datetime.fromtimestamp(time, NEW_YORK) for time, text in ticks if "May" in text]
    assert days
    assert {(day.hour, day.minute) for day in days[-2:]} == {(0, 0)}
    hours = [(datetime.fromtimestamp(time, NEW_YORK), text) for time, text in ticks if ":" in text]
    assert all(f"{hour:%H:%M}" == text for hour, text in hours)


def test_the_newest_day_of_a_store_of_the_past_is_opened(opened):
    rows = minutes_of(ns(2019, 6, 3, 13, 30), 60) + minutes_of(ns(2019, 6, 5, 13, 30), 90)
    desk = opened(rows)
    page = desk.open()
    same(page, desk.points(at="2019-06-05T20:15:00Z", minutes=1440))
    state(page, "the past")
    notice = page.get_by_role("status", name="Days kept")
    expect(notice).to_contain_text("No print of SPY in the last 4 hours.")
    expect(notice).to_contain_text("2 days are kept: Mon 3 Jun 2019 to Wed 5 Jun 2019.")
    expect(page.locator(".status")).to_contain_text("newest print Wed 5 Jun 2019")
    expect(page.locator(".readout")).to_contain_text("Wed 5 Jun 2019 10:59 ET")
    notice.get_by_label("Day").select_option("Mon 3 Jun 2019")
    same(page, desk.points(at="2019-06-03T20:15:00Z"))


def test_a_print_of_now_takes_the_place_of_the_opened_day(opened):
    desk = opened(minutes_of(ns(2019, 6, 5, 13, 30), 90))
    page = desk.open()
    state(page, "the past")
    print_now(desk, 1)
    same(page, desk.points())
    state(page, "live")
    expect(page.get_by_role("status", name="Days kept")).to_have_count(0)


def test_filters_that_let_nothing_pass_are_named_as_the_reason(desk):
    page = desk.open("/?strike=9999")
    expect(page.get_by_text("No print of SPY passes the filters in the 4 hours until now.")).to_be_visible()
    state(page, "no print to show")


def test_a_week_that_loads_shows_how_far_it_is(opened):
    desk = opened(minutes_of(NOW // MINUTE * MINUTE - 10_079 * MINUTE, 10_080))
    page = desk.open("/?minutes=30")
    same(page, desk.points(minutes=30))
    desk.line.pause = 0.4
    page.get_by_role("radio", name="7d").check()
    bar = page.get_by_role("progressbar", name="Loading the window")
    expect(bar).to_have_attribute("value", re.compile(r"0\.\d"))
    expect(page.get_by_text(re.compile("Loading 7 days of SPY … up to ... .+ May .+ ET"))).to_be_visible()
    desk.line.pause = 0.0
    same(page, desk.points(minutes=10_080))
    expect(bar).to_have_count(0)


def test_parts_of_a_day_add_up_to_all_of_it(opened):
    start = NOW // MINUTE * MINUTE - 1_800 * MINUTE
    desk = opened(minutes_of(start, 1_790))
    page = desk.open()
    same(page, desk.points())
    rows = page.get_by_role("table", name="Sessions").locator("tbody tr")
    expect(rows.first).to_be_visible()
    shares = []
    for text in rows.all_inner_texts():
        if "%" in text:
            shares[-1] += float(text.split()[-2])
        else:
            shares.append(0.0)
    assert shares == pytest.approx([100.0] * len(shares), abs=0.21)
    halves = page.get_by_role("table", name="Halves").locator("tbody tr th[scope=row]").all_inner_texts()
    assert set(halves) == {"morning", "afternoon"}
