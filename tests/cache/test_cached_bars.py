"""Minute bars in memory: reads after changes."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from plain_bars import Bar, Key, Oracle, bar, frame, keys, names

from flowtape.cache.minute_bars import MinuteBars
from flowtape.orderflow.minute_bars import NS_PER_MINUTE, SUMS

M = 29_000_000
"""A minute; the UTC day begins 800 minutes later."""
SPY, QQQ = 3, 7
CALL, PUT, NONE = 0, 1, 2
FIVE = [
    (1, 10_000, 10, "buy"),
    (2, 10_100, 40, "sell"),
    (2, 9_900, 40, "mid"),
    (3, 10_000, 5, "buy"),
    (59_000_000_000, 10_050, 1, "buy"),
]


def small(oldest: int = M - 5000, *, stock: bool = False) -> MinuteBars:
    """Minute bars that merge their blocks after a few rows."""
    return MinuteBars(oldest, edges=stock, small=4, tail=6, log=20)


def test_a_bar_of_five_prints_reads_back() -> None:
    bars = small()
    made = bar(FIVE, M)
    bars.change(frame([((SPY, CALL, M), made)]))
    line = bars.view().line(SPY, M, M + 1, names(stock=False))
    assert line.minute.tolist() == [M]
    assert {name: values.item() for name, values in line.values.items()} == made
    assert line.as_of == M * NS_PER_MINUTE + 59_000_000_000
    assert made["buy_volume"] == 16
    assert made["biggest_ts"] == M * NS_PER_MINUTE + 2


def test_call_and_put_of_a_minute_add_up() -> None:
    bars = small()
    bars.change(frame([((SPY, CALL, M), bar(FIVE, M)), ((SPY, PUT, M), bar(FIVE[:1], M))]))
    both = bars.view().line(SPY, M, M + 1, ("trades",)).values["trades"]
    rights = [
        bars.view().line(SPY, M, M + 1, ("trades",), right).values["trades"].item() for right in (CALL, PUT)
    ]
    assert (both.tolist(), rights) == ([6], [5, 1])


def test_a_cancel_lowers_the_largest_print_again() -> None:
    bars = small()
    bars.change(frame([((SPY, CALL, M), bar(FIVE, M))]))
    bars.change(frame([]), keys([(SPY, CALL, M)]), frame([((SPY, CALL, M), bar(FIVE[3:], M))]))
    found = bars.view().line(SPY, M, M + 1, ("biggest", "sell_volume", "high"))
    assert [values.item() for values in found.values.values()] == [5, 0, 10_050]


def test_a_print_after_a_cancel_counts() -> None:
    bars = small()
    bars.change(frame([((SPY, CALL, M), bar(FIVE, M))]))
    bars.change(frame([]), keys([(SPY, CALL, M)]), frame([]))
    bars.change(frame([((SPY, CALL, M), bar(FIVE[:1], M))]))
    found = bars.view().line(SPY, M, M + 1, ("biggest", "trades"))
    assert [values.item() for values in found.values.values()] == [10, 1]


def test_a_bar_without_prints_is_gone() -> None:
    bars = small()
    bars.change(frame([((SPY, CALL, M), bar(FIVE, M))]))
    bars.change(frame([]), keys([(SPY, CALL, M)]), frame([]))
    assert len(bars.view().line(SPY, M, M + 1, ("trades",)).minute) == 0
    assert bars.newest(SPY) is None
    assert len(bars.view().cross_section(M, M + 1).symbols) == 0


def test_a_reader_keeps_its_view() -> None:
    bars = small()
    bars.change(frame([((SPY, CALL, M), bar(FIVE, M))]))
    view = bars.view()
    bars.change(frame([]), keys([(SPY, CALL, M)]), frame([]))
    assert view.line(SPY, M, M + 1, ("trades",)).values["trades"].tolist() == [5]


def test_loading_shows_the_old_bars_until_done() -> None:
    bars = small()
    bars.change(frame([((SPY, CALL, M), bar(FIVE, M))]))
    seen: list[Any] = []

    def parts() -> Any:
        yield frame([((QQQ, CALL, M), bar(FIVE, M))])
        seen.extend(bars.view().cross_section(M, M + 1).symbols.tolist())
        yield frame([((QQQ, CALL, M + 1440), bar(FIVE, M + 1440))])

    before = bars.symbol_version(SPY)
    bars.load(parts())
    assert seen == [SPY]
    assert bars.view().cross_section(M, M + 2000).symbols.tolist() == [QQQ]
    assert bars.symbol_version(SPY) > before
    assert bars.changed_since(SPY, before) is None


def test_changed_minutes_of_a_symbol_are_reported() -> None:
    bars = small()
    told: list[tuple[list[int], list[int]]] = []
    bars.listeners.append(lambda symbols, minutes: told.append((symbols.tolist(), minutes.tolist())))
    bars.change(frame([((SPY, CALL, M), bar(FIVE, M)), ((SPY, PUT, M), bar(FIVE, M))]))
    version = bars.symbol_version(SPY)
    bars.change(frame([((QQQ, CALL, M), bar(FIVE, M)), ((SPY, PUT, M + 2), bar(FIVE, M + 2))]))
    assert told == [([SPY], [M]), ([SPY, QQQ], [M + 2, M])]
    changed = bars.changed_since(SPY, version)
    assert changed is not None
    assert changed.tolist() == [M + 2]


def test_changes_beyond_the_log_are_unknown() -> None:
    bars = small()
    for place in range(30):
        bars.change(frame([((QQQ, CALL, M + place), bar(FIVE, M + place))]))
    assert bars.changed_since(SPY, 1) is None
    assert bars.changed_since(SPY, 29) is not None


def test_readers_see_whole_changes_while_bars_are_merged() -> None:
    bars = small()
    wrong: list[Any] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            found = bars.view().cross_section(M, M + 60)
            calls, puts = found.of(CALL)["trades"], found.of(PUT)["trades"]
            if (calls != puts).any():
                wrong.append((calls, puts))

    reader = threading.Thread(target=read)
    reader.start()
    for place in range(300):
        minute = M + place % 60
        rows = [((SPY, right, minute), bar(FIVE, minute)) for right in (CALL, PUT)]
        bars.change(frame(rows))
    done.set()
    reader.join()
    bars.wait()
    assert not wrong
    assert bars.view().cross_section(M, M + 60).sums["trades"].tolist() == [3000]


def prints(stock: bool) -> st.SearchStrategy[list[tuple[int, int, int, str]]]:
    """Prints of one minute; some have volumes and notionals beyond the common range."""
    sizes = st.integers(1, 300) | st.integers(1, 2**31 - 1 if not stock else 2**50)
    one = st.tuples(
        st.integers(0, 3) | st.integers(0, NS_PER_MINUTE - 1),
        st.integers(1, 5) | st.integers(1, 2**31),
        sizes,
        st.sampled_from(("buy", "sell", "mid")),
    )
    return st.lists(one, min_size=1, max_size=3)


@st.composite
def steps(draw: Any, stock: bool) -> list[tuple[str, Any]]:
    """Changes of a few keys of two days."""
    rights = st.just(NONE) if stock else st.sampled_from((CALL, PUT))
    key = st.tuples(
        st.sampled_from((0, SPY, QQQ)), rights, st.sampled_from((M, M + 1, M + 2, M + 799, M + 800, M + 900))
    )
    bars = st.dictionaries(key, prints(stock), max_size=4)
    restated = st.dictionaries(key, st.none() | prints(stock), max_size=3)
    change = st.tuples(st.just("change"), st.tuples(bars, restated))
    advance = st.tuples(st.just("advance"), st.sampled_from((M + 1, M + 800)))
    return draw(st.lists(change | change | change | advance, min_size=1, max_size=12))


def check(bars: MinuteBars, oracle: Oracle, start: int, end: int, stock: bool) -> None:
    fields = names(stock=stock)
    for right in (None, NONE) if stock else (None, CALL, PUT):
        for symbol in (0, SPY, QQQ):
            expected = oracle.line(symbol, start, end, right)
            line = bars.view().line(symbol, start, end, fields, right)
            assert line.minute.tolist() == list(expected)
            for name in fields:
                assert line.values[name].tolist() == [one[name] for one in expected.values()], name
            assert line.as_of == max((one["last_ts"] for one in expected.values()), default=None)
        check_cross_section(bars, oracle, start, end, right)


def check_cross_section(bars: MinuteBars, oracle: Oracle, start: int, end: int, right: int | None) -> None:
    expected = oracle.cross_section(start, end, right)
    found = bars.view().cross_section(start, end, right)
    assert found.symbols.tolist() == list(expected)
    for name in set(SUMS) - {name for name in SUMS if "notional" in name}:
        assert found.sums[name].tolist() == [one[name] for one in expected.values()]
    assert found.as_of == max((one["last_ts"] for one in expected.values()), default=None)
    places = np.arange(len(expected))[::-1]
    details = found.details(places)
    for name, column in details._asdict().items():
        assert column.tolist() == [one[name] for one in expected.values()][::-1], name
    weights = {None: (1, 1, 1), CALL: (1, 0, 0), PUT: (0, 1, 0), NONE: (0, 0, 1)}[right]
    squares = [oracle.squares(symbol, start, end, weights.__getitem__) for symbol in expected]
    assert found.squares().tolist() == squares
    if right is None:
        directional = [oracle.squares(symbol, start, end, (1, -1, 0).__getitem__) for symbol in expected]
        assert found.squares(directional=True).tolist() == directional


def check_changes(bars: MinuteBars, oracle: Oracle) -> None:
    for version in range(len(oracle.changes) + 1):
        for symbol in (0, SPY, QQQ):
            found = bars.changed_since(symbol, version)
            pairs = set().union(*oracle.changes[version:])
            assert found is None or found.tolist() == sorted({at for mine, at in pairs if mine == symbol})


@settings(max_examples=150, deadline=None)
@given(st.data(), st.booleans(), st.booleans())
def test_any_changes_read_like_a_dictionary_of_bars(data: st.DataObject, stock: bool, loaded: bool) -> None:
    bars, oracle = MinuteBars(M, edges=stock, small=4, tail=6, log=500), Oracle(M)
    first = loaded
    for kind, what in data.draw(steps(stock)):
        if kind == "advance":
            oracle.oldest = max(oracle.oldest, what)
            bars.begin(oracle.oldest)
            continue
        added = [(key, bar(some, key[2], stock=stock)) for key, some in what[0].items()]
        if first:
            bars.load([frame(added)])
            oracle.bars = dict(added)
            first = False
            continue
        changed: dict[Key, Bar | None] = {
            key: None if some is None else bar(some, key[2], stock=stock) for key, some in what[1].items()
        }
        oracle.change(added, changed)
        fresh = [(key, one) for key, one in changed.items() if one is not None]
        bars.change(frame(added), keys(changed), frame(fresh))
    start = data.draw(st.sampled_from((M - 5, M, M + 1, M + 800)))
    end = data.draw(st.sampled_from((M + 1, M + 800, M + 801, M + 2000)))
    check(bars, oracle, start, end, stock)
    if not loaded:
        check_changes(bars, oracle)
    bars.wait()
    check(bars, oracle, start, end, stock)
    for symbol in (0, SPY, QQQ):
        line = oracle.line(symbol, M, M + 2000, None)
        assert bars.newest(symbol) == max((one["last_ts"] for one in line.values()), default=None)


def test_large_blocks_equal_the_sums_of_their_rows() -> None:
    rng = np.random.default_rng(4)
    oracle, bars = Oracle(M), MinuteBars(M, edges=False, small=16, tail=1000)
    rows: list[tuple[Key, Bar]] = []
    for symbol in range(40):
        for minute in range(M, M + 60):
            for right in (CALL, PUT):
                if rng.random() < 0.5:
                    some = [(int(rng.integers(60)), 100 + symbol, int(rng.integers(1, 400)), "buy")]
                    some += [(5, 90, int(rng.integers(1, 400)), "sell")]
                    rows.append(((symbol, right, minute), bar(some, minute)))
    loaded = rows[: len(rows) // 2]
    bars.load([frame(loaded)])
    oracle.bars = dict(loaded)
    for place in range(len(loaded), len(rows), 50):
        bars.change(frame(rows[place : place + 50]))
    oracle.change(rows[len(loaded) :], {})
    bars.wait()
    for start, end in ((M, M + 60), (M + 7, M + 31), (M + 59, M + 60)):
        for right in (None, PUT):
            check_cross_section(bars, oracle, start, end, right)
    assert_array_equal(bars.view().cross_section(M, M + 60).symbols, np.arange(40))
