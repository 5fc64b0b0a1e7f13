"""Wakes the hubs of a symbol when its minutes change, when the clock goes on, and when answers are trusted or not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flowtape.errors import FeedError, Loading, StoreError
from flowtape.server.routes import Asset, FlowAnswers

if TYPE_CHECKING:
    from flowtape.server.hubs import Hub

TICK = 0.05
"""Seconds between looks at the clock, and at whether answers can be trusted."""
_Place = tuple[str, str]
"""A route's path, and a symbol (empty: all)."""


class Changes:
    """Wakes hubs. Used from the event loop only."""

    def __init__(self, flow: FlowAnswers) -> None:
        self._flow = flow
        self._hubs: dict[_Place, set[Hub]] = {}
        self._states: dict[_Place, object] = {}
        self._trouble: dict[Asset, str] = {}

    def follow(self, hub: Hub) -> None:
        """Wake a hub from now on."""
        self._hubs.setdefault(hub.place, set()).add(hub)

    def leave(self, hub: Hub) -> None:
        """Wake a hub no more."""
        hubs = self._hubs.get(hub.place, set())
        hubs.discard(hub)
        if not hubs:
            self._hubs.pop(hub.place, None)
            self._states.pop(hub.place, None)

    def changed(self, asset: Asset, symbol: str, minutes: Sequence[int] | None = None) -> None:
        """Minutes of a symbol have changed (None: any may have): wake its hubs, and those of all symbols together."""
        for (_, of), hubs in self._hubs.items():
            if of in (symbol, ""):
                _wake(hub for hub in hubs if hub.asset == asset)

    async def watch(self) -> None:
        """Look what has changed until cancelled, once for all hubs of a symbol."""
        while True:
            await asyncio.sleep(TICK)
            self._look_at_trust()
            for place, hubs in self._hubs.items():
                one = next(iter(hubs))
                state = self._flow.state(one.route, one.query)
                changed, self._states[place] = state != self._states.get(place), state
                # Where an answer could not be made, what it needs may be there now.
                _wake(hub for hub in hubs if changed or hub.trouble)

    def _look_at_trust(self) -> None:
        """Wake the hubs of an asset whose answers can be trusted again, or no more."""
        for asset in sorted({hub.asset for hubs in self._hubs.values() for hub in hubs}):
            try:
                self._flow.check(asset)
                trouble = ""
            except (StoreError, FeedError, Loading) as error:
                trouble = str(error)
            if trouble != self._trouble.get(asset, ""):
                self._trouble[asset] = trouble
                _wake(hub for hubs in self._hubs.values() for hub in hubs if hub.asset == asset)


def _wake(hubs: Iterable[Hub]) -> None:
    for hub in hubs:
        hub.wake()
