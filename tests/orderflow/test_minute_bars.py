"""Minute bars of a few prints."""

import polars as pl
import pytest

from flowtape.errors import UsageError
from flowtape.model.exact import joined
from flowtape.orderflow.classify import sign
from flowtape.orderflow.minute_bars import NOTIONALS, NS_PER_MINUTE, aggregate, merge, minutes
from tapes import SECOND, STOCK, T0, frame, row

MINUTE = T0 // NS_PER_MINUTE
KEY = ("asset", "symbol", "right")
FIVE = [
    row(ts=T0, seq=1, price=13_000, size=2),
    row(ts=T0 + 1, seq=2, price=11_000, size=5),
    row(ts=T0 + 2, seq=3, price=12_000, size=5),
    row(ts=T0 + 59 * SECOND, seq=4, price=12_500, size=1),
    row(ts=T0 + 60 * SECOND, seq=5, price=11_500, size=7, right="P"),
]
"""Bought, sold, exactly at the middle, bought; and one sold put in the next minute."""


def bars_of(rows: list[dict[str, object]]) -> dict[tuple[str, int], dict[str, int]]:
    bars = aggregate(sign(frame(rows)), KEY)
    return {(bar["right"], bar["minute"]): bar for bar in bars.iter_rows(named=True)}


def notional(bar: dict[str, int], side: str) -> int:
    return int(joined(*(pl.Series([bar[name]]).to_numpy() for name in NOTIONALS[side]))[0])


def test_five_prints_make_two_bars() -> None:
    bars = bars_of(FIVE)
    assert bars.keys() == {("C", MINUTE), ("P", MINUTE + 1)}
    calls, puts = bars["C", MINUTE], bars["P", MINUTE + 1]
    assert [calls[f"{side}_volume"] for side in ("buy", "sell", "mid")] == [3, 5, 5]
    assert [notional(calls, side) for side in ("buy", "sell", "mid")] == [38_500, 55_000, 60_000]
    assert (calls["trades"], calls["high"], calls["low"]) == (4, 13_000, 11_000)
    assert [puts[f"{side}_volume"] for side in ("buy", "sell", "mid")] == [0, 7, 0]


def test_the_first_of_equal_largest_prints_gives_the_time() -> None:
    calls = bars_of(FIVE)["C", MINUTE]
    assert (calls["biggest"], calls["biggest_ts"], calls["last_ts"]) == (5, T0 + 1, T0 + 59 * SECOND)


def test_a_cancelled_print_is_in_no_bar() -> None:
    cancel = row(ts=T0 + 90 * SECOND, seq=6, price=11_000, size=5, condition="CANC")
    bars = minutes(sign(frame([*FIVE, cancel])), KEY)
    calls = bars.row(by_predicate=pl.col("right") == "C", named=True)
    assert (bars.height, calls["sell_volume"], calls["trades"], calls["low"]) == (2, 0, 3, 12_000)


def test_uncounted_prints_are_left_out_of_sums() -> None:
    prints = sign(frame(FIVE))
    counted = pl.Series([True, False, True, True, True])
    found = aggregate(prints, KEY, counted=counted).sort("minute")
    assert found.equals(aggregate(prints.filter(counted), KEY).sort("minute"))


def test_bars_of_stocks_have_a_first_and_a_last_price() -> None:
    rows = [
        STOCK | {"ts": T0 + seq, "seq": seq, "price": price} for seq, price in ((2, 50), (1, 70), (3, 60))
    ]
    (bar,) = aggregate(sign(frame(rows)), ("asset", "symbol")).iter_rows(named=True)
    assert (bar["open"], bar["high"], bar["low"], bar["close"]) == (70, 70, 50, 60)
    assert (bar["open_ts"], bar["close_ts"], bar["first_ts"]) == (T0 + 1, T0 + 3, T0 + 1)


def test_bars_of_parts_merge_to_the_whole_bar() -> None:
    prints = sign(frame(FIVE))
    key = (*KEY, "minute")
    parts = pl.concat([aggregate(prints[:2], KEY), aggregate(prints[2:], KEY)])
    assert merge(parts, key).sort(key).equals(aggregate(prints, KEY).sort(key))


def test_prints_without_a_side_column_are_refused() -> None:
    with pytest.raises(UsageError, match=r"sign\(prints\)"):
        minutes(frame(FIVE))
