"""What tests wait for on the page, and prints that arrive while it is open."""

from playwright.sync_api import expect

from page.conftest import LIMIT, NOW
from tapes import row


def until(page, condition, arg=None):
    """Wait, in the page, until a condition on `wanted` holds."""
    page.evaluate(
        f"""wanted => new Promise((done, fail) => {{
            const end = performance.now() + {LIMIT};
            const look = () => {{
                if (window.flowtape && ({condition})) done();
                else if (performance.now() > end) fail(new Error("not so after {LIMIT} ms"));
                else setTimeout(look, 10);
            }};
            look();
        }})""",
        arg,
    )


def same(page, points):
    """The page's points are the API's, number by number."""
    until(page, "JSON.stringify(flowtape.points()) === JSON.stringify(wanted)", points)


def state(page, words):
    expect(page.get_by_role("status", name="Connection")).to_contain_text(words)


def print_now(desk, seq, **changes):
    """A buy of 10 that prints in the minute that is filling."""
    one = {"ts": NOW - 10**9, "quote_ts": NOW - 2 * 10**9, "seq": 900_000 + seq, "size": 10} | changes
    desk.world.take([row(**one)], source="simulated")


def seen(page, condition, arg=None):
    """Wait until a condition on what of the chart is in `sight` holds; returns it."""
    until(page, f"(sight => {condition})(flowtape.seen())", arg)
    return page.evaluate("flowtape.seen()")
