"""REST pages of every live feed that fills its gaps by REST."""

import re
import time

import pytest

from feeds.lines import NS, SECOND, TENTH, instants, paging, tape, until
from flowtape.errors import FeedError

pytestmark = pytest.mark.usefixtures("keys")


@paging
def test_a_long_quiet_gap_costs_few_requests(line, run):
    hours = 65 * 3600 * SECOND
    line.trade(0, live=False, ts=NS - hours)
    line.trade(1, live=False, ts=NS - hours + SECOND)
    line.trade(2, live=False)
    one = run(line.feed(), str(NS - hours))
    one.outlet.until_prints(3)
    one.stop()
    assert len(line.server.requests) < 60


@paging
def test_requests_to_a_busy_rest_are_retried(line, run):
    line.trade(0, live=False)
    line.server.busy = 3
    one = run(line.feed(), str(NS))
    one.outlet.until_prints(1)
    assert one.stop().counts["REST requests put off by the vendor"] == 3


@paging
def test_a_stopped_feed_does_not_wait_for_a_busy_rest(line, run):
    line.server.busy, line.server.retry_after = 9, "3600"
    one = run(line.feed(), str(NS))
    until(line.stalled)
    began = time.monotonic()
    one.stop()
    assert time.monotonic() - began < 1


@paging
def test_a_broken_rest_is_a_feed_error(line, run):
    line.server.rest_broken = True
    error = run(line.feed(), str(NS)).ended()
    assert isinstance(error, FeedError)
    assert "broken as told" in str(error)


@paging
def test_a_repeated_page_is_an_error(line, run):
    line.server.rest_stuck = True
    for n in range(0, 600, 2):
        line.trade(n, live=False)
    one = run(line.feed(), str(NS))
    assert "a page of " in str(one.ended())
    assert one.outlet.got == []


@paging
@pytest.mark.parametrize("body", [{"status": "ERROR", "results": []}, {"results": {}}, [], "text"])
def test_a_malformed_page_is_an_error(line, run, body):
    line.server.rest_says = body
    error = run(line.feed(), str(NS)).ended()
    assert isinstance(error, FeedError)
    assert re.search(" REST: .*(not a page of|Expected `object`)", str(error))


@paging
def test_a_window_with_many_rows_is_fetched_in_shorter_ones(line, run):
    tape(line, 0, 350, live=False)
    one = run(line.feed(rows=200), str(NS))
    one.outlet.until_prints(350)
    prints = one.stop().prints()
    assert instants(prints) == [NS + n * TENTH for n in range(350)]
    # The width that fits is kept, so few windows are fetched twice.
    assert len(line.server.requests) < 150
