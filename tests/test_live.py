"""Live prints: committed with their cursor, then published, through faults of store and feed."""

import itertools
import random
import threading
import time
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtape.cache.cache import Cache
from flowtape.errors import FeedError, StoreError, UsageError
from flowtape.feeds.base import Delivery
from flowtape.model.query import Query
from flowtape.orderflow.quotes import STANDING
from flowtape.pipeline.classification import classified
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.recent import RecentRows
from flowtape.pipeline.supervisor import Live, Waits
from flowtape.queries.flow_data import FlowData
from flowtape.server.flow import Flow
from serving import Clock
from stores import every_print, examples, until
from stores import make_store as open_store
from tapes import SECOND, T0, frame, row, rows
from test_ingestor import CUMULATIVE, LATER, MINUTE, from_store, from_window, points

NAMES = ("ts", "bid", "ask", "quote_ts")
LIMIT = 30


class Feed:
    """A scripted feed: each `run` follows the next script."""

    source, name, assets, symbols, always_open, ends = (
        "test",
        "test:x",
        frozenset({"option"}),
        (),
        True,
        False,
    )

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.cursors, self.restored = [], None

    def restore(self, standing):
        self.restored = standing

    def run(self, outlet, cursor):
        self.cursors.append(cursor)
        if self.scripts:
            self.scripts.pop(0)(outlet)
        else:
            outlet.stop.wait()


HURRIED = Waits(retry=0.01, first=0.01)


class Told:
    """A listener on which a test can wait."""

    def __init__(self):
        self.showings, self.commits = threading.Semaphore(0), threading.Semaphore(0)
        self.waits = []

    def published(self, source, sides, waits):
        self.waits.extend(waits)
        self.showings.release()

    def committed(self, seconds, prints):
        self.commits.release()


@pytest.fixture
def kept(tmp_path):
    store = open_store(tmp_path / "x.duckdb")
    window = Cache(store.catalog, LATER // MINUTE)
    yield Ingestor(store, window)
    store.close()


def running(ingestor, *feeds, **options):
    told = Told()
    live = Live(ingestor, feeds, Clock(T0), told, **options)
    live.start()
    return live, told


def put(*rows, cursor="1", standing=None):
    return lambda outlet: outlet.put(Delivery(frame(rows), cursor, standing))


def then_wait(*steps):
    def script(outlet):
        for step in steps:
            step(outlet)
        outlet.stop.wait()

    return script


def test_a_batch_is_in_store_and_cache_with_its_cursor(kept):
    kept.take(frame([row()]), "test", cursors={"test:x": "7"})
    assert from_window(kept.window, "SPY")[0]["tradeCount"] == 1
    assert from_store(kept.store, "SPY") == from_window(kept.window, "SPY")
    assert kept.store.cursor("test:x") == "7"


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("times", [(1, 5), (5, 5), (None, 5), (None, None)])
def test_the_better_quote_counts_in_any_order_of_copies(kept, together, times):
    one, other = (None if time is None else T0 - SECOND + time for time in times)
    copies = [row(bid=10_000, ask=11_000, quote_ts=one), row(bid=12_000, ask=13_000, quote_ts=other)]
    for part in [copies] if together else [copies[:1], copies[1:]]:
        kept.take(frame(part), "test")
    assert every_print(kept.store).select("bid", "ask").rows() == [(12_000, 13_000)]


@settings(max_examples=examples(5), deadline=None)
@given(rows(), st.randoms(use_true_random=False))
def test_batch_splits_do_not_change_the_store(tmp_path_factory, tape, chance):
    folder = tmp_path_factory.mktemp("live")
    whole, parts = open_store(folder / "a.duckdb"), open_store(folder / "b.duckdb")
    try:
        if tape:
            Ingestor(whole).take(frame(tape), "test")
        window = Cache(parts.catalog, LATER // MINUTE)
        ingestor = Ingestor(parts, window)
        shuffled = tape + tape[: len(tape) // 2]
        chance.shuffle(shuffled)
        for one in thirds(shuffled):
            ingestor.take(frame(one), "test")
        for symbol in ("SPY", "SPX"):
            assert from_store(parts, symbol) == from_store(whole, symbol) == from_window(window, symbol)
    finally:
        whole.close()
        parts.close()


def thirds(items):
    return [items[place : place + 3] for place in range(0, len(items), 3)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """An ingestor for many small tapes, each with its own symbol, since a store takes long to make."""
    store = open_store(tmp_path_factory.mktemp("amend") / "x.duckdb")
    yield Ingestor(store, Cache(store.catalog, LATER // MINUTE))
    store.close()


SYMBOLS = ("Q" + "".join(letters) for letters in itertools.product("ABCDEFGH", repeat=5))


@settings(max_examples=examples(20), deadline=None)
@given(
    st.lists(st.sampled_from([None, 1, 2, 3, 4]), min_size=1, max_size=6), st.randoms(use_true_random=False)
)
def test_the_latest_quote_counts_in_any_order(shared, quotes, chance):
    symbol = next(SYMBOLS)
    copies = [
        row(ts=T0 + 10 * SECOND, price=12_000, quote_ts=None if at is None else T0 + at * SECOND,
            bid=None if at is None else 10_000 + 1000 * at, ask=None if at is None else 10_200 + 1000 * at,
            symbol=symbol, root=symbol)
        for at in quotes
    ]  # fmt: skip
    best = max(copies, key=lambda one: one["quote_ts"] or 0)
    chance.shuffle(copies)
    while copies:
        some = chance.randint(1, len(copies))
        shared.take(frame(copies[:some]), "test")
        del copies[:some]
    (kept,) = every_print(shared.store).filter(pl.col("symbol") == symbol).to_dicts()
    assert [kept["bid"], kept["ask"]] == [best["bid"], best["ask"]]
    assert len(from_store(shared.store, symbol)) == 1
    assert from_window(shared.window, symbol) == from_store(shared.store, symbol)


def failing(store, monkeypatch, times):
    """Make the next commits of a store fail, as on a full disk."""
    real, left = type(store).set_cursor, [times]

    def set_cursor(self, source, position):
        if left[0]:
            left[0] -= 1
            raise StoreError("x.duckdb: no space left on device")
        real(self, source, position)

    monkeypatch.setattr(type(store), "set_cursor", set_cursor)


def test_a_failed_batch_is_neither_stored_nor_published(kept, monkeypatch):
    old, new = ([row(seq=seq, symbol=name, root=name)] for seq, name in enumerate(("OLD", "NEW")))
    failing(kept.store, monkeypatch, 1)
    with pytest.raises(StoreError):
        kept.take(frame(old), "test", cursors={"test:x": "1"})
    assert from_store(kept.store, "OLD") == from_window(kept.window, "OLD") == []
    for batch, cursor in ((new, "2"), (old, "1")):
        kept.take(frame(batch), "test", cursors={"test:x": cursor})
    for symbol in ("OLD", "NEW"):
        assert len(from_store(kept.store, symbol)) == 1
        assert from_store(kept.store, symbol) == from_window(kept.window, symbol)


def test_the_memory_of_recent_rows_finds_every_duplicate(kept):
    recent = RecentRows(kept.store, limit=20)
    tape = frame([row(seq=seq, ts=T0 + seq * SECOND) for seq in range(110)])
    for first in range(0, 100, 10):
        _, rows = kept.store.catalog.encode(classified(tape[: first + 20], None))
        with kept.store.transaction():
            assert recent.known(rows[first:]).is_empty()
        kept.take(tape[first : first + 10], "test")
        with kept.store.transaction():
            recent.add(rows[first : first + 10])
            for start in range(0, first + 10, 7):
                some = rows[start : min(start + 7, first + 10)]
                assert recent.known(some)["row"].sort().to_list() == list(range(some.height))


def test_feeds_are_committed_and_resumed_from_their_cursors(kept):
    standing = pl.DataFrame({name: ["X"] if name == "instrument" else [1] for name in STANDING}, STANDING)
    feed = Feed(then_wait(put(row(seq=1), cursor="5", standing=standing)))
    live, told = running(kept, feed)
    assert told.commits.acquire(timeout=LIMIT)
    live.stop()
    assert kept.store.cursor("test:x") == "5"
    again = Feed()
    live, _ = running(kept, again)
    live.stop()
    assert again.restored.equals(standing)
    assert again.cursors in ([], ["5"])


def test_a_broken_feed_resumes_after_its_last_delivery(kept):
    def breaks(outlet):
        put(row(seq=1), cursor="5")(outlet)
        raise FeedError("the line was cut")

    feed = Feed(breaks, then_wait(put(row(seq=1), row(seq=2), cursor="6")))
    live, told = running(kept, feed, waits=HURRIED)
    while from_window(kept.window, "SPY")[:1] == [] or from_window(kept.window, "SPY")[0]["tradeCount"] < 2:
        assert told.showings.acquire(timeout=LIMIT)
    live.stop()
    assert feed.cursors == [None, "5"]
    assert live.feeds()[0].reconnects == 1
    assert from_store(kept.store, "SPY")[0]["tradeCount"] == 2


def test_a_feed_with_a_wrong_key_is_not_retried(kept):
    def refused(outlet):
        raise UsageError("the key was refused")

    feed = Feed(refused)
    live, _ = running(kept, feed)
    live._threads[0].join(LIMIT)
    live.stop()
    assert feed.cursors == [None]
    assert not live.feeds()[0].connected


def test_a_burst_waits_in_a_bounded_queue(kept):
    most, seen = 50, []

    def burst(outlet):
        for number in range(400):
            put(row(seq=2 * number), row(seq=2 * number + 1), cursor=str(number))(outlet)
            seen.append(outlet.live.queue_prints)
        outlet.stop.wait()

    live, told = running(kept, Feed(burst), queue_limit=most)
    while not (points_now := from_window(kept.window, "SPY")) or points_now[0]["tradeCount"] < 800:
        assert told.showings.acquire(timeout=LIMIT)
    live.stop()
    assert max(seen) <= most
    assert from_store(kept.store, "SPY")[0]["tradeCount"] == 800


def test_stopping_commits_the_queue(kept):
    put_all = threading.Event()

    def burst(outlet):
        for number in range(50):
            put(row(seq=number), cursor=str(number))(outlet)
        put_all.set()
        outlet.stop.wait()

    live, _ = running(kept, Feed(burst))
    assert put_all.wait(LIMIT)
    live.stop()
    assert from_store(kept.store, "SPY")[0]["tradeCount"] == 50
    assert kept.store.cursor("test:x") == "49"


def test_no_print_is_lost_while_the_store_refuses(kept, monkeypatch):
    failing(kept.store, monkeypatch, 3)
    failed = threading.Event()
    live = Live(kept, [Feed(then_wait(put(row(seq=1))))], Clock(T0), told := Told(), waits=HURRIED)
    real = live._fail

    def fail(reason):
        real(reason)
        with pytest.raises(StoreError, match="no space left"):
            Flow(kept, kept.window, Clock(T0), live).check()
        failed.set()

    monkeypatch.setattr(live, "_fail", fail)
    live.start()
    assert failed.wait(LIMIT)
    assert told.commits.acquire(timeout=LIMIT)
    live.stop()
    assert live.failing is None
    assert from_store(kept.store, "SPY") == from_window(kept.window, "SPY")


def test_stopping_while_the_store_refuses_counts_lost_prints(kept, monkeypatch):
    failing(kept.store, monkeypatch, 10**9)

    def burst(outlet):
        number = 0
        while not outlet.stop.is_set():
            put(row(seq=number), cursor=str(number))(outlet)
            number += 1

    live, _ = running(kept, Feed(burst), queue_limit=10)
    until(lambda: live.failing is not None and live.queue_prints == 10)
    ending = threading.Thread(target=live.stop, daemon=True)
    began = time.process_time()
    ending.start()
    ending.join(LIMIT)
    assert not ending.is_alive()
    assert time.process_time() - began < LIMIT / 4
    assert live.lost >= 10
    with pytest.raises(
        StoreError, match=r"live prints could not be stored: x\.duckdb: no space left on device"
    ):
        live.raise_lost()
    assert kept.store.cursor("test:x") is None


OPEN = int(datetime(2026, 3, 6, 16, 0, tzinfo=UTC).timestamp()) * 10**9
SHUT = int(datetime(2026, 3, 7, 16, 0, tzinfo=UTC).timestamp()) * 10**9


def test_silence_counts_only_while_the_market_is_open(kept):
    class Watched(Feed):
        always_open = False
        symbols = ("SPY",)

    spoken, go = threading.Event(), threading.Event()

    def silent_then_speaks(outlet):
        go.wait(LIMIT)
        outlet.heard()
        spoken.set()
        outlet.stop.wait()

    clock = Clock(OPEN)
    live = Live(kept, [Watched(silent_then_speaks)], clock)
    flow = Flow(kept, kept.window, clock, live, silence_limit=0.2)
    live.start()
    assert live.silent_for("stock", OPEN) is None
    while live.silent_for("option", OPEN) <= 0.2:
        pass
    with pytest.raises(FeedError):
        flow.check("option")
    flow.check("stock")
    clock.now = SHUT
    flow.check("option")
    clock.now = OPEN
    go.set()
    assert spoken.wait(LIMIT)
    flow.check("option")
    live.stop()
    flow.close()


def test_a_clock_set_back_reloads_the_cache(kept):
    kept.take(frame([row(seq=1)]), "test")
    clock = Clock(T0 + MINUTE)
    flow = Flow(kept, kept.window, clock)
    # A jump of a month ahead, after which the cache drops what is too old.
    kept.window.advance(clock.now // MINUTE + 40_000)
    far = T0 + 40_000 * MINUTE
    kept.take(frame([row(seq=number, ts=far + number * MINUTE) for number in range(400)]), "test")
    flow.check_clock()
    query = Query(symbol="SPY")
    totals = FlowData(kept.store, kept.window, clock.now).totals(
        query, T0 // MINUTE - 10, T0 // MINUTE + 1, CUMULATIVE
    )
    assert points(totals)[0]["tradeCount"] == 1
    found = kept.window.of("option").view().cross_section(T0 // MINUTE - 10, T0 // MINUTE + 1)
    assert found.sums["trades"].tolist() == [1]
    flow.close()


def test_store_faults_do_not_change_the_result(kept, monkeypatch):
    chance = random.Random(4)
    real = type(kept.store).append_bars

    def append_bars(self, bars):
        if chance.random() < 0.3:
            raise StoreError("x.duckdb: cannot write")
        real(self, bars)

    monkeypatch.setattr(type(kept.store), "append_bars", append_bars)
    for number in range(60):
        while True:
            try:
                one = frame([row(seq=number, ts=T0 + number * SECOND)])
                kept.take(one, "test", cursors={"test:x": str(number)})
                break
            except StoreError:
                continue
    assert from_store(kept.store, "SPY") == from_window(kept.window, "SPY")
    assert sum(point["tradeCount"] for point in from_store(kept.store, "SPY")) == 60
