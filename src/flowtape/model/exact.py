"""Integers beyond 64 bits in NumPy.

A product is kept as two columns of 64 bits, with the value `high`·2^32 + `low` and 0 ≤ low < 2^32. Each column is
summed by itself, so sums of up to 2^31 products are exact, whatever their size and order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[Any]
"""64-bit integers, or Python integers (dtype object) where one is too large for them."""

BITS = 32
_MASK = 2**BITS - 1
_SAFE = 2**60
"""A few numbers up to this one have a sum within 64 bits."""
_NARROW = 2**46
"""`product` accepts factors below this one."""


def product(one: Ints, other: Ints) -> tuple[Ints, Ints]:
    """Return the products of two columns as (high, low). Factors are from 0 to 2^46."""
    one_high, one_low = one >> BITS, one & _MASK
    other_high, other_low = other >> BITS, other & _MASK
    # The product of two 32-bit halves needs all 64 bits, so it is unsigned.
    lowest = one_low.astype(np.uint64) * other_low.astype(np.uint64)
    middle = one_high * other_low + one_low * other_high + (lowest >> np.uint64(BITS)).astype(np.int64)
    high: Ints = ((one_high * other_high) << BITS) + middle
    return high, (lowest & np.uint64(_MASK)).astype(np.int64)


def carried(high: Ints, low: Ints) -> tuple[Ints, Ints]:
    """Return the same numbers with 0 ≤ low < 2^32, so that equal numbers have equal columns."""
    return high + (low >> BITS), low & _MASK


def joined(high: Ints, low: Ints) -> Numbers:
    """Return the numbers high·2^32 + low, as 64-bit integers where a few of them have a sum within 64 bits."""
    high, low = carried(high, low)
    limit = _SAFE >> BITS
    if not len(high) or (int(high.max()) < limit and int(high.min()) >= -limit):
        return (high << BITS) + low
    numbers: Numbers = high.astype(object) * 2**BITS + low.astype(object)
    return numbers


def numbers(values: Iterable[int]) -> Numbers:
    """Return Python integers as an array, of 64-bit integers where a few of them have a sum within 64 bits."""
    made = np.array(list(values), dtype=object)
    return made if _largest(made) > _SAFE else made.astype(np.int64)


def times(values: Numbers, factor: int) -> Numbers:
    """Return each number multiplied by a positive factor."""
    fits = _largest(values) <= _SAFE // factor
    return values * factor if fits else values.astype(object) * factor


def total(values: Numbers) -> int:
    """Return the sum of all numbers."""
    fits = _largest(values) * len(values) < 2**63
    return int(values.sum() if fits else values.astype(object).sum())


def square_sums(values: Ints, begin: Ints, end: Ints) -> Numbers:
    """Return the sum of the squares of `values[begin[i]:end[i]]` for each i."""
    sizes = np.abs(values)
    columns = product(sizes, sizes) if _largest(values) < _NARROW else (sizes.astype(object) ** 2,)
    running = [np.append(0, np.cumsum(column)) for column in columns]
    sums = [column[end] - column[begin] for column in running]
    return joined(*sums) if len(sums) == 2 else sums[0]


def _largest(values: Numbers) -> int:
    """Return the largest absolute value."""
    return max(int(values.max()), -int(values.min())) if len(values) else 0
