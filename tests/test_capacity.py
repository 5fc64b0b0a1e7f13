"""The capacity model of docs/scale.md against the simulation that plays a day through it, and against RESULTS.md."""

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import capacity, figures, report

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"
QUIET, OPRA = capacity.LOADS[0], capacity.LOADS[-1]
each_load = pytest.mark.parametrize("load", capacity.LOADS, ids=lambda load: load.name)


def test_the_page_s_tables_are_the_model_s():
    text = PAGE.read_text()
    assert capacity.page(text) == text
    for made in capacity.TABLES.values():
        assert "\n".join(made()) in text


def test_what_the_model_rests_on_stands_in_the_results():
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    for section in {cell.section for cell in figures.CELLS.values()}:
        assert "\n".join(report.told(figures.section(section))) in text


def test_a_figure_that_was_not_measured_is_named():
    for place in (
        ("a section", "read", "M quotes/s"),
        (figures.STAGES, "a row", "seconds"),
        (figures.STAGES, "sides", "x"),
    ):
        with pytest.raises(LookupError, match=place[0]):
            figures.cell(figures.Cell(*place, "what"))


@each_load
def test_no_prints_wait_long_where_the_model_says_it_is_enough(load):
    for seed in range(5):
        told = capacity.played(load, capacity.need(load).ingests, seed)
        assert told.most < capacity.QUEUE
        assert told.p99 < 5


@each_load
def test_no_quotes_wait_long_on_the_cores_of_the_model_if_they_share_evenly(load):
    for seed in range(5):
        assert capacity.played(load, capacity.joined(load).cores, seed, quotes=True, even=True).longest < 5


def test_quotes_of_a_busy_symbol_are_too_many_for_the_one_process_that_has_it():
    assert capacity.joined(QUIET).busiest == 1
    assert capacity.played(QUIET, capacity.joined(QUIET).cores, quotes=True).longest < 5
    assert capacity.joined(OPRA).busiest > 1
    assert capacity.played(OPRA, 10 * capacity.joined(OPRA).cores, quotes=True).longest > 3600


def test_too_little_is_seen_to_be():
    load = replace(OPRA, prints_a_day=200_000_000)
    told = replace(capacity.MEASURED, prints=9_000)
    assert capacity.played(load, 1, told=told).most > capacity.QUEUE
    few = capacity.joined(OPRA).cores // 20
    assert capacity.played(OPRA, few, quotes=True, even=True).longest > 60


def test_half_the_speed_takes_twice_the_cores():
    half = replace(
        capacity.MEASURED, **{name: getattr(capacity.MEASURED, name) / 2 for name in
                              ("line_prints", "prints", "line_quotes", "live_join")},
    )  # fmt: skip
    assert capacity.joined(OPRA, half).cores == pytest.approx(2 * capacity.joined(OPRA).cores, abs=2)
    assert capacity.need(OPRA, half).ingests == pytest.approx(2 * capacity.need(OPRA).ingests, abs=1)
