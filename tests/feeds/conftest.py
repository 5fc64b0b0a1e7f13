"""Fixtures of live feeds: valid keys, a stand-in, and feeds that stop when the test ends."""

import pytest

from feeding import WAIT, Running
from feeds.lines import KEYS, LINES


@pytest.fixture
def keys(monkeypatch):
    """Set the keys that the stand-ins accept in the environment."""
    for name, key in KEYS.items():
        monkeypatch.delenv(f"{name}_FILE", raising=False)
        monkeypatch.setenv(name, key)


@pytest.fixture
def run():
    """Return a function that runs a feed: `run(feed, cursor, outlet)`."""
    running = []

    def go(feed, cursor=None, outlet=None):
        running.append(Running(feed, cursor, outlet))
        return running[-1]

    yield go
    for one in running:
        one.outlet.stop.set()
        one.thread.join(WAIT)


@pytest.fixture
def start(server, run, request):
    """Return a function that runs the module's `feed_of`, or a given feed."""

    def go(*asked, cursor=None, feed=None, outlet=None, **limits):
        return run(feed or request.module.feed_of(server, *asked, **limits), cursor, outlet)

    return go


@pytest.fixture
def line(request):
    """Return the vendor's line under test, with its stand-in."""
    one = LINES[request.param]()
    with one.server:
        yield one
