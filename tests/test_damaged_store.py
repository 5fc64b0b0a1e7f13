"""A store whose file is damaged: answers that need the damaged part are 502, and the server is not healthy."""

from contextlib import closing

import httpx
import polars as pl
import pytest

from flowtape.errors import StoreError
from flowtape.pipeline.ingestor import Ingestor
from flowtape.storage import open_store
from serving import kept, serving
from tapes import T0, frame, row

HOUR = 3600 * 10**9


def prints_are_damaged(path):
    """Whether a store still opens and gives its minute bars, but not all of its prints."""
    try:
        with closing(open_store(path, read_only=True)) as store:
            series = store.catalog.find("option", "SPY")
            store.bars(series, 0, 2**31 - 1)
            try:
                store.prints(series, 0, T0 * 2)
            except StoreError:
                return True
    except StoreError:
        pass
    return False


@pytest.fixture
def damaged(tmp_path):
    """A folder with a store, a part of whose file that holds prints is overwritten."""
    path = tmp_path / "x.duckdb"
    store = open_store(path)
    ingestor = Ingestor(store)
    for turn in range(4):
        ingestor.take(
            frame([row(seq=n + 1, ts=T0 - turn * HOUR - n * 10**6, size=1 + n % 13) for n in range(20_000)]),
            "test",
        )
    # Minute bars are stored, beside the prints, of days that are sealed.
    assert all(store.seal(day) for day in store.unsealed())
    store.close()
    whole = path.read_bytes()
    size = len(whole) // 20
    for start in range(size, len(whole) - size, size):
        path.write_bytes(whole[:start] + b"\xa5" * size + whole[start + size :])
        if prints_are_damaged(path):
            return tmp_path
    raise AssertionError("no part of the file holds nothing but prints")


def test_a_damaged_store_answers_502_and_is_not_healthy(damaged):
    with kept(damaged, T0 + HOUR) as made, serving(made.app) as url:
        headers = {"X-Api-Key": made.keys["alpha"]}
        assert httpx.get(url + "/health").status_code == 200
        found = httpx.get(url + "/v1/flow/options/SPY/blocks?minSize=1", headers=headers)
        assert found.status_code == 502
        assert found.json()["error"] == "upstream_unavailable"
        health = httpx.get(url + "/health")
        assert health.status_code == 503
        assert health.json() == {"status": "Unhealthy", "reason": "The store cannot be read or written."}
        # Answers that do not need the damaged part are given.
        assert httpx.get(url + "/v1/flow/options/SPY/cumulative", headers=headers).status_code == 200


def test_the_first_error_of_a_store_is_reported(tmp_path):
    store = open_store(tmp_path / "x.duckdb")
    ingestor = Ingestor(store)
    ingestor.take(frame([row()]), "test")
    series = store.catalog.find("option", "SPY")
    store.close()
    for ask in (
        lambda: store.prints(series, 0, T0 * 2),
        lambda: store.bars(series, 0, 2**31 - 1),
        lambda: store.prints_of(pl.DataFrame({"series": series}), 0, T0 * 2),
        lambda: ingestor.take(frame([row(seq=2)]), "test"),
        store.check,
        store.span,
    ):
        with pytest.raises(StoreError):
            ask()
