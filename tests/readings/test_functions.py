"""Signals equal known figures and plain reference implementations."""

import itertools
import math
import statistics
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flowtape.orderflow.signals import LEAST, STATES, Hours, days, divergence, drift, turning_points

RANDOM = np.random.default_rng(20_260_512)


def ints(*values):
    return np.array(values, np.int64)


def states(found):
    return [STATES[state] for state in found.state.tolist()]


# divergence


def plain_t(increments):
    """Return the t-statistic of a mean, in hundredths, from the statistics module."""
    if len(increments) < LEAST:
        return 0
    mean, spread = statistics.fmean(increments), statistics.stdev(increments)
    if spread == 0:
        return 0 if mean == 0 else math.copysign(99_999, mean)
    return max(-99_999, min(99_999, 100 * mean * math.sqrt(len(increments)) / spread))


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(-50, 50)), min_size=1, max_size=60),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 10_000)), min_size=1, max_size=40),
    st.integers(10, 40),
    st.integers(0, 90),
)
def test_divergence_equals_a_plain_loop(flows, prices, lookback, second_open):
    minute = 1000 + np.cumsum([gap for gap, _ in flows])
    net = ints(*(volume for _, volume in flows))
    price_minute = 1000 + np.cumsum([gap for gap, _ in prices])
    price = ints(*(level for _, level in prices))
    opens = np.where(minute >= 1001 + second_open, 1001 + second_open, 1001)
    found = divergence(minute, net, opens, price_minute, price, lookback)
    flow_of = dict(zip(minute.tolist(), net.tolist(), strict=True))
    price_of = dict(zip(price_minute.tolist(), price.tolist(), strict=True))
    expected = []
    for place, (at, opened) in enumerate(zip(minute.tolist(), opens.tolist(), strict=True)):
        levels, level = [], None
        for one in range(opened, at + 1):
            level = price_of.get(one, level)
            levels.append(level)
        if level is None:
            continue
        steps = [0, *(b - a if a is not None else 0 for a, b in itertools.pairwise(levels))]
        flow = [flow_of.get(one, 0) for one in range(opened, at + 1)]
        n = min(lookback, len(steps))
        expected.append((place, level, n, plain_t(flow[-n:]), plain_t(steps[-n:])))
    assert found.place.tolist() == [one[0] for one in expected]
    assert found.price.tolist() == [one[1] for one in expected]
    assert found.n.tolist() == [one[2] for one in expected]
    assert found.flow_t.tolist() == pytest.approx([one[3] for one in expected], abs=0.5000001)
    assert found.price_t.tolist() == pytest.approx([one[4] for one in expected], abs=0.5000001)


def test_divergence_has_four_states():
    minute = np.arange(100, 160)
    opens = np.full(60, 100)
    wiggle = np.tile([-1, 1], 30)
    for flow, price, state in (
        (3, 3, "confirming"), (-3, -3, "confirming"), (3, -3, "bullish_divergence"),
        (-3, 3, "bearish_divergence"), (0, 3, "flat"), (3, 0, "flat"), (0, 0, "flat"),
    ):  # fmt: skip
        line = 10_000 + np.cumsum(price + wiggle)
        found = divergence(minute, flow + wiggle, opens, minute, line, 30)
        assert states(found)[-1] == state, (flow, price)
        assert set(states(found)[: LEAST - 1]) == {"flat"}


def test_constant_increments_have_the_largest_t():
    minute = np.arange(100, 130)
    found = divergence(minute, np.full(30, 5), np.full(30, 100), minute, np.full(30, 7), 30)
    assert found.flow_t[-1] == 99_999
    assert found.price_t[-1] == 0
    assert states(found)[-1] == "flat"


def test_minutes_before_the_session_s_first_price_are_left_out():
    minute = ints(100, 101, 200, 201)
    opens = ints(100, 100, 200, 200)
    found = divergence(minute, ints(1, 1, 1, 1), opens, ints(101, 150), ints(5, 6), 10)
    assert minute[found.place].tolist() == [101]
    assert found.price.tolist() == [5]
    nothing = divergence(minute, ints(1, 1, 1, 1), opens, ints(), ints(), 10)
    assert len(nothing.place) == len(nothing.state) == 0


def test_earlier_minutes_do_not_change_statistics():
    minute, net = np.arange(0, 300), RANDOM.integers(-20, 21, 300)
    price = 10_000 + np.cumsum(RANDOM.integers(-5, 6, 300))
    opens = np.zeros(300, np.int64)
    whole = divergence(minute, net, opens, minute, price, 30)
    late = divergence(minute[200:], net[200:], opens[200:], minute, price, 30)
    assert whole.flow_t[230:].tolist() == late.flow_t[30:].tolist()
    assert whole.price_t[200:].tolist() == late.price_t.tolist()


def test_the_false_alarm_rate_of_divergence_is_student_s():
    tapes, length, alarms, seen = 400, 390, np.zeros(4), 0
    over = np.zeros(2)
    minute = np.arange(length)
    for _ in range(tapes):
        net, steps = RANDOM.integers(-40, 41, length), RANDOM.integers(-9, 10, length)
        price = 1_000_000 + np.cumsum(steps)
        found = divergence(minute, net, np.zeros(length, np.int64), minute, price, 30)
        ready = found.n == 30
        alarms += np.bincount(found.state[ready], minlength=4)
        over += [(abs(t[ready]) >= 200).sum() for t in (found.flow_t, found.price_t)]
        seen += ready.sum()
    promised = 2 * stats.t.sf(2, 29)
    # Adjacent look-backs overlap: 400 tapes of 361 minutes have about 400 × 12 independent ones.
    assert over / seen == pytest.approx([promised] * 2, abs=0.012)
    assert alarms[1] / seen == pytest.approx(promised**2 / 2, abs=0.0012)
    assert alarms[2:].sum() / seen == pytest.approx(promised**2 / 2, abs=0.0012)


# sessions

TUESDAY = date(2026, 5, 12)
OPEN, CLOSE = 29_643_000, 29_643_390
HOURS = Hours(TUESDAY, OPEN, CLOSE)
NUMBER = (TUESDAY - date(1970, 1, 1)).days


def day_of(minutes, net, hours=HOURS, end=CLOSE + 1000):
    minute, volume = np.array(minutes, np.int64), np.array(net, np.int64)
    (found,) = days(minute, np.full(len(minute), NUMBER), volume, 10 * volume, [hours], end)
    return found, {part.name: part for part in found.parts}


def test_parts_of_a_day_have_their_sums():
    found, parts = day_of(
        [OPEN - 5, OPEN, OPEN + 59, OPEN + 60, OPEN + 194, OPEN + 195, OPEN + 300, CLOSE - 1, CLOSE],
        [100, 1, 2, -4, 8, -16, 32, 64, 1000],
    )
    assert {name: part.net for name, part in parts.items()} == {
        "open": 3, "midday": -12, "close": 96, "morning": 7, "afternoon": 80, "outside": 1100,
    }  # fmt: skip
    assert parts["midday"].absolute == 28
    assert parts["close"].premium == 960
    assert (found.net, found.absolute, found.premium) == (1187, 1227, 11_870)
    assert found.high == (87, CLOSE - 1)
    assert found.low == (-9, OPEN + 195)
    assert (parts["midday"].start, parts["midday"].end) == (OPEN + 60, OPEN + 300)
    assert (parts["morning"].end, parts["afternoon"].start) == (OPEN + 195, OPEN + 195)


def test_the_mean_line_weighs_minutes_equally():
    _, parts = day_of([OPEN, OPEN + 59], [10, 50])
    assert parts["open"].mean == (59 * 10 + 60, 60)
    assert parts["midday"].mean == (240 * 60, 240)


def test_partial_and_early_closing_days_have_their_parts():
    _, parts = day_of([OPEN], [5], end=OPEN + 100)
    assert {name: part.end - part.start for name, part in parts.items()} == {
        "open": 60, "midday": 40, "morning": 100,
    }  # fmt: skip
    early = Hours(TUESDAY, OPEN, OPEN + 210)
    _, parts = day_of([OPEN], [5], early)
    assert {name: part.end - part.start for name, part in parts.items()} == {
        "open": 60, "midday": 150, "morning": 105, "afternoon": 105,
    }  # fmt: skip


def test_prints_of_a_day_without_session_are_outside():
    found, parts = day_of([OPEN, OPEN + 9], [5, -7], Hours(TUESDAY, None, None))
    assert [part.name for part in found.parts] == ["outside"]
    assert parts["outside"].mean is None
    assert found.low == (-2, OPEN + 9)
    found, _ = day_of([OPEN - 9], [5], end=OPEN)
    assert found.high is None
    assert found.low is None


@given(st.dictionaries(st.integers(OPEN - 60, CLOSE + 60), st.integers(-99, 99), min_size=1, max_size=50))
def test_parts_add_up_to_the_day(flows):
    minutes = sorted(flows)
    found, parts = day_of(minutes, [flows[one] for one in minutes])
    rest = parts["outside"].net if "outside" in parts else 0
    thirds = sum(parts[name].net for name in ("open", "midday", "close"))
    halves = parts["morning"].net + parts["afternoon"].net
    assert thirds + rest == halves + rest == found.net == sum(flows.values())


# drift


def plain_drift(net, squares, history):
    """Return the drift of one symbol. Each earlier session but the last has its volume in one minute."""
    past = np.array(history, np.int64)[:, None]
    return drift(ints(net), ints(squares), past, 4 * past**2)


def test_z_is_the_normal_deviate_of_student_s_tail():
    past_net, past_squares = ints([10], [-30], [20], [5], [-15]), ints([400], [900], [500], [100], [1000])
    past = past_net[:, 0] / np.sqrt(past_squares[:, 0])
    t = (2 - past.mean()) / (past.std(ddof=1) * math.sqrt(1 + 1 / 5))
    expected = stats.norm.isf(stats.t.sf(t, 4))
    found = drift(ints(100), ints(2500), past_net, past_squares)
    assert found.z[0] == round(100 * expected)
    assert found.volume_z[0] == 200
    assert found.stretched[0] == (abs(found.z[0]) >= 200)


def test_without_history_drift_ranks_by_volume():
    none = np.empty((0, 3), np.int64)
    found = drift(ints(100, -100, 0), ints(2500, 2501, 0), none, none)
    assert not found.has_z.any()
    assert found.score.tolist() == [200, -200, 0]
    assert found.stretched.tolist() == [True, True, False]
    alike = plain_drift(7, 49, [3, 3, 3])
    assert not alike.has_z[0]


def test_z_is_finite():
    past = ints([0, 0], [1, 1], [0, 1], [0, 0], [1, 0])
    found = drift(ints(10**9, -(10**9)), ints(1, 1), past, past)
    assert abs(found.z).max() <= 9_999
    assert found.z[0] > 300
    assert found.z[1] < -300


@pytest.mark.parametrize("sessions", [3, 4, 10])
def test_the_false_alarm_rate_of_drift_is_normal(sessions):
    symbols, length = 6_000, 60
    minutes = RANDOM.integers(-50, 51, (sessions + 1, length, symbols))
    net, squares = minutes.sum(axis=1), (minutes**2).sum(axis=1)
    found = drift(net[0], squares[0], net[1:], squares[1:])
    assert found.stretched.mean() == pytest.approx(2 * stats.norm.sf(2), abs=0.012)
    assert (abs(found.volume_z) >= 200).mean() == pytest.approx(2 * stats.norm.sf(2), abs=0.012)


# turning points


def plain_prominence(line, at):
    """Return the prominence of a high: the least descent to higher ground or the end, on either side."""
    bases = []
    for side in (line[at::-1], line[at:]):
        higher = next((place for place, value in enumerate(side) if value > line[at]), len(side))
        bases.append(min(side[:higher]))
    return line[at] - max(bases)


def plain_turns(line):
    found = []
    for high in (True, False):
        heights = line if high else [-value for value in line]
        for at in range(1, len(heights)):
            end = at
            while end + 1 < len(heights) and heights[end + 1] == heights[at]:
                end += 1
            if heights[at - 1] < heights[at] and end + 1 < len(heights) and heights[end + 1] < heights[at]:
                found.append((-plain_prominence(heights, at), at, high))
    return sorted(found)


@given(st.lists(st.integers(-5, 5), max_size=60))
def test_turning_points_equal_a_plain_search(line):
    found = turning_points(np.array(line, np.int64), 100)
    listed = [
        (-size, at, high)
        for size, at, high in zip(
            found.prominence.tolist(), found.place.tolist(), found.high.tolist(), strict=True
        )
    ]
    assert listed == plain_turns(line)


def test_turning_points_are_sorted_by_prominence():
    line = ints(0, 5, 3, 9, -4, 1, 0, 8)
    found = turning_points(line, 2)
    assert (found.place.tolist(), found.high.tolist(), found.prominence.tolist()) == (
        [4, 3],
        [False, True],
        [12, 9],
    )
