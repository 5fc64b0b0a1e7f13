"""The live join gives one result in any order of arrival, over restarts, in bounded memory."""

import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtape.errors import FeedError, UsageError
from flowtape.feeds.quote_join import LiveJoin
from flowtape.model.prints import QuoteClass, Timestamp
from flowtape.orderflow.quotes import STANDING

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND
QUOTE = ["bid", "ask", "bid_size", "ask_size", "quote_ts"]


def at(seconds):
    return T0 + round(seconds * SECOND)


def quotes(*rows):
    """Return quotes from rows of instrument, seconds, seq, bid."""
    full = [(name, at(ts), seq, bid, bid and bid + 100, 1, 2) for name, ts, seq, bid in rows]
    return pl.DataFrame(full, schema=STANDING, orient="row")


def trades(*rows):
    """Return a frame of trades. Each row gives an instrument, a time in seconds and a sequence number."""
    full = [(name, at(ts), number) for name, ts, number in rows]
    frame = pl.DataFrame(
        full, schema={"instrument": pl.String, "ts": pl.Int64, "number": pl.Int64}, orient="row"
    )
    return frame.with_columns(pl.col("ts").cast(Timestamp))


def said(frame):
    """Return the number, bid and quote second of prints."""
    ts = frame["quote_ts"].to_physical()
    return [
        (number, bid, None if quote is None else (quote - T0) / SECOND)
        for number, bid, quote in zip(frame["number"], frame["bid"], ts, strict=True)
    ]


def test_a_quote_counts_only_strictly_before_the_trade():
    join = LiveJoin()
    join.add_quotes(quotes(("A", 1, 0, 100), ("A", 2, 0, 200), ("B", 1.5, 0, 300)))
    join.add_trades(trades(("A", 2, 1), ("A", 1, 2), ("A", 2.000000001, 3), ("C", 9, 4)))
    given_ = join.due()
    assert said(given_) == [(1, 100, 1), (2, None, None), (3, 200, 2), (4, None, None)]
    assert dict(given_.schema) == {
        "instrument": pl.String,
        "ts": Timestamp,
        "number": pl.Int64,
        "quote_ts": Timestamp,
        **dict.fromkeys(QUOTE[:4], pl.Int64),
        "quote_seq": pl.Int64,
        "quote_class": QuoteClass,
    }
    assert join.due().schema == given_.schema
    assert join.due().is_empty()


def test_before_any_data_nothing_is_due():
    join = LiveJoin()
    join.add_quotes(quotes())
    join.add_trades(trades())
    join.restore(quotes())
    assert join.due().is_empty()
    assert set(QUOTE) < set(join.due().columns)
    assert join.advance() is None
    assert join.floor is None


def test_a_late_quote_updates_only_later_trades():
    join = LiveJoin()
    join.add_quotes(quotes(("A", 1, 0, 100), ("A", 5, 0, 500)))
    join.add_trades(trades(("A", 2, 1), ("A", 3, 2), ("A", 4, 3), ("A", 6, 4), ("B", 4, 5)))
    assert len(join.due()) == 5
    join.add_quotes(quotes(("A", 3, 0, 300)))
    assert said(join.due()) == [(3, 300, 3)]
    join.add_quotes(quotes(("A", 3, 0, 300), ("A", 2.5, 0, 250), ("A", 0, 0, 1)))
    assert said(join.due()) == [(2, 250, 2.5)]
    join.add_quotes(quotes(("B", 3, 0, None)))
    assert said(join.due()) == [(5, None, 3)]


@pytest.mark.parametrize("order", [(3, 1, 2), (1, 2, 3), (2, 3, 1)])
@pytest.mark.parametrize("together", [True, False])
def test_of_simultaneous_quotes_the_highest_number_wins(order, together):
    join = LiveJoin()
    rows = [("A", 1, seq, 100 * seq) for seq in order]
    join.add_trades(trades(("A", 2, 1)))
    last = said(join.due())
    for batch in [rows] if together else [[row] for row in rows]:
        join.add_quotes(quotes(*batch))
        last = said(join.due()) or last
    assert last == [(1, 300, 1)]
    join.add_trades(trades(("A", 2, 2)))
    assert said(join.due()) == [(2, 300, 1)]


@pytest.mark.parametrize("bids", [(100, 200), (200, 100), (None, 200), (200, None)])
def test_equal_quote_times_and_numbers_join_in_any_order(bids):
    join = LiveJoin()
    join.add_trades(trades(("A", 2, 1)))
    given_ = []
    for bid in bids:
        join.add_quotes(quotes(("A", 1, 7, bid)))
        given_ += said(join.due())
    assert given_[-1] == (1, 200, 1)


def test_advance_returns_the_changed_quotes():
    join = LiveJoin(horizon=10, advance_every=5)
    join.add_quotes(quotes(("A", 0, 0, 100), ("A", 1, 0, 200), ("B", 2, 0, 300)))
    assert join.floor == at(-10)
    assert join.advance() is None
    join.add_quotes(quotes(("A", 5, 0, 500)))
    assert join.advance() is None
    join.add_trades(trades(("C", 13, 1)))
    first = join.advance()
    assert first.sort("instrument").equals(quotes(("A", 1, 0, 200), ("B", 2, 0, 300)))
    assert first.schema == STANDING
    assert join.floor == at(3)
    join.add_trades(trades(("A", 18, 2)))
    assert join.advance() is None
    join.add_trades(trades(("A", 18.5, 3)))
    assert join.advance().equals(quotes(("A", 5, 0, 500)))
    assert join.floor == at(8.5)
    join.add_trades(trades(("B", 40, 4), ("A", 31, 5)))
    changed = join.advance()
    assert changed.is_empty()
    assert changed.schema == STANDING
    assert said(join.due()) == [(1, None, None), (2, 500, 5), (3, 500, 5), (4, 300, 2), (5, 500, 5)]


def test_advance_drops_old_rows_but_keeps_due_trades():
    join = LiveJoin(horizon=10, advance_every=0)
    join.add_trades(trades(*[("A", second, second) for second in range(100)]))
    join.add_quotes(quotes(*[("A", second, 0, second) for second in range(100)]))
    assert join.advance().equals(quotes(("A", 88, 0, 88)))
    final = {number: bid for number, bid, _ in said(join.due())}
    assert final == {0: None, **{second: second - 1 for second in range(1, 100)}}
    assert sum(len(held) for held in join._quotes) == 11
    assert sum(len(block.known) for block in join._blocks) == 11
    assert sum(len(block.trades) for block in join._blocks) == 11


def test_rows_that_arrive_too_late_are_counted():
    join = LiveJoin(horizon=10, advance_every=0)
    join.add_quotes(quotes(("A", 5, 0, 500), ("A", 50, 0, 5000)))
    join.advance()
    assert join.floor == at(40)
    join.add_quotes(quotes(("A", 4, 0, 400), ("A", 4.5, 0, 450), ("A", 45, 0, 4500)))
    assert (join.late, join.late_trades) == (2, 0)
    join.add_quotes(quotes(("A", 5, 0, 500), ("B", 30, 0, 300)))
    assert join.late == 2, "a repeat, and the first of an instrument"
    join.add_trades(trades(("A", 4.7, 1), ("A", 5, 2), ("A", 6, 3), ("C", 6, 4), ("B", 44, 5)))
    expected = [(1, None, None), (2, None, None), (3, 500, 5), (4, None, None), (5, 300, 30)]
    assert said(join.due()) == expected
    assert (join.late, join.late_trades) == (2, 2)
    join.add_quotes(quotes(("B", 51, 0, 1)))
    assert join.advance().equals(quotes(("B", 30, 0, 300)))


def test_old_quotes_at_the_start_are_used():
    join = LiveJoin(horizon=10, advance_every=5)
    join.add_trades(trades(("A", 3600, 1)))
    join.add_quotes(quotes(("A", 7, 0, 700), ("A", 3, 0, 300)))
    assert said(join.due()) == [(1, 700, 7)]
    assert join.advance().equals(quotes(("A", 7, 0, 700)))
    assert (join.floor, join.late) == (at(3590), 0)


def test_a_restored_quote_is_used_and_not_returned_again():
    join = LiveJoin(horizon=10, advance_every=0)
    join.restore(quotes(("A", 1, 0, 100), ("A", 3, 0, 300), ("A", 3, 1, 310), ("B", 2, 0, 200)))
    assert join.floor is None
    join.add_trades(trades(("A", 5, 1), ("B", 5, 2)))
    assert said(join.due()) == [(1, 310, 3), (2, 200, 2)]
    assert join.floor == at(3) + 1, "nothing before the restored quotes is needed again"
    join.add_quotes(quotes(("B", 6, 0, 600), ("B", 20, 0, 700)))
    assert join.advance().equals(quotes(("B", 6, 0, 600)))


def test_returned_frames_do_not_change_later():
    join = LiveJoin()
    join.add_trades(trades(("A", 2, 1), ("A", 3, 2)))
    first = join.due()
    join.add_quotes(quotes(("A", 1, 0, 100)))
    second = join.due()
    join.add_quotes(quotes(("A", 1.5, 0, 150)))
    assert said(join.due()) == [(1, 150, 1.5), (2, 150, 1.5)]
    assert said(second) == [(1, 100, 1), (2, 100, 1)]
    assert said(first) == [(1, None, None), (2, None, None)]


@pytest.mark.parametrize("name", ["instrument", "ts"])
def test_a_row_without_instrument_or_time_is_an_error(name):
    lacking = pl.when(pl.int_range(pl.len()) != 1).then(pl.col(name)).alias(name)
    with pytest.raises(FeedError, match=f"quotes: row 1 has no {name}"):
        LiveJoin().add_quotes(quotes(("A", 1, 0, 1), ("A", 2, 0, 1)).with_columns(lacking))
    with pytest.raises(FeedError, match=f"trades: row 1 has no {name}"):
        LiveJoin().add_trades(trades(("A", 1, 0), ("A", 2, 0)).with_columns(lacking))


@pytest.mark.parametrize("argument", ["horizon", "advance_every"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_an_invalid_duration_is_refused(argument, value):
    with pytest.raises(UsageError, match=f"{argument} is {value}"):
        LiveJoin(**{argument: value})


HORIZON = 4


def arrivals(rng, rows):
    """Return batches of rows (kind, instrument, second, number, bid), late by less than the horizon, some twice."""
    late = [
        (row[2] + rng.uniform(0, HORIZON * 0.99), row) for row in rows for _ in range(rng.choice((1, 1, 2)))
    ]
    order = [row for _, row in sorted(late, key=lambda pair: pair[0])]
    while order:
        size = rng.randint(1, 12)
        yield order[:size]
        order = order[size:]


def feed(join, batch):
    for kind in ("quote", "trade"):
        chosen = [row[1:] for row in batch if row[0] == kind]
        if kind == "quote":
            join.add_quotes(quotes(*chosen))
        else:
            join.add_trades(trades(*[row[:3] for row in chosen]))


def run(join, rng, batches, given_, kept, until=None):
    """Feed batches, and store deliveries with their cursor, as the caller of a feed does."""
    cursor = None
    for index, batch in enumerate(batches):
        if index == until:
            break
        feed(join, batch)
        if rng.random() < 0.7:
            standing = join.advance() if rng.random() < 0.7 else None
            given_.append(join.due())
            if standing is not None:
                kept.append(standing)
            cursor = join.floor
    if until is None:
        given_.append(join.due())
    return cursor


def final_quotes(given_):
    """Return each trade's copy with the latest `quote_ts`; of equal ones, the later copy."""
    final = {}
    for frame in given_:
        for number, bid, second in said(frame) if len(frame) else ():
            before = final.get(number, (None, None))
            if before[1] is None or (second is not None and second >= before[1]):
                final[number] = (bid, second)
    return final


def brute_force(rows):
    answer = {}
    for kind, name, second, number, _ in rows:
        if kind == "trade":
            before = [
                (row[2], row[3], row[4])
                for row in rows
                if row[0] == "quote" and row[1] == name and row[2] < second
            ]
            answer[number] = max(before, default=(None, None, None))[::2]
    return answer


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    many=st.integers(1, 80),
    span=st.sampled_from([1, 8, 60]),
    restarts=st.integers(0, 3),
)
def test_final_quotes_do_not_depend_on_order_or_restarts(seed, many, span, restarts):
    rng = random.Random(seed)
    rows = []
    for number in range(many):
        kind, second = rng.choice(("quote", "trade")), rng.randint(0, span * 4) / 4
        rows.append((kind, rng.choice("ABC"), second, number, rng.randint(1, 9) * 100))
    given_, kept, cursor = [], [], None
    advance_every = rng.choice((0, 2))
    joins = []
    for restart in range(restarts + 1):
        join = LiveJoin(HORIZON, advance_every)
        if kept:
            join.restore(pl.concat(kept))
        rest = [row for row in rows if cursor is None or at(row[2]) >= cursor]
        batches = list(arrivals(rng, rest))
        until = rng.randint(0, len(batches)) if restart < restarts else None
        reached = run(join, rng, batches, given_, kept, until)
        cursor = cursor if reached is None else reached
        joins.append(join)
    expected = brute_force(rows)
    assert final_quotes(given_) == {number: (bid, second) for number, (second, bid) in expected.items()}
    assert [(join.late, join.late_trades) for join in joins] == [(0, 0)] * len(joins)


def test_the_join_holds_bounded_memory():
    rng = random.Random(5)
    join = LiveJoin(horizon=2, advance_every=1)
    most = 0
    for step in range(200):
        second = step / 10
        feed(join, [("quote", rng.choice("ABC"), second, n, 100) for n in range(10)])
        feed(join, [("trade", rng.choice("ABC"), second, step * 10 + n, None) for n in range(10)])
        join.due()
        join.advance()
        most = max(most, sum(map(len, join._quotes)), sum(len(block.known) for block in join._blocks))
    assert most <= 10 * 10 * 3 + 20
    assert len(join._quotes) < 8


def test_one_invalid_time_makes_no_row_late():
    now = at(100)
    join = LiveJoin(horizon=10, advance_every=5, now=lambda: now)
    join.add_quotes(quotes(("A", 90_000, 0, 9)))
    assert join.floor == at(90), "what it goes on from, too"
    join.add_quotes(quotes(("A", 95, 0, 100), ("A", 97, 0, 200)))
    join.add_trades(trades(("B", 80_000, 1), ("A", 96, 2), ("A", 99, 3)))
    join.advance()
    join.add_quotes(quotes(("A", 98, 0, 300)))
    final = {number: bid for number, bid, _ in said(join.due())}
    assert final == {1: None, 2: 100, 3: 300}
    assert (join.late, join.floor <= at(90)) == (0, True)
