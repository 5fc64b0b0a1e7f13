"""The live feeds, by kind."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import cast

from flowtape.errors import UsageError
from flowtape.feeds.base import Feed
from flowtape.feeds.limits import DEFAULTS, Limits
from flowtape.feeds.replay import ReplayFeed, replay
from flowtape.feeds.specs import Spec, parse_spec
from flowtape.model.clock import Clock

VENDORS = ("databento", "massive", "alpaca")
"""Modules of this package. Each has a function of its own name that takes a `Spec` and `Limits`."""
KINDS = ("simulate", "replay", *VENDORS)


def open_feeds(texts: Sequence[str], clock: Clock, limits: Limits = DEFAULTS) -> list[Feed]:
    """Return the feeds for `--feed` texts, with the limits of vendors' connections.

    Raises:
        UsageError: a text is invalid, two feeds have the same name, or a replay, which sets the clock, is not alone.
    """
    feeds = [_open(parse_spec(text), clock, limits) for text in texts]
    names = [feed.name for feed in feeds]
    if len(set(names)) < len(names):
        raise UsageError(f"--feed: {next(name for name in names if names.count(name) > 1)} is given twice")
    if len(feeds) > 1 and any(isinstance(feed, ReplayFeed) for feed in feeds):
        raise UsageError("--feed: a replay sets the clock and cannot be taken together with another feed")
    return feeds


def _open(spec: Spec, clock: Clock, limits: Limits) -> Feed:
    if spec.kind == "simulate":
        # Imported by name at run time, because the core must not depend on the simulated market.
        return cast(Feed, import_module("flowtape.simulation.feed").simulated(spec, clock))
    if spec.kind == "replay":
        return replay(spec)
    if spec.kind in VENDORS:
        return cast(Feed, getattr(import_module(f"flowtape.feeds.{spec.kind}.feed"), spec.kind)(spec, limits))
    raise UsageError(f"--feed {spec.text}: {spec.kind} is not one of {', '.join(KINDS)}")
