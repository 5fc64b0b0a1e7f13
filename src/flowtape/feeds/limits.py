"""The timeouts and sizes of a live connection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Limits:
    """The timeouts (seconds) and sizes of a live connection. None means the vendor's own value."""

    open: float = 15.0
    """The time limit for authentication. The confirmation of all topics has twice as long."""
    close: float = 0.5
    """The time limit for the vendor's part of the closing handshake."""
    ping_every: float = 10.0
    pong: float = 20.0
    """The time limit for the answer to a ping, while the socket is read."""
    heartbeat: int = 10
    """The requested interval of heartbeats. Databento's client gives up after 10 further seconds of silence."""
    waiting: int | None = None
    """The largest number of queued messages. Beyond it the socket is not read, so the vendor waits too."""
    batch: int = 500
    """The largest number of websocket messages processed together."""
    gather: float = 0.02
    """The time to collect Databento's records, so that many are processed together."""
    held: int = 2_000_000
    """The largest number of trades and quotes held while one replay lags behind the other."""
    fetchers: int = 8
    """The number of concurrent REST requests."""
    read: float | None = None
    """The time limit for the first byte of a REST answer."""
    tries: int = 8
    """The number of retries of a request while REST is busy."""
    longest_wait: float = 60.0
    """The longest pause that REST may demand before a retry."""
    rest_lag: float = 1.0
    """The delay after which REST has everything that happened before the topics were confirmed."""
    window: int | None = None
    """The event time (ns) of one request for the gap."""
    rows: int = 500_000
    """The largest number of trades and quotes of one window. A larger window is fetched in shorter ones."""
    quoted: int | None = None
    """The number of contracts whose quotes are subscribed."""
    list_every: float | None = None
    """The interval between listings of an underlying's contracts."""
    horizon: float = 60.0
    advance_every: float = 10.0
    """The event time between advances of the join's floor; see `quote_join.LiveJoin`."""

    def filled(self, **own: Any) -> Limits:
        """Return these limits with a vendor's own values in place of None."""
        return replace(self, **{name: value for name, value in own.items() if getattr(self, name) is None})


DEFAULTS = Limits()
