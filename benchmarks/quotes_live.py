"""Quotes and trades as a live feed brings them: through the join alone, and through a whole line of a vendor."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl

from benchmarks import quotes_data as data
from benchmarks.scale import ROOT
from flowtape.feeds.base import Delivery
from flowtape.feeds.databento.session import RECORDS
from flowtape.feeds.limits import DEFAULTS
from flowtape.feeds.quote_join import LiveJoin
from flowtape.orderflow.quotes import STANDING

HELD = 70
"""Seconds that a join holds at most: its horizon and the time between advances of its floor."""
JITTER = 5e6
"""Quotes arrive up to so much (ns) later than their time says, and so after trades that they belong to."""
SECOND = 10**9
QUOTE = ("bid", "ask", "bid_size", "ask_size", "quote_ts")


class Join(Protocol):
    """What both ways offer."""

    def add_quotes(self, quotes: pl.DataFrame) -> None: ...
    def add_trades(self, trades: pl.DataFrame) -> None: ...
    def due(self) -> pl.DataFrame: ...
    def advance(self) -> pl.DataFrame | None: ...


class ByHand:
    """The join one would write: a batch's trades against the last quote of each instrument and the batch's own. Trades
    are given once; a quote that comes after them is too late."""

    def __init__(self) -> None:
        self._last = pl.DataFrame(schema=STANDING)
        self._quotes: list[pl.DataFrame] = []
        self._trades: list[pl.DataFrame] = []

    def add_quotes(self, quotes: pl.DataFrame) -> None:
        self._quotes.append(quotes)

    def add_trades(self, trades: pl.DataFrame) -> None:
        self._trades.append(trades)

    def due(self) -> pl.DataFrame:
        known = pl.concat([self._last, *self._quotes]).sort("ts", maintain_order=True)
        given = pl.concat(self._trades)
        given = given.join_asof(
            known.drop("seq").rename({"ts": "quote_ts"}).with_columns(pl.col("quote_ts").cast(data.Timestamp)),
            left_on="ts", right_on="quote_ts", by="instrument", allow_exact_matches=False, coalesce=False,
            check_sortedness=False,
        )  # fmt: skip
        self._last = known.unique("instrument", keep="last", maintain_order=True)
        self._quotes, self._trades = [], []
        return given

    def advance(self) -> None:
        return None


class Second:
    """One second of a feed, given again and again, each time a second later."""

    def __init__(self, rate: int, ratio: int, jitter: float = JITTER) -> None:
        many = max(1, rate // ratio)
        names, draw = data.instruments(), np.random.default_rng(3)
        quotes, trades = data.quotes(rate, rate), data.trades(many, many)
        self._quotes, self._trades = (
            # The times drawn reach a second on average; a row after it belongs to the next.
            frame.with_columns(
                names[frame["contract"]], ts=(frame["ts"].to_physical() - data.START) % SECOND
            ).drop("contract").sort("ts")
            for frame in (quotes, trades)
        )  # fmt: skip
        arrival = np.minimum(self._quotes["ts"] + draw.integers(0, int(jitter) + 1, rate), SECOND - 1)
        order = np.argsort(arrival, kind="stable")
        self._quotes = self._quotes[order]
        self._arrivals = np.asarray(arrival)[order], self._trades["ts"].to_numpy()

    def part(self, start: float, end: float) -> tuple[pl.DataFrame, pl.DataFrame]:
        """What arrives from `start` to `end`, in seconds, of one second."""
        whole = int(np.floor(start + 1e-9))
        low, high = round((start - whole) * SECOND), round((end - whole) * SECOND)
        frames = []
        for frame, arrivals in zip((self._quotes, self._trades), self._arrivals, strict=True):
            first, last = np.searchsorted(arrivals, [low, high])
            frames.append(frame[first:last].with_columns(pl.col("ts") + data.START + whole * SECOND))
        quotes, trades = frames
        quotes = quotes.with_columns(seq=pl.int_range(pl.len())).select(*STANDING)
        return quotes, trades.with_columns(pl.col("ts").cast(data.Timestamp))


def resident() -> int:
    """Bytes of this process in memory now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def steps(second: Second, rate: int, seconds: float, took: list[float]) -> Iterator[tuple[float, float]]:
    """From when to when each batch is: what has come while the one before was worked on, so many seconds of processor,
    or in the feed's gathering time; never more than may wait, nor over the end of a second."""
    now = taken = 0.0
    while taken < seconds:
        until = min(max(now, taken + DEFAULTS.gather), taken + RECORDS / rate, np.floor(taken + 1e-9) + 1)
        yield taken, until
        now = max(now, until) + took[-1]
        taken = until


def live(way: str, rate: str, ratio: str, seconds: str) -> dict[str, float]:
    """How a join fares at so many quotes a second once it holds all that it ever holds. One core."""
    join: Join = LiveJoin() if way == "flowtape" else ByHand()
    second, many = Second(int(rate), int(ratio)), int(rate)
    # Every instrument has a quote that stands.
    names = data.instruments()
    join.add_quotes(
        pl.DataFrame(
            {"instrument": names, **{name: np.arange(len(names)) for name in list(STANDING)[1:]}}
        ).with_columns(ts=pl.lit(data.START - 80 * SECOND, pl.Int64)).select(*STANDING)
    )  # fmt: skip
    first = -HELD if way == "flowtape" else -5
    for place in range(first, 0):
        batch = second.part(place, place + 1)
        # Of trades those matter that late quotes may still be before.
        _step(join, batch[0], batch[1] if place > -5 else batch[1].clear())
    took: list[float] = []
    waited: list[float] = []
    now = 0.0
    for start, end in steps(second, many, float(seconds), took):
        batch = second.part(start, end)
        began = time.process_time()
        _step(join, *batch)
        took.append(time.process_time() - began)
        now = max(now, end) + took[-1]
        waited.append(now - start)
    return {
        "rate": many * end / now, "busy": sum(took) / now, "batch": many * end / len(took),
        "p50": float(np.median(waited)), "worst": max(waited),
    }  # fmt: skip


def _step(join: Join, quotes: pl.DataFrame, trades: pl.DataFrame) -> pl.DataFrame:
    join.add_quotes(quotes)
    join.add_trades(trades)
    given = join.due()
    join.advance()
    return given


def holding(rate: str) -> dict[str, float]:
    """Memory of the quotes that a join holds, for each of them."""
    join, second = LiveJoin(), Second(int(rate), 1_000)
    before = resident()
    for place in range(-HELD, 0):
        join.add_quotes(second.part(place, place + 1)[0])
        join.due()
    return {"bytes": (resident() - before) / (int(rate) * HELD)}


def standing(many: str) -> dict[str, float]:
    """Memory of instruments whose quote stands, and nothing else."""
    join = LiveJoin()
    frame = pl.DataFrame(
        {"instrument": data.instruments(int(many)), **{name: np.arange(int(many)) for name in list(STANDING)[1:]}}
    ).with_columns(pl.col("ts") + data.START)  # fmt: skip
    before = resident()
    join.restore(frame)
    return {"bytes": (resident() - before) / int(many)}


def agree() -> None:
    """Stop unless both ways give the same quotes where all come in order."""
    second = Second(20_000, 10, jitter=0)
    ways: list[Join] = [LiveJoin(), ByHand()]
    for place in np.arange(0, 3, 0.25):
        ours, others = (_step(way, *second.part(place, place + 0.25)).select("instrument", "ts", "price", *QUOTE)
                        for way in ways)  # fmt: skip
        if not ours.equals(others):
            raise AssertionError("the two ways to join a live feed give different quotes")


@dataclass
class Outlet:
    """Where a feed puts its prints, until the last (by its time, ns) has come."""

    stop: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    last: int = 0
    newest: int = 0

    def put(self, delivery: Delivery) -> None:
        """See `feeds.base.Outlet`."""
        self.begun.set()
        self.newest = max(self.newest, delivery.prints["ts"].to_physical().max() or 0)
        if self.last and self.newest >= self.last:
            self.done.set()

    def heard(self) -> None:
        """See `feeds.base.Outlet`."""

    def count(self, what: str, many: int = 1) -> None:
        """See `feeds.base.Outlet`."""
        raise AssertionError(f"{many} {what}")


def line(schema: str, records: str, ratio: str) -> dict[str, float]:
    """A whole line: the stand-in for the vendor's gateway in a process of its own, the vendor's client, records to
    frames, the join if there is one. Processor of this side alone."""
    from flowtape.feeds.databento.feed import databento
    from flowtape.feeds.specs import parse_spec

    os.environ["DATABENTO_API_KEY"] = "db-right-key-0123456789abcdefghi"
    command = [sys.executable, "-m", "standins.databento"]
    with subprocess.Popen(
        command, cwd=ROOT / "tests", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as gateway:
        # Not on the core that is measured.
        os.sched_setaffinity(gateway.pid, range(os.cpu_count() or 1))
        names = data.instruments(2_000)
        gateway.stdin.write(json.dumps(dict(enumerate(names, 1))) + "\n")
        gateway.stdin.flush()
        port = int(gateway.stdout.readline())
        spec = f"databento:OPRA.PILLAR?symbols=ALL_SYMBOLS&schema={schema}&gateway=127.0.0.1&port={port}"
        feed, outlet = databento(parse_spec(spec)), Outlet()
        thread = threading.Thread(target=feed.run, args=(outlet, None))
        thread.start()
        outlet.begun.wait(30)
        told = _sent(gateway, outlet, schema, int(records), int(ratio))
        outlet.stop.set()
        thread.join()
        gateway.kill()
    return told


def _sent(
    gateway: subprocess.Popen[str], outlet: Outlet, schema: str, many: int, ratio: int
) -> dict[str, float]:
    """Publish, and wait until every print has come out."""
    frame = (data.trades if schema == "tcbbo" else data.quotes)(many, 50_000, contracts=2_000)
    # Of about now: what is of another day is not taken.
    shift = time.time_ns() - data.START - 30 * SECOND
    frame = frame.with_columns((pl.col("ts").to_physical() + shift).cast(data.Timestamp))
    said = [json.dumps(["publish", kind, *parts]) + "\n" for kind, parts in _published(schema, frame, ratio)]
    outlet.last = frame["ts"].to_physical()[-1]
    threading.Thread(target=lambda: [gateway.stdout.readline() for _ in said], daemon=True).start()
    began, cpu = time.perf_counter(), time.process_time()
    gateway.stdin.writelines(said)
    gateway.stdin.flush()
    if not outlet.done.wait(120):
        raise AssertionError(f"the last print did not come: {outlet.newest} of {outlet.last}")
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - began, "records": many}


def _published(schema: str, frame: pl.DataFrame, ratio: int) -> Iterator[tuple[str, list[str]]]:
    """Records as text, so many together; after those of quotes a trade."""
    records = data.carried_records(frame) if schema == "tcbbo" else data.quote_records(frame)
    for start in range(0, frame.height, ratio):
        part = records[start : start + ratio]
        yield ("tcbbo" if schema == "tcbbo" else "cmbp-1"), [record.tobytes().hex() for record in part]
        if schema != "tcbbo":
            last = frame[[start + len(part) - 1]].with_columns(price=pl.col("bid"), size=pl.lit(1, pl.Int64))
            yield "trades", [data.trade_records(last).tobytes().hex()]
