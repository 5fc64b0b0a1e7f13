"""Minute bars of prints that are added in batches."""

import pytest
from polars.testing import assert_frame_equal

from flowtape.orderflow.batched_bars import BatchedBars
from flowtape.orderflow.classify import sign
from flowtape.orderflow.minute_bars import BY, minutes
from tapes import STOCK, T0, frame, row

OPTIONS = [row(ts=T0 + seq // 2, seq=seq, price=11_000 + 100 * seq) for seq in range(1, 8)]
STOCKS = [STOCK | {"ts": T0, "seq": 20 + seq, "price": 6_000_000 + seq} for seq in range(3)]
CANCELS = [row(ts=T0 + 9, seq=30, price=11_200, condition="CANC")]
LARGE = [row(ts=T0 + 10, seq=31, price=10**10, bid=None, ask=None)]


@pytest.mark.parametrize(
    "batches",
    [
        [OPTIONS, CANCELS],
        [OPTIONS, STOCKS, CANCELS],
        [OPTIONS[:3], OPTIONS[3:] + STOCKS, CANCELS],
        [STOCKS],
        [OPTIONS, [], LARGE],
    ],
)
def test_bars_of_batches_equal_bars_of_one_frame(batches: list[list[dict[str, object]]]) -> None:
    batched = BatchedBars()
    for rows in batches:
        assert batched.add(frame(rows))
    whole = minutes(sign(frame([one for rows in batches for one in rows])))
    assert_frame_equal(batched.bars().sort(BY), whole.sort(BY))


def test_a_tape_with_possible_duplicates_is_not_batched() -> None:
    batched = BatchedBars()
    assert batched.add(frame(OPTIONS))
    assert not batched.add(frame(OPTIONS[-1:]))


def test_a_rule_that_needs_other_prints_is_not_batched() -> None:
    assert not BatchedBars("tick").add(frame(OPTIONS))
