"""Key columns packed into one integer, and restored."""

from datetime import date

import polars as pl

from flowtape.orderflow.packed_key import PackedKey

COLUMNS = [
    pl.Series("name", ["b", "a", "b", "c"], pl.Categorical),
    pl.Series("day", [date(2026, 5, 12), None, date(2026, 6, 1), date(1999, 1, 1)]),
    pl.Series("right", ["C", None, "P", "P"], pl.Enum(["C", "P"])),
    pl.Series("place", [3, 10**9, 3, 7], pl.Int64),
]


def test_a_packed_key_restores_its_columns() -> None:
    key = PackedKey.of(COLUMNS)
    assert key is not None
    rows = pl.DataFrame(COLUMNS)
    packed = rows.select(key.packed)
    assert packed["#key"].n_unique() == rows.height
    assert packed.select(key.unpacked).equals(rows)


def test_columns_wider_than_64_bits_have_no_key() -> None:
    wide = pl.Series("wide", [0, 2**40])
    assert PackedKey.of([wide, wide.alias("other")]) is None
