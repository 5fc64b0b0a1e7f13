"""The time-outs and sizes of a live connection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Limits:
    """The time-outs (seconds) and sizes of a live connection. A field that is None has the vendor's own value."""

    open: float = 15.0
    """Within which a connection must be admitted; all topics must be confirmed within twice as long."""
    close: float = 0.5
    """How long the vendor has to say goodbye."""
    ping_every: float = 10.0
    pong: float = 20.0
    """Within which a ping must be answered while the socket is read."""
    heartbeat: int = 10
    """Between the heartbeats asked for. Databento's client gives a gateway up after 10 more seconds of silence."""
    waiting: int | None = None
    """Messages that may wait. Then the socket is not read, and the vendor waits too."""
    batch: int = 500
    """Websocket messages taken together at most."""
    gather: float = 0.02
    """During which Databento's records gather, so that many are taken together."""
    held: int = 2_000_000
    """Trades and quotes held at most while the replay of the one lags behind the replay of the other."""
    fetchers: int = 8
    """REST requests at the same time."""
    read: float | None = None
    """Within which REST must begin to answer."""
    tries: int = 8
    """How often a request is sent again where REST is busy."""
    longest_wait: float = 60.0
    """The longest pause that REST may ask for before a request is sent again."""
    rest_lag: float = 1.0
    """After which REST has all that had happened when the topics were confirmed."""
    window: int | None = None
    """Event time (ns) of one request for the gap."""
    rows: int = 500_000
    """Trades and quotes of one window at most. A window with more is fetched in shorter ones."""
    quoted: int | None = None
    """Contracts whose quotes are subscribed."""
    list_every: float | None = None
    """Between listings of an underlying's contracts."""
    horizon: float = 60.0
    settle_every: float = 10.0
    """Event time that the join of trades and quotes holds; see `quote_join.LiveJoin`."""

    def filled(self, **own: Any) -> Limits:
        """These limits, with a vendor's own values in place of None."""
        return replace(self, **{name: value for name, value in own.items() if getattr(self, name) is None})


DEFAULTS = Limits()
