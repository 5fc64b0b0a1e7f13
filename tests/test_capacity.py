"""The capacity model of docs/scale.md against the simulation that plays a day through it."""

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import capacity

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"


def test_the_page_s_table_is_the_model_s():
    assert "\n".join(capacity.lines()) in PAGE.read_text()


@pytest.mark.parametrize("load", capacity.LOADS)
def test_no_prints_wait_long_where_the_model_says_it_is_enough(load):
    for seed in range(5):
        most, wait = capacity.played(load, capacity.need(load).ingests, seed)
        assert most < capacity.QUEUE
        assert wait < 5


def test_too_little_is_seen_to_be(monkeypatch):
    load = replace(capacity.LOADS[-1], prints_a_day=200_000_000)
    monkeypatch.setattr(capacity, "PRINTS_PER_CORE", 9_000)
    assert capacity.played(load, 1)[0] > capacity.QUEUE
