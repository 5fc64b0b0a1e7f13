"""Tail probabilities and prominences beside scipy, the reference of its field."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy.signal import find_peaks, peak_prominences

from flowtape.orderflow.signals import turning_points
from flowtape.orderflow.signals.tails import normal_quantile, student_tail

T = np.concatenate([np.linspace(0, 12, 4001), np.geomspace(12, 1e12, 2000), -np.geomspace(1e-12, 50, 999)])


@pytest.mark.parametrize("degrees", [2, 3, 4, 5, 6, 9, 29, 59, 400])
def test_student_tail_equals_that_of_scipy(degrees):
    expected = special.stdtr(degrees, -np.abs(T))
    found = student_tail(T, degrees)
    assert found == pytest.approx(expected, rel=2e-12, abs=1e-300)
    deviate = special.ndtri(np.maximum(expected, 1e-300))
    assert np.rint(100 * normal_quantile(found)).tolist() == np.rint(100 * deviate).tolist()


def test_tail_of_one_degree_is_that_of_cauchy():
    t = np.abs(T)[T != 0]
    cauchy = np.where(t < 1, 0.5 - np.arctan(t) / np.pi, np.arctan(1 / t) / np.pi)
    assert student_tail(t, 1) == pytest.approx(cauchy, rel=2e-12)


def test_tails_equal_the_values_of_published_tables():
    # Abramowitz and Stegun, table 26.10: 97.5 % and 99.95 % points of Student's t.
    for degrees, t, tail in ((2, 4.303, 0.025), (4, 2.776, 0.025), (10, 2.228, 0.025), (4, 8.610, 0.0005)):
        assert student_tail(np.array([t]), degrees)[0] == pytest.approx(tail, rel=5e-4)
    assert normal_quantile(np.array([0.025, 0.5]))[0] == pytest.approx(-1.959963984540054)


def test_normal_quantile_equals_that_of_scipy():
    probability = np.concatenate([np.geomspace(1e-300, 0.5, 5000), [0.0]])
    expected = special.ndtri(np.maximum(probability, 1e-300))
    assert normal_quantile(probability) == pytest.approx(expected, rel=1e-13, abs=1e-13)


@given(st.lists(st.one_of(st.integers(-4, 4), st.integers(-(10**9), 10**9)), max_size=200))
def test_prominence_equals_that_of_scipy(line):
    values = np.array(line, np.int64)
    expected = []
    for high in (True, False):
        heights = (values if high else -values).astype(np.float64)
        peaks, level = find_peaks(heights, plateau_size=1)
        size = peak_prominences(heights, peaks)[0].astype(np.int64)
        expected += zip((-size).tolist(), level["left_edges"].tolist(), [high] * len(peaks), strict=True)
    found = turning_points(values, 1000)
    rows = zip((-found.prominence).tolist(), found.place.tolist(), found.high.tolist(), strict=True)
    assert list(rows) == sorted(expected, key=lambda row: row[:2])
