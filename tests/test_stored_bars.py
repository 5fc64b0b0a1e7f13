"""Minute bars of an embedded store: made of the prints by SQL, stored with days that are sealed, never stale."""

from contextlib import closing
from datetime import date

import duckdb
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtape.orderflow.minute_bars import FIELDS, NS_PER_MINUTE
from flowtape.pipeline.batch import bars_of
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.rebuild import wrong_minutes
from flowtape.storage.catalog import BAR_KEY
from flowtape.storage.duckdb import DuckStore
from stores import every_print
from tapes import SECOND, STOCK, T0, frame, row

DAY = date(2026, 3, 6)
KEY_AND_FIELDS = [*BAR_KEY, *FIELDS]
PRINT = st.fixed_dictionaries({
    "ts": st.integers(0, 3 * 60).map(lambda seconds: T0 + seconds * SECOND) | st.integers(T0, T0 + 3),
    "price": st.integers(1, 3) | st.just(10**11),
    "size": st.integers(1, 3) | st.just(10),
    "venue": st.sampled_from(["XNAS", "XNYS", "ARCX", "EDGX and more", "EDGX and less"]),
    "seq": st.integers(0, 3),
    "price_flags": st.integers(0, 3),
    "bid": st.sampled_from([None, 1]),
    "ask": st.sampled_from([None, 3]),
})  # fmt: skip


def stored(store, symbols=None, start=0, end=2**31 - 1):
    return store.bars(symbols, start, end).select(KEY_AND_FIELDS).cast(pl.Int64).sort(BAR_KEY)


def made(store):
    """Bars of all prints, summed without SQL."""
    prints = every_print(store)
    return bars_of(prints).select(KEY_AND_FIELDS).cast(pl.Int64).sort(BAR_KEY)


@given(st.lists(PRINT, min_size=1, max_size=12), st.lists(PRINT, max_size=6), st.booleans())
def test_bars_made_by_sql_equal_their_prints(tmp_path_factory, stocks, options, sealed):
    rows = [STOCK | one for one in stocks]
    rows += [row(**one | {"right": "CP"[place % 2], "price_flags": 3}) for place, one in enumerate(options)]
    with closing(DuckStore(tmp_path_factory.mktemp("bars") / "x.duckdb")) as store:
        Ingestor(store).take(frame([one | {"copy": place} for place, one in enumerate(rows, 1)]), "test")
        if sealed:
            assert store.seal(DAY)
        wanted = made(store)
        assert stored(store).equals(wanted)
        assert stored(store, wanted["symbol_id"].unique()).equals(wanted)
        low, high = store.extent(int(wanted["symbol_id"][0]), 2**31 - 1)
        mine = wanted.filter(pl.col("symbol_id") == wanted["symbol_id"][0])
        assert high == mine["last_ts"].max()
        assert low == mine["first_ts"].min()


def test_a_write_to_a_sealed_day_rebuilds_its_bars(tmp_path):
    with closing(DuckStore(tmp_path / "x.duckdb")) as store:
        ingestor = Ingestor(store)
        ingestor.take(
            frame([row(seq=1), row(seq=2, ts=T0 + 90 * SECOND), row(seq=3, ts=T0 + 1, right="P")]), "test"
        )
        assert store.seal(DAY)
        assert store.unsealed() == []
        cancel = row(seq=5, ts=T0 + 2 * SECOND, condition="CANC")
        for late in (row(seq=4), cancel, row(seq=2, ts=T0 + 90 * SECOND, bid=12_000)):
            ingestor.take(frame([late]), "test")
            assert store.unsealed() == [DAY]
            assert stored(store).equals(made(store))
            assert store.seal(DAY)
            assert stored(store).equals(made(store))


def test_bars_of_several_days_appear_once(tmp_path):
    """Sealed days between days that are not."""
    day = 24 * 3600 * SECOND
    with closing(DuckStore(tmp_path / "x.duckdb")) as store:
        ingestor = Ingestor(store)
        for place in range(5):
            ingestor.take(frame([row(seq=1 + place, ts=T0 + place * day)]), "test")
        assert store.seal(date(2026, 3, 8))
        assert stored(store).equals(made(store))
        middle = (T0 + 2 * day) // NS_PER_MINUTE
        assert stored(store, start=middle, end=middle + 1).height == 1
        assert stored(store, start=middle + 1, end=middle + 1440).height == 0


def test_a_wrong_bar_is_found(tmp_path):
    path = tmp_path / "x.duckdb"
    with closing(DuckStore(path)) as store:
        Ingestor(store).take(frame([row(seq=1)]), "test")
        assert store.seal(DAY)
        assert wrong_minutes(store, DAY) == (0, 1)
    with duckdb.connect(str(path)) as db:
        db.execute("UPDATE bar_rows SET trades = 2")
    with closing(DuckStore(path)) as store:
        assert wrong_minutes(store, DAY) == (1, 1)
        Ingestor(store).rebuild(DAY)
        assert wrong_minutes(store, DAY) == (0, 1)


@pytest.mark.parametrize("sealed", [False, True])
def test_the_view_minute_bars_never_shows_a_stale_bar(tmp_path, sealed):
    path = tmp_path / "x.duckdb"
    with closing(DuckStore(path)) as store:
        ingestor = Ingestor(store)
        ingestor.take(frame([row(seq=1)]), "test")
        assert store.seal(DAY)
        ingestor.take(frame([row(seq=2)]), "test")
        if sealed:
            assert store.seal(DAY)
    with duckdb.connect(str(path), read_only=True) as db:
        assert db.execute("SELECT trades FROM minute_bars").fetchall() == ([(2,)] if sealed else [])
        assert db.execute("SELECT sum(trades) FROM minutes").fetchall() == [(2,)]
