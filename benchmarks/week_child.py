"""`python -m benchmarks.week_child PORT STORE [RATE SECONDS BURST ARRIVALS]`: `flowtape serve` on the week's store.

Its clock begins at the open of the session after the week. With RATE, a feed brings so many prints a second of the
busiest symbols for SECONDS, then BURST in one; the process then writes what arrived to the file ARRIVALS and a line of
JSON to its output.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.week import END, busiest
from flowtape.feeds.base import Delivery, Outlet
from flowtape.model.prints import conform
from flowtape.server import service
from flowtape.server.service import Ready, Sources
from flowtape.settings import Settings

SYMBOLS = 500
STEP = 0.02
EXPIRIES = 5
STRIKES = (50, 150)
"""Lowest and highest strike of the feed's contracts, in 5 USD."""


class At:
    """A clock that begins at the open of the session after the week."""

    def __init__(self) -> None:
        self._offset = END - time.monotonic_ns()

    def now_ns(self) -> int:
        """See `model.clock.Clock`."""
        return time.monotonic_ns() + self._offset


class Firehose:
    """Prints of the busiest symbols, five expiries from today on and two rights each, spread over the time they come.

    `arrived` holds, for each delivery, the monotonic second and the number of prints; the other lists hold, for each
    delivery, arrays of its prints' minute, symbol, right, expiry and strike.
    """

    source = name = "firehose"
    assets, symbols, always_open, ends = frozenset({"option"}), (), True, False

    def __init__(self, clock: At, names: list[str], rate: int, seconds: float, burst: int) -> None:
        self.rate, self.seconds, self.burst = rate, seconds, burst
        self.done = threading.Event()
        self.deepest = self.seq = self.steady = 0
        self.arrived: list[tuple[float, int]] = []
        self.columns: list[tuple[np.ndarray, ...]] = []
        self._clock, self._names = clock, pl.Series(names)
        self._chance = np.random.default_rng(1)

    def restore(self, standing: pl.DataFrame) -> None:
        """Nothing is kept."""

    def run(self, outlet: Outlet, cursor: str | None) -> None:
        """Deliver, then wait to be stopped."""
        began = time.monotonic()
        sent = 0
        while (passed := time.monotonic() - began) < self.seconds and not outlet.stop.is_set():
            many = int(passed * self.rate) - sent
            if many:
                self._put(outlet, many)
                sent += many
            outlet.stop.wait(STEP)
        self._wait(outlet)
        self.steady = sent
        for _ in range(50):
            self._put(outlet, self.burst // 50)
            outlet.stop.wait(STEP)
        self._wait(outlet)
        self.done.set()
        outlet.stop.wait()

    @staticmethod
    def _wait(outlet: Outlet) -> None:
        while outlet.live.queue_prints and not outlet.stop.is_set():  # type: ignore[attr-defined]
            outlet.stop.wait(STEP)

    def _put(self, outlet: Outlet, many: int) -> None:
        if many:
            prints = self._prints(many)
            self.arrived.append((time.monotonic(), many))
            outlet.put(Delivery(prints, str(self.seq)))
        self.deepest = max(self.deepest, outlet.live.queue_prints)  # type: ignore[attr-defined]

    def _prints(self, many: int) -> pl.DataFrame:
        chance, now = self._chance, self._clock.now_ns()
        # A few underlyings have most of the prints, as in any market.
        which = np.minimum(chance.pareto(1.0, many).astype(np.int64), len(self._names) - 1)
        middle = chance.integers(100, 100_000, many) * 100
        right, expiry = chance.integers(0, 2, many), chance.integers(0, EXPIRIES, many)
        strike = chance.integers(*STRIKES, many)
        self.columns.append((np.full(many, now // 60_000_000_000), which, right, expiry, strike))
        names = self._names[which]
        self.seq += many
        instant = pl.Series(np.full(many, now)).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC")
        return conform(
            pl.DataFrame(
                {
                    "ts": instant, "asset": ["option"] * many, "symbol": names, "root": names,
                    "expiry": pl.Series([expiry_of(number) for number in range(EXPIRIES)])[expiry],
                    "right": pl.Series(["C", "P"])[right], "strike": strike * 50_000,
                    "price": middle + chance.integers(-100, 101, many), "size": chance.integers(1, 20, many),
                    "bid": middle - 100, "ask": middle + 100, "condition": ["AUTO"] * many,
                    "venue": ["XCBO"] * many, "seq": np.arange(self.seq - many, self.seq), "quote_ts": instant,
                }
            )
        )  # fmt: skip


def expiry_of(number: int) -> date:
    """Return an expiry of the feed: today (by the week's clock) and the weeks after."""
    return datetime.fromtimestamp(END // 10**9, UTC).date() + timedelta(days=7 * number)


class Waits(service.Metrics):
    """How long each delivery had waited when answers had its prints, and how long commits took."""

    def __init__(self) -> None:
        super().__init__()
        self.shown_after: list[tuple[float, int]] = []
        self.commits: list[float] = []

    def published(self, source: str, sides: object, waits: Sequence[tuple[float, int]]) -> None:
        """See `supervisor.Listener`."""
        self.shown_after += waits

    def committed(self, seconds: float, prints: int) -> None:
        """See `supervisor.Listener`."""
        self.commits.append(seconds)


class Quiet:
    """Says nothing of how the server starts."""

    def listening(self, server: Ready) -> None:
        """See `service.Announcer`."""

    def loading(self, done: float) -> None:
        """See `service.Announcer`."""

    def ready(self, server: Ready) -> None:
        """See `service.Announcer`."""


def percentiles(values: Sequence[float], counts: Sequence[int] | None = None) -> dict[str, float]:
    """Return milliseconds; each value counts so many times."""
    array = np.repeat(values or [0.0], counts or 1) * 1000
    return {
        "p50": float(np.percentile(array, 50)),
        "p99": float(np.percentile(array, 99)),
        "max": float(array.max()),
    }


def _tell(feed: Firehose, waits: Waits, arrivals: Path) -> None:
    feed.done.wait()
    waited, many = zip(*waits.shown_after, strict=True)
    ends = np.cumsum(many)
    held = int(np.searchsorted(ends, feed.steady, "right"))
    parts = [
        percentiles(waited[start:end], many[start:end])
        for start, end in ((0, held // 5), (held - held // 5, held))
    ]
    minute, symbol, right, expiry, strike = map(np.concatenate, zip(*feed.columns, strict=True))
    moments = np.repeat([at for at, _ in feed.arrived], [many for _, many in feed.arrived])
    told = {
        "shown": percentiles(waited[:held], many[:held]), "burst": percentiles(waited[held:], many[held:]),
        "first": parts[0], "last": parts[1], "commit": percentiles(waits.commits), "prints": feed.seq,
        "deepest": feed.deepest, "cpu": time.process_time(),
    }  # fmt: skip
    print(json.dumps(told), flush=True)
    part = arrivals.with_suffix(".part.npz")
    np.savez(part, at=moments, minute=minute, symbol=symbol, right=right, expiry=expiry, strike=strike)
    # The file stands for the end: whole, and after the line.
    part.rename(arrivals)


def main() -> None:
    port, store, *load = sys.argv[1:]
    clock = At()
    service.SystemClock = lambda: clock  # type: ignore[assignment,misc]
    if load:
        rate, seconds, burst, arrivals = load
        names = busiest(Path(store), SYMBOLS)
        feed, waits = Firehose(clock, names, int(rate), float(seconds), int(burst)), Waits()
        service.open_feeds = lambda *_: [feed]  # type: ignore[assignment]
        service.Metrics = lambda: waits  # type: ignore[assignment,misc]
        threading.Thread(target=_tell, args=(feed, waits, Path(arrivals)), daemon=True).start()
    settings = Settings(store=store, port=int(port), streams_per_key=None)
    service.serve(settings, Sources(), Quiet())


if __name__ == "__main__":
    main()
