"""The number of a print, and the cancel that removed it, in its row."""

from contextlib import closing

import polars as pl
import pytest

from flowtape.pipeline.ingestor import Ingestor
from stores import ENGINE, every_print, make_store
from tapes import SECOND, T0, frame, row

CANCEL = {"condition": "CANC", "ts": T0 + SECOND}


@pytest.fixture
def store(tmp_path):
    with closing(make_store(tmp_path / "x.duckdb")) as store:
        yield store


def ids(store):
    return dict(every_print(store).select("seq", "print_id").iter_rows())


def test_print_ids_are_unique(store):
    ingestor = Ingestor(store)
    for first in (1, 4):
        ingestor.take(frame([row(seq=first + place, ts=T0 + place) for place in range(3)]), "test")
    numbers = ids(store)
    assert len(set(numbers.values())) == 6
    assert sorted(numbers, key=numbers.__getitem__) == [1, 2, 3, 4, 5, 6]


def test_a_better_quote_keeps_number_and_removal(store):
    ingestor = Ingestor(store)
    ingestor.take(frame([row(seq=1, bid=None, ask=None), row(seq=2, **CANCEL)]), "test")
    before = every_print(store).filter(pl.col("seq") == 1)
    assert before["removed_at"].null_count() == 0
    ingestor.take(frame([row(seq=1, quote_class="own")]), "test")
    after = every_print(store).filter(pl.col("seq") == 1)
    assert after["quote_class"].to_list() == ["own"]
    assert after.select("print_id", "removed_at").equals(before.select("print_id", "removed_at"))


def test_a_removed_print_is_identified_by_its_id(store):
    ingestor = Ingestor(store)
    ingestor.take(frame([row(seq=1), row(seq=2), row(seq=3, ts=T0 + 5, price=13_000)]), "test")
    ingestor.take(frame([row(seq=4, **CANCEL)]), "test")
    removed = every_print(store).filter(pl.col("removed_at").is_not_null())
    assert removed["seq"].to_list() == [2]
    ingestor.take(frame([row(seq=5, **CANCEL)]), "test")
    removed = every_print(store).filter(pl.col("removed_at").is_not_null())
    assert sorted(removed["print_id"]) == sorted(ids(store)[seq] for seq in (1, 2))


def test_rebuild_keeps_numbers_and_removals(store):
    ingestor = Ingestor(store)
    ingestor.take(frame([row(seq=1), row(seq=2, **CANCEL), row(seq=3, price=13_000)]), "test")
    before = every_print(store)
    ingestor.rebuild(before["ts"][0].date())
    assert every_print(store).equals(before)


@pytest.mark.skipif(ENGINE != "duckdb", reason="a DuckDB file is read")
def test_print_ids_continue_after_the_largest(tmp_path):
    path = tmp_path / "x.duckdb"
    for seq in (1, 2):
        with closing(make_store(path)) as store:
            Ingestor(store).take(frame([row(seq=seq)]), "test")
            numbers = ids(store)
    assert numbers[2] > numbers[1]
