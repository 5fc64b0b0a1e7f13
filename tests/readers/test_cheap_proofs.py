"""Checks of whole columns give the same prints as checks of every row."""

from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from reading import faults, read_all

from flowtape.model.prints import Asset
from flowtape.readers.times import instants

ODD_TIME = "20260512T140000.5Z"
"""A form of its own, for which every text is looked at."""
HEADER = "ts,asset,symbol,root,expiry,right,strike,price,size,bid,ask,bid_size,ask_size,seq"
digits = st.sampled_from([0, 3, 6, 9])


@st.composite
def times(draw: st.DrawFn) -> list[str]:
    separator, width = draw(st.sampled_from("T ")), draw(digits)
    seconds = draw(st.lists(st.integers(0, 2**32), min_size=1, max_size=8))
    made = []
    for number in seconds:
        whole = (
            pl.Series([number * 10**9]).cast(pl.Datetime("ns")).dt.strftime(f"%Y-%m-%d{separator}%H:%M:%S")
        )
        fraction = f".{draw(st.integers(0, 10**width - 1)):0{width}}" if width else ""
        made.append(f"{whole.item()}{fraction}Z")
    if draw(st.booleans()):
        place = draw(st.integers(0, len(made[0]) - 1))
        made[0] = made[0][:place] + draw(st.sampled_from("0369:.-ZTx ")) + made[0][place + 1 :]
    return made


@given(times())
def test_times_of_one_length_equal_times_of_mixed_length(texts: list[str]) -> None:
    alone = instants(pl.Series("ts", texts), Counter(), "UTC")
    beside = instants(pl.Series("ts", [*texts, ODD_TIME]), Counter(), "UTC")
    assert alone.to_list() == beside.to_list()[:-1]


whole = st.integers(1, 10**6).map(str)
price = st.integers(1, 10**7).map(lambda units: f"{units / 10_000}")
size = st.one_of(
    whole,
    whole.map(lambda text: f"{text}.0"),
    st.sampled_from(["1e2", " 5", "0", "-1", "2.5", "99999999999999999999"]),
)
quoted = st.one_of(whole, st.sampled_from(["", "NA", "-3", "1.5"]))
amount = st.one_of(price, st.sampled_from(["", "NaN", "1.00005", "1e3", "abc", "99999999999"]))
rows = st.tuples(
    st.one_of(price, amount), st.one_of(whole, size), amount, amount, quoted, quoted, st.one_of(whole, size)
)


def lines(asset: str, made: list[tuple[str, ...]]) -> list[str]:
    contract = ",2026-06-19,C,500" if asset == "option" else ",,,"
    return [
        f"2026-05-12T14:00:00.{place:09}Z,{asset},XYZ,XYZ{contract},{','.join(values)}"
        for place, values in enumerate(made)
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=6), st.sampled_from(["option", "stock"]))
def test_a_row_does_not_depend_on_its_neighbours(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[str, ...]], asset: str
) -> None:
    """A row with words in place of numbers makes the reader check every row."""
    path = tmp_path_factory.mktemp("csv") / "x.csv"

    def read(last: str) -> tuple[list[tuple[int, str]], pl.DataFrame]:
        texts = lines(asset, [*made, ("1.25", "7", "1.2", "1.3", "5", "6", "900")])
        path.write_text("\n".join([HEADER, *texts, last]) + "\n")
        tape, prints = read_all(path)
        return faults(tape)[: None if last.endswith("901") else -1], prints.filter(pl.col("seq") != 901)

    good = lines(asset, [("1.25", "7", "1.2", "1.3", "5", "6", "901")])[0]
    words = lines(asset, [("x", "x", "x", "x", "x", "x", "x")])[0]
    alone, beside = read(good), read(words)
    assert alone[0] == beside[0]
    assert_frame_equal(alone[1], beside[1])


def test_a_parquet_file_of_options_equals_its_csv(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    values = [
        ("1.25", f"{size}", "1.2", "1.3", "5", "6", f"{size + 1}") for size in (7, 0, 2**31, 2**50, -1, 3)
    ]
    path.write_text("\n".join([HEADER, *lines("option", values)]) + "\n")
    frame = pl.read_csv(path).with_columns(
        pl.col("ts").str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="ns").dt.replace_time_zone("UTC"),
        pl.col("asset").cast(Asset),
        pl.col("expiry").str.to_date(),
    )
    frame.write_parquet(tmp_path / "x.parquet")
    text, prints = read_all(path)
    typed, same = read_all(tmp_path / "x.parquet")
    assert_frame_equal(prints, same)
    assert [row for row, _ in faults(text)] == [row for row, _ in faults(typed)] == [2, 3, 4, 5]
    assert [reason.replace("'", "") for _, reason in faults(text)] == [reason for _, reason in faults(typed)]
