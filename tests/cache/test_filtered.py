"""Filtered minutes in memory: which minutes are read again."""

from __future__ import annotations

import numpy as np
import pytest

from flowtape.cache.filtered import Filtered
from flowtape.cache.view import Totals


class Source:
    """A store with one print per minute, whose size a test sets."""

    def __init__(self) -> None:
        self.sizes = dict.fromkeys(range(100), 1)
        self.read: list[tuple[int, int]] = []

    def minutes(self, start: int, end: int) -> Totals:
        self.read.append((start, end))
        minute = np.array([at for at in range(start, end) if self.sizes.get(at)], np.int64)
        volume = np.array([self.sizes[at] for at in minute.tolist()], np.int64)
        return Totals(minute, {"volume": volume, "last_ts": minute * 60}, None)


def ask(
    filtered: Filtered, source: Source, version: int, span: tuple[int, int], changed: list[int] | None
) -> dict[int, int]:
    def changed_since(since: int) -> np.ndarray | None:
        return None if changed is None else np.array(changed, np.int64)

    source.read.clear()
    found = filtered.totals("key", version, span, changed_since, source.minutes)
    return dict(zip(found.minute.tolist(), found.values["volume"].tolist(), strict=True))


@pytest.fixture
def source() -> Source:
    return Source()


def test_only_changed_minutes_are_read_again(source: Source) -> None:
    filtered = Filtered()
    ask(filtered, source, 1, (0, 60), [])
    source.sizes |= {7: 0, 59: 5}
    found = ask(filtered, source, 2, (0, 60), [7, 59])
    assert source.read == [(7, 8), (59, 60)]
    assert found == {at: 5 if at == 59 else 1 for at in range(60) if at != 7}


def test_a_later_window_reads_its_new_minutes(source: Source) -> None:
    filtered = Filtered()
    ask(filtered, source, 1, (0, 60), [])
    assert list(ask(filtered, source, 1, (2, 62), [])) == list(range(2, 62))
    assert source.read == [(60, 62)]


def test_changes_beyond_the_log_read_everything(source: Source) -> None:
    filtered = Filtered()
    ask(filtered, source, 1, (0, 60), [])
    ask(filtered, source, 9, (0, 60), None)
    assert source.read == [(0, 60)]


def test_an_older_snapshot_gets_no_newer_minutes(source: Source) -> None:
    filtered = Filtered()
    ask(filtered, source, 5, (0, 60), [])
    source.sizes[3] = 8
    assert ask(filtered, source, 4, (0, 60), [])[3] == 8
    assert source.read == [(0, 60)]


def test_memory_is_bounded(source: Source) -> None:
    filtered = Filtered(most=2_000)
    ask(filtered, source, 1, (0, 90), [])
    ask(filtered, source, 1, (0, 90), [])
    assert source.read == [(0, 90)]
