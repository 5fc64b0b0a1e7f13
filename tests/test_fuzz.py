"""Readers and frames on random inputs: 100,000 in `make fuzz`, a few in `make test`."""

import os

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fuzzing import FORMS, as_csv, read, reordered, rows_of, same, typed_tables, use_frame, write_table

INPUTS = int(os.environ.get("FLOWTAPE_FUZZ", "300"))
"""How many files and frames are made."""


def inputs(share, each):
    """Return the settings of a test with a share of the inputs, `each` of them an example."""
    return settings(
        max_examples=max(5, round(INPUTS * share / each)),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@inputs(0.4, 2)
@given(st.data())
def test_fuzzed_csv_is_read_or_refused(folder, data):
    kind = data.draw(st.sampled_from(sorted(FORMS)))
    rows = data.draw(rows_of(FORMS[kind]))
    sign, quoted = data.draw(st.sampled_from((",", ",", "\t", ";"))), data.draw(st.booleans())
    path = folder / "x.csv"
    path.write_bytes(as_csv(rows, ",", quoted=False))
    # The format is given where the damaged file is no longer recognised.
    one = read(path, len(rows), data.draw(st.integers(1, 10)), kind.partition("-")[0])
    shuffled = data.draw(st.permutations(rows))
    path.write_bytes(as_csv(shuffled, sign, quoted=quoted))
    same(one, read(path, len(rows), 1000, kind.partition("-")[0]))


@inputs(0.3, 2)
@given(st.data())
def test_fuzzed_tables_are_read_or_refused(folder, data):
    table = data.draw(typed_tables())
    forms = [data.draw(st.sampled_from(("parquet", "arrow", "stream"))) for _ in range(2)]
    order = data.draw(st.permutations(range(table.num_rows)))
    found = []
    for form, rows in zip(forms, (table, reordered(table, order)), strict=True):
        path = folder / f"x.{form}"
        write_table(rows, path, form)
        found.append(read(path, table.num_rows, data.draw(st.integers(1, 7)), "table"))
    same(*found)


@inputs(0.1, 1)
@given(st.data())
def test_damaged_files_are_read_or_refused(folder, data):
    if data.draw(st.booleans()):
        kind = data.draw(st.sampled_from(sorted(FORMS)))
        content = as_csv(data.draw(rows_of(FORMS[kind])), ",", quoted=data.draw(st.booleans()))
    else:
        path, form = folder / "y", data.draw(st.sampled_from(("parquet", "arrow", "stream")))
        write_table(data.draw(typed_tables()), path, form)
        content = path.read_bytes()
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(0, len(changed) - 1)))
        changed[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = folder / "x"
    path.write_bytes(bytes(changed))
    read(path, None, 1000)


@inputs(0.2, 2)
@given(st.data())
def test_fuzzed_frames_are_converted_or_refused(data):
    frame = pl.from_arrow(data.draw(typed_tables()))
    order = data.draw(st.permutations(range(frame.height)))
    one, other = use_frame(frame), use_frame(frame[order])
    assert isinstance(one, pl.DataFrame) == isinstance(other, pl.DataFrame)
    if isinstance(one, pl.DataFrame):
        assert one.equals(other)
