"""Integers beyond 64 bits equal Python's."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flowtape.model import exact

FACTORS = st.integers(0, 2**46)
NUMBERS = st.integers(-(2**90), 2**90)


def ints(values):
    return np.array(values, np.int64)


@given(st.lists(st.tuples(FACTORS, FACTORS), min_size=1, max_size=30))
def test_products_and_sums_equal_python_integers(pairs):
    high, low = exact.product(*(ints(column) for column in zip(*pairs, strict=True)))
    assert exact.joined(high, low).tolist() == [one * other for one, other in pairs]
    whole = exact.joined(ints([high.sum()]), ints([low.sum()]))
    assert whole.tolist() == [sum(one * other for one, other in pairs)]


@given(st.lists(st.tuples(st.integers(-(2**50), 2**50), st.integers(-(2**60), 2**60)), max_size=20))
def test_equal_numbers_have_equal_columns_once_carried(pairs):
    high, low = (ints([pair[place] for pair in pairs]) for place in (0, 1))
    carried = exact.carried(high, low)
    assert [divmod(one * 2**32 + other, 2**32) for one, other in pairs] == list(
        zip(*(column.tolist() for column in carried), strict=True)
    )


@given(st.lists(NUMBERS, max_size=20), st.integers(1, 10**8))
def test_sums_and_multiples_of_large_numbers_are_exact(values, factor):
    made = exact.numbers(values)
    assert made.tolist() == values
    assert exact.total(made) == sum(values)
    assert exact.times(made, factor).tolist() == [value * factor for value in values]


@given(st.lists(st.integers(-(2**62), 2**62) | st.integers(-(10**9), 10**9), max_size=20), st.data())
def test_sums_of_squares_are_exact(values, data):
    bounds = st.lists(st.integers(0, len(values)), min_size=2, max_size=2).map(sorted)
    pairs = data.draw(st.lists(bounds, min_size=1, max_size=4))
    begin, end = (ints(column) for column in zip(*pairs, strict=True))
    assert exact.square_sums(ints(values), begin, end).tolist() == [
        sum(value**2 for value in values[low:high]) for low, high in pairs
    ]
