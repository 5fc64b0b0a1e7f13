"""Cancels and the prints they remove, in small examples."""

from datetime import date

import polars as pl
import pytest

from flowtape.orderflow.cancels import counted, maybe_in, resolve
from tapes import SECOND, T0, frame, row

DAY = 86_400 * SECOND


def cancel(**changes: object) -> dict[str, object]:
    return row(condition="CANC", **changes)


def removed(*rows: dict[str, object]) -> list[int | None]:
    """Return when each row was removed, in ns after `T0`."""
    at = resolve(frame([one | {"seq": one["seq"] or place} for place, one in enumerate(rows, 1)]))[
        "removed_at"
    ]
    return [None if ts is None else ts - T0 for ts in at.to_physical()]


def test_a_cancel_removes_the_latest_earlier_print() -> None:
    assert removed(row(ts=T0), row(ts=T0 + 1), cancel(ts=T0 + 2), row(ts=T0 + 3)) == [None, 2, None, None]


def test_a_second_cancel_removes_the_print_before() -> None:
    assert removed(row(ts=T0), row(ts=T0 + 1), cancel(ts=T0 + 2), cancel(ts=T0 + 3)) == [3, 2, None, None]


def test_a_cancel_never_removes_a_cancel() -> None:
    assert removed(row(ts=T0), cancel(ts=T0 + 1), cancel(ts=T0 + 2)) == [1, None, None]


def test_a_cancel_never_removes_a_later_print() -> None:
    assert removed(cancel(ts=T0), row(ts=T0 + 1), cancel(ts=T0 + 2)) == [None, 2, None]


@pytest.mark.parametrize(
    "other",
    [
        {"price": 12_001},
        {"size": 2},
        {"right": "P"},
        {"strike": 6_010_000},
        {"expiry": date(2026, 3, 27)},
        {"root": "SPY1"},
        {"ts": T0 + DAY},
    ],
)
def test_a_cancel_matches_contract_size_price_and_day(other: dict[str, object]) -> None:
    assert removed(row(ts=T0), cancel(**{"ts": T0 + 1} | other)) == [None, None]


def test_prints_of_one_instant_are_ordered_by_sequence() -> None:
    prints, later = [row(ts=T0, seq=seq) for seq in (5, 2, 4)], cancel(ts=T0 + 1, seq=6)
    assert removed(*prints, later) == [1, None, None, None]


def test_row_order_does_not_change_removals() -> None:
    rows = [row(ts=T0, seq=1), row(ts=T0 + 1, seq=2), cancel(ts=T0 + 2, seq=3), cancel(ts=T0 + 3, seq=4)]
    assert removed(*reversed(rows)) == [None, None, 2, 3]


def test_cancels_and_removed_prints_do_not_count() -> None:
    rows = frame([row(ts=T0, seq=1), row(ts=T0 + 1, seq=2), cancel(ts=T0 + 2, seq=3)])
    found = counted(rows)
    assert found is not None
    assert found.to_list() == [True, False, False]
    assert counted(rows[:2]) is None
    bare = rows.drop("seq", "venue", "copy")
    assert counted(bare).to_list() == [True, False, False]  # type: ignore[union-attr]


def test_maybe_in_finds_every_wanted_row() -> None:
    rows = pl.DataFrame({"a": [*range(500_000)], "b": [None if one % 3 else one for one in range(500_000)]})
    wanted = rows.gather_every(1000)
    found = maybe_in(rows, wanted, ("a", "b"))
    assert found.gather_every(1000).all()
    assert found.sum() < 2 * wanted.height
