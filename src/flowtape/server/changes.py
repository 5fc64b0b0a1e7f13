"""Wakes the hubs of a symbol when its minutes, the clock, or the trust in its answers change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flowtape.errors import FeedError, Loading, StoreError
from flowtape.server.routes import Asset, FlowAnswers

if TYPE_CHECKING:
    from flowtape.server.hubs import Hub

TICK = 0.1
"""Seconds between two looks at the clock and at the checks of answers."""
_Place = tuple[str, str]
"""A route's path and the symbol of the request (empty: all)."""


class Changes:
    """Wakes hubs. Used on the event loop only.

    The cache reports which symbols a batch changed. The clock, commits to minutes older than the cache, and the
    checks of answers are polled every `TICK`.
    """

    def __init__(self, flow: FlowAnswers) -> None:
        self._flow = flow
        self._hubs: dict[_Place, set[Hub]] = {}
        self._symbols: dict[_Place, str] = {}
        self._states: dict[_Place, object] = {}
        self._trouble: dict[Asset, str] = {}
        self._listens = False

    def follow(self, hub: Hub) -> None:
        """Wake a hub from now on."""
        self._hubs.setdefault(hub.place, set()).add(hub)
        self._symbols[hub.place] = self._flow.meant(hub.query).symbol

    def leave(self, hub: Hub) -> None:
        """Stop waking a hub."""
        hubs = self._hubs.get(hub.place, set())
        hubs.discard(hub)
        if not hubs:
            for known in (self._hubs, self._symbols, self._states):
                known.pop(hub.place, None)

    def changed(self, asset: str, symbols: frozenset[str]) -> None:
        """Wake the hubs of some symbols whose minutes changed (none: any may have), and the hubs of all symbols."""
        for place, hubs in self._hubs.items():
            symbol = self._symbols[place]
            mine = [hub for hub in hubs if hub.asset == asset]
            if mine and (not symbol or not symbols or symbol in symbols):
                self._states[place] = self._flow.state(mine[0].route, mine[0].query)
                _wake(mine)

    async def watch(self) -> None:
        """Forward the changes that the cache reports, and poll the others, until cancelled."""
        if not self._listens:
            self._listen()
        while True:
            await asyncio.sleep(TICK)
            self._look_at_trust()
            for place, hubs in self._hubs.items():
                one = next(iter(hubs))
                self._symbols[place] = self._flow.meant(one.query).symbol
                state = self._flow.state(one.route, one.query)
                changed, self._states[place] = state != self._states.get(place), state
                # A failed answer may succeed now.
                _wake(hub for hub in hubs if changed or hub.trouble)

    def _listen(self) -> None:
        self._listens = True
        loop = asyncio.get_running_loop()

        def told(asset: str, symbols: frozenset[str]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.changed, asset, symbols)

        self._flow.listen(told)

    def _look_at_trust(self) -> None:
        """Wake the hubs of an asset when the checks of its answers begin or cease to fail."""
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
