"""Wakes the hubs of a symbol when its minutes change, when the clock goes on, and when answers are trusted or not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flowtape.errors import FeedError, Loading, StoreError
from flowtape.server.routes import Asset, FlowAnswers

if TYPE_CHECKING:
    from flowtape.server.hubs import Hub

TICK = 0.1
"""Seconds between looks at the clock, and at whether answers can be trusted."""
_Place = tuple[str, str]
"""A route's path, and a symbol as it was asked for (empty: all)."""


class Changes:
    """Wakes hubs. Used from the event loop only.

    The cache tells which symbols a batch changed. The clock, a commit to minutes older than the cache, and whether
    answers may be trusted are looked at every `TICK`.
    """

    def __init__(self, flow: FlowAnswers) -> None:
        self._flow = flow
        self._hubs: dict[_Place, set[Hub]] = {}
        self._symbols: dict[_Place, str] = {}
        self._states: dict[_Place, object] = {}
        self._trouble: dict[Asset, str] = {}

    def follow(self, hub: Hub) -> None:
        """Wake a hub from now on."""
        self._hubs.setdefault(hub.place, set()).add(hub)
        self._symbols[hub.place] = self._flow.meant(hub.query).symbol

    def leave(self, hub: Hub) -> None:
        """Wake a hub no more."""
        hubs = self._hubs.get(hub.place, set())
        hubs.discard(hub)
        if not hubs:
            for known in (self._hubs, self._symbols, self._states):
                known.pop(hub.place, None)

    def changed(self, asset: str, symbols: frozenset[str]) -> None:
        """Minutes of some symbols have changed (none: any may have): wake their hubs, and those of all symbols."""
        for place, hubs in self._hubs.items():
            symbol = self._symbols[place]
            mine = [hub for hub in hubs if hub.asset == asset]
            if mine and (not symbol or not symbols or symbol in symbols):
                self._states[place] = self._flow.state(mine[0].route, mine[0].query)
                _wake(mine)

    async def watch(self) -> None:
        """Pass on what the cache tells, and look at the rest, until cancelled."""
        loop = asyncio.get_running_loop()

        def told(asset: str, symbols: frozenset[str]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.changed, asset, symbols)

        self._flow.listen(told)
        while True:
            await asyncio.sleep(TICK)
            self._look_at_trust()
            for place, hubs in self._hubs.items():
                one = next(iter(hubs))
                self._symbols[place] = self._flow.meant(one.query).symbol
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
