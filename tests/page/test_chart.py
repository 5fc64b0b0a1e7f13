"""What of the chart is in sight: its edge, its labels, its axes, and what stays when the view changes."""

import itertools
import re

import pytest
from playwright.sync_api import expect

from oracle import MINUTE
from page.conftest import NOW
from page.looking import print_now, same, seen, state, until
from tapes import row

SPY = "/v1/flow/options/SPY/"


def wheel(page, by=-400, times=4):
    """Zoom with the wheel over the middle of the chart."""
    box = page.locator("#plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
    for _ in range(times):
        page.mouse.wheel(0, by)


def test_the_line_ends_before_the_edge_and_a_legend_names_it(desk):
    for width in (1400, 390):
        page = desk.open(viewport={"width": width, "height": 844})
        same(page, desk.points())
        sight = seen(page, "sight.margin !== null && sight.margin > 10")
        assert 15 < sight["margin"] < 60
        legend = page.get_by_role("list", name="Legend")
        expect(legend).to_contain_text("cumulative net volume")
        expect(legend).to_contain_text("price of the underlying (left)")


def test_the_newest_value_is_labelled_only_in_sight(desk):
    page = desk.open()
    same(page, desk.points())
    seen(page, "sight.labelled")
    wheel(page)
    seen(page, "!sight.labelled")
    page.locator("#plot").press("f")
    seen(page, "sight.labelled")


def test_zoom_stays_when_the_measure_or_a_filter_changes(desk):
    page = desk.open()
    same(page, desk.points())
    wheel(page)
    before = seen(page, "!sight.labelled")
    page.get_by_label("Measure").select_option("Premium")
    same(page, desk.points(measure="premium"))
    seen(page, "sight.from !== null")
    after = page.evaluate("flowtape.seen()")
    assert (after["from"], after["to"]) == (before["from"], before["to"])
    page.get_by_role("radio", name="1h").check()
    same(page, desk.points(measure="premium", minutes=60))
    seen(page, "sight.labelled")


def test_minutes_in_sight_stay_while_the_window_moves_on(desk):
    page = desk.open()
    same(page, desk.points())
    wheel(page)
    before = seen(page, "!sight.labelled")
    desk.world.clock.now = NOW + 2 * MINUTE
    print_now(desk, 1, ts=NOW + 2 * MINUTE - 10**9, quote_ts=NOW)
    same(page, desk.points())
    after = page.evaluate("flowtape.seen()")
    assert (after["from"], after["to"]) == (before["from"], before["to"])


def test_the_keyboards_crosshair_stays_on_its_minute(desk):
    page = desk.open()
    same(page, desk.points())
    wanted = desk.points()[-6]
    for _ in range(5):
        page.locator("#plot").press("ArrowLeft")
    minute = page.locator(".readout dd").first
    shown = minute.inner_text()
    desk.world.clock.now = NOW + 3 * MINUTE
    print_now(desk, 1, ts=NOW + 3 * MINUTE - 10**9, quote_ts=NOW)
    same(page, desk.points())
    expect(minute).to_have_text(shown)
    expect(page.locator(".readout")).to_contain_text(f"{wanted['tradeCount']:,}")


def test_the_minute_under_the_keyboards_crosshair_is_announced(desk):
    page = desk.open()
    same(page, desk.points())
    page.locator("#plot").press("ArrowLeft")
    before = desk.points()[-2]
    said = page.get_by_role("status", name="Minute under the crosshair")
    expect(said).to_contain_text(f"{abs(before['cumulative']):,}")
    expect(said).to_contain_text("ET, cumulative")


def test_session_sums_have_no_stroke_from_day_to_day(desk):
    start = NOW // MINUTE * MINUTE - 2_000 * MINUTE
    rows = [
        row(symbol="LONG", root="LONG", ts=start + place * MINUTE, quote_ts=start - 1, seq=place, size=3)
        for place in range(2_000)
    ]
    desk.world.take(rows)
    page = desk.open("/?symbol=LONG&minutes=4320&anchor=session")
    points = desk.points("/v1/flow/options/LONG/cumulative", minutes=4320, anchor="session")
    same(page, points)
    drawn = page.evaluate("flowtape.drawn().cumulative")
    last = [
        place
        for place, (one, other) in enumerate(itertools.pairwise(points))
        if one["session"] != other["session"]
    ]
    assert last
    assert [place for place, one in enumerate(drawn) if one.get("color") == "transparent"] == last


def test_ticks_are_exact_and_evenly_spaced(desk):
    page = desk.open()
    same(page, desk.points())
    for minutes in (30, 60, 240):
        page.get_by_role("radio", name={30: "30m", 60: "1h", 240: "4h"}[minutes]).check()
        same(page, desk.points(minutes=minutes))
        texts = seen(page, "sight.numbers.length > 2")["numbers"]
        units = {"K": 1e3, "M": 1e6}
        values = [
            float(re.sub("[KM]", "", text).replace("−", "-")) * units.get(text[-1], 1) for text in texts
        ]
        steps = [other - one for one, other in itertools.pairwise(values)]
        assert steps == pytest.approx([steps[0]] * len(steps))


@pytest.mark.parametrize(
    ("bad", "said"), [(1, "1 price is off the scale"), (2, "2 prices are off the scale")]
)
def test_bad_quotes_do_not_set_the_price_scale(desk, bad, said):
    start = NOW // MINUTE * MINUTE - 60 * MINUTE
    prices = [140_000 + 500 * (place % 4) for place in range(60)]
    prices[30 : 30 + bad] = [127_250] * bad
    rows = [
        row(
            symbol="VIX",
            root="VIX",
            ts=start + place * MINUTE,
            quote_ts=start - 1,
            seq=place,
            underlying=price,
        )
        for place, price in enumerate(prices)
    ]
    desk.world.take(rows)
    page = desk.open("/?symbol=VIX&minutes=120")
    same(page, desk.points("/v1/flow/options/VIX/cumulative", minutes=120))
    until(page, "flowtape.drawn().price.some(({ value }) => value === 12.725)")
    sight = seen(page, "sight.prices && sight.prices.to - sight.prices.from < 1")
    assert sight["prices"]["from"] > 13.5
    expect(page.get_by_role("list", name="Legend")).to_contain_text(said)


def test_a_jump_of_the_price_that_stays_sets_the_scale(desk):
    start = NOW // MINUTE * MINUTE - 60 * MINUTE
    rows = [
        row(symbol="VIX", root="VIX", ts=start + place * MINUTE, quote_ts=start - 1, seq=place,
            underlying=140_000 if place < 55 else 160_000)
        for place in range(60)
    ]  # fmt: skip
    desk.world.take(rows)
    page = desk.open("/?symbol=VIX&minutes=120")
    seen(page, "sight.prices && sight.prices.to >= 16")


def test_calls_and_puts_are_drawn_beside_the_total(desk):
    page = desk.open()
    same(page, desk.points())
    page.get_by_label("Measure").select_option("Volume: calls and puts")
    points = desk.points(split="right")
    same(page, points)
    drawn = page.evaluate("flowtape.drawn()")
    for name in ("calls", "puts"):
        sums = list(itertools.accumulate(point[name] for point in points))
        assert [one["value"] for one in drawn[name]] == sums
    for _ in range(2):
        print_now(desk, 1)
        same(page, desk.points(split="right"))
    last = desk.points(split="right")[-1]
    end = page.evaluate("['calls', 'puts'].map(name => flowtape.drawn()[name].at(-1).value)")
    assert sum(end) == last["cumulative"]
    expect(page.locator(".readout")).to_contain_text("Calls")


def test_directional_measures_are_drawn(desk):
    page = desk.open()
    same(page, desk.points())
    for label, measure in (
        ("Directional volume", "directional"),
        ("Directional premium", "directional_premium"),
    ):
        page.get_by_label("Measure").select_option(label)
        same(page, desk.points(measure=measure))
        until(page, "flowtape.drawn().price.length")
        expect(page.locator(".readout")).to_contain_text(label)
    parts = desk.api(SPY + "sessions", measure="directional_premium", days=5).json()["sessions"][0]["parts"]
    half = next(part for part in parts if part["part"] == "morning")["netDirectionalPremium"]
    expect(page.get_by_role("table", name="Halves")).to_contain_text(f"{abs(half):,.0f}")
    page.get_by_role("radio", name="Stocks").check()
    same(page, desk.points("/v1/flow/stocks/SPY/cumulative", measure="premium"))
    state(page, "live")


def test_calls_and_puts_count_from_the_sessions_open(desk):
    page = desk.open("/?minutes=60&anchor=session&measure=premium&split=right")
    same(page, desk.points(minutes=60, anchor="session", measure="premium", split="right"))
    until(page, "flowtape.drawn().calls.length > 10")
    for right, name in (("C", "calls"), ("P", "puts")):
        alone = desk.points(minutes=60, anchor="session", measure="premium", right=right)
        drawn = page.evaluate(
            f"Object.fromEntries(flowtape.drawn().{name}.map(({{ time, value }}) => [time, value]))"
        )
        seconds = page.evaluate("points => points.map(({ ts }) => Date.parse(ts) / 1000)", alone)
        assert [drawn[str(at)] for at in seconds] == pytest.approx([one["cumulative"] for one in alone])
