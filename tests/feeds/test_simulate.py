import threading
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtape.errors import UsageError
from flowtape.model.prints import SCHEMA
from flowtape.readers import open_tapes
from flowtape.readers.frames import READ
from flowtape.simulation.rows import SLICE_NS, TAPE_SCHEMA
from flowtape.simulation.tape import SUFFIXES, Assets, Delivery, LiveFeed, Market, live, write_tape

DAY = date(2026, 6, 3)
SMALL = Market(seed=3, prints_per_day=20_000, stock_prints_per_day=15_000)
ALWAYS = replace(SMALL, hours="always")


def ns(instant: datetime) -> int:
    return int(instant.timestamp()) * 10**9


@pytest.fixture(scope="module")
def small() -> pl.DataFrame:
    """Return one session of SMALL, options and stocks."""
    opens = datetime(2026, 6, 3, 13, 30, tzinfo=UTC)
    return pl.concat(SMALL.prints(opens, opens + timedelta(hours=6, minutes=30)))


def of(frame: pl.DataFrame, assets: Assets) -> pl.DataFrame:
    return frame if assets == "both" else frame.filter(pl.col("asset") == assets)


# --- files


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_tape_reads_back_unchanged(tmp_path: Path, small: pl.DataFrame, suffix: str) -> None:
    path = tmp_path / f"tape{suffix}"
    assert write_tape(SMALL, DAY, path) == 20_000
    (tape,) = open_tapes([path])
    read = pl.concat(batch.prints for batch in tape.batches)
    assert (tape.source, tape.format, tape.rejects.count) == ("simulated", "table", 0)
    assert read.equals(of(small, "option").select(list(SCHEMA)))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_parquet_tape_has_usd_prices_and_true_sides(tmp_path: Path, small: pl.DataFrame) -> None:
    write_tape(SMALL, DAY, tmp_path / "tape.parquet")
    read = pl.read_parquet(tmp_path / "tape.parquet")
    small = of(small, "option")
    assert read.columns == [*READ, "true_side", "source"]
    assert read["price"].dtype == pl.Float64
    assert read["price"].to_list() == [round(price / 10_000, 4) for price in small["price"].to_list()]
    assert read["true_side"].equals(small["true_side"])


@pytest.mark.parametrize(("assets", "rows"), [("option", 20_000), ("stock", 15_000), ("both", 35_000)])
def test_a_tape_holds_the_requested_assets(
    tmp_path: Path, small: pl.DataFrame, assets: Assets, rows: int
) -> None:
    assert write_tape(SMALL, DAY, tmp_path / "tape.csv", assets=assets) == rows
    (tape,) = open_tapes([tmp_path / "tape.csv"])
    read = pl.concat(batch.prints for batch in tape.batches)
    assert (tape.source, tape.rejects.count) == ("simulated", 0)
    assert read.equals(of(small, assets).select(list(SCHEMA)))


@pytest.mark.parametrize(
    ("market", "assets", "options", "stocks"),
    [
        (SMALL, "both", 4_001, 3_000),
        (Market(), "both", 3_501, 3_500),
        (Market(stock_prints_per_day=0), "stock", 0, 7_001),
        (Market(prints_per_day=0, stock_prints_per_day=0), "option", 7_001, 0),
    ],
)
def test_requested_rows_are_shared_between_the_assets(
    tmp_path: Path, market: Market, assets: Assets, options: int, stocks: int
) -> None:
    assert write_tape(market, DAY, tmp_path / "tape.parquet", assets=assets, rows=7_001) == 7_001
    asset = pl.read_parquet(tmp_path / "tape.parquet")["asset"]
    assert ((asset == "option").sum(), (asset == "stock").sum()) == (options, stocks)


def test_writing_a_tape_again_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        write_tape(SMALL, DAY, tmp_path / name, rows=50_000)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_rows_are_exact_and_progress_reports_them(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    days = [DAY + timedelta(days=1), DAY]
    wrote = write_tape(
        Market(), days, tmp_path / "tape.parquet", rows=700_001, progress=lambda *told: seen.append(told)
    )
    tape = pl.read_parquet(tmp_path / "tape.parquet")
    assert wrote == tape.height == 700_001
    assert tape["ts"].dt.date().value_counts(sort=True)["count"].to_list() == [350_001, 350_000]
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (700_001, 700_001)
    assert len(seen) > 2


@pytest.mark.parametrize("form", ["parquet", "csv", "arrow"])
def test_a_tape_may_have_a_format_and_no_rows(tmp_path: Path, form: str) -> None:
    assert write_tape(SMALL, DAY, tmp_path / "tape", format=form, rows=0) == 0
    read = {"parquet": pl.read_parquet, "csv": pl.read_csv, "arrow": pl.read_ipc}[form](tmp_path / "tape")
    assert read.shape == (0, len(READ) + 2)


def test_a_tape_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError("stopped by the caller")

    with pytest.raises(Exception, match="stopped by the caller"):
        write_tape(SMALL, DAY, tmp_path / "tape.parquet", progress=fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("days", "name", "rows", "message"),
    [
        (date(2026, 6, 6), "x.csv", None, "day: 2026-06-06 is a Saturday"),
        ([DAY, DAY], "x.csv", None, "day: 2026-06-03 is given twice"),
        ([], "x.csv", None, "day: none is given"),
        (DAY, "x.txt", None, "format: 'x.txt' is not one of arrow, csv, parquet"),
        (DAY, "no/x.csv", None, "path: the folder of .* does not exist"),
        (DAY, "x.csv", -1, "rows: -1 is negative"),
    ],
)
def test_invalid_arguments_of_a_tape_are_refused(
    tmp_path: Path, days: date | list[date], name: str, rows: int | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        write_tape(SMALL, days, tmp_path / name, rows=rows)


def test_unknown_assets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="assets: 'bond' is not one of option, stock, both"):
        write_tape(SMALL, DAY, tmp_path / "x.csv", assets="bond")  # type: ignore[arg-type]


# --- live


@dataclass
class FakeClock:
    now: int

    def now_ns(self) -> int:
        return self.now


START = datetime(2026, 6, 5, 22, tzinfo=UTC)
SPAN = 8 * 3600 * 10**9


@pytest.fixture(scope="module")
def always() -> pl.DataFrame:
    """Return eight hours of the always-open market from START on, over two New York dates."""
    return pl.concat(ALWAYS.prints(START, START + timedelta(hours=8)))


def joined(deliveries: list[Delivery]) -> pl.DataFrame:
    return pl.concat(delivery.prints for delivery in deliveries)


@settings(max_examples=8, deadline=None)
@given(
    times=st.lists(st.integers(0, SPAN), max_size=8),
    killed=st.integers(0, 40),
    rows=st.sampled_from([500, 5_000, 250_000]),
)
def test_a_feed_killed_and_restarted_loses_and_repeats_nothing(
    always: pl.DataFrame, times: list[int], killed: int, rows: int
) -> None:
    clock = FakeClock(0)
    feed = LiveFeed(ALWAYS, clock, ns(START) - 1, batch_rows=rows)
    got: list[Delivery] = []
    for time in [*sorted(times), SPAN]:
        clock.now = ns(START) + time - 1
        for delivery in feed.due():
            got.append(delivery)
            if len(got) == killed:
                break
        feed = LiveFeed(ALWAYS, clock, got[-1].cursor, batch_rows=rows)
    got += feed.due()
    assert joined(got).equals(always)
    assert got[-1].cursor == clock.now
    assert [delivery.cursor for delivery in got] == sorted(delivery.cursor for delivery in got)


def test_a_cursor_at_a_shared_instant_splits_no_pair(always: pl.DataFrame) -> None:
    stamps = always["ts"].to_physical()
    twice = stamps.filter(stamps.is_duplicated())[10]
    for at in (twice - 1, twice, twice + 1):
        clock = FakeClock(at)
        first = list(LiveFeed(ALWAYS, clock, ns(START) - 1).due())
        clock.now = ns(START) + SPAN - 1
        rest = list(LiveFeed(ALWAYS, clock, first[-1].cursor).due())
        assert joined(first + rest).equals(always)


def test_a_feed_delivers_options_and_stocks_together(always: pl.DataFrame) -> None:
    clock = FakeClock(ns(START) + SPAN - 1)
    got = joined(list(live(ALWAYS, START, clock).due()))
    assert got.equals(always)
    switches = got.select((pl.col("asset") != pl.col("asset").shift()).sum()).item()
    assert switches > 0.3 * got.height


def test_nothing_is_delivered_before_it_is_reported(always: pl.DataFrame) -> None:
    clock = FakeClock(ns(START + timedelta(hours=2)))
    got = joined(list(live(ALWAYS, START, clock).due()))
    assert 0 < got.height < always.height
    assert got.equals(always.head(got.height))
    assert got["ts"].max() <= START + timedelta(hours=2)
    assert always["ts"][got.height + 200] > START + timedelta(hours=2)


def test_a_late_feed_delivers_large_frames_of_one_date() -> None:
    market = Market(hours="always")
    end = datetime(2026, 6, 5, 15, 0, 0, 250, tzinfo=UTC)
    got = list(live(market, end - timedelta(hours=36), FakeClock(ns(end))).due())
    assert sum(delivery.prints.height for delivery in got) > 1_000_000
    assert len(got) < 9
    assert all(delivery.prints.height < 350_000 for delivery in got)
    for delivery in got:
        dates = delivery.prints["ts"].dt.convert_time_zone("America/New_York").dt.date()
        assert dates.n_unique() == 1


def test_a_quiet_market_gives_signs_of_life() -> None:
    saturday = datetime(2026, 6, 6, 12, tzinfo=UTC)
    clock = FakeClock(ns(saturday))
    feed = live(SMALL, saturday, clock)
    for second in (0, 1, 1, -5):
        clock.now = ns(saturday) + second * 10**9
        (delivery,) = feed.due()
        assert delivery.prints.is_empty()
        assert dict(delivery.prints.schema) == TAPE_SCHEMA
    assert delivery.cursor == ns(saturday) + 10**9


def test_a_feed_follows_its_clock_until_it_is_stopped(always: pl.DataFrame) -> None:
    clock, stop = FakeClock(ns(START)), threading.Event()
    got: list[Delivery] = []
    for delivery in live(ALWAYS, START, clock, stop=stop, interval=0):
        got.append(delivery)
        clock.now += SLICE_NS // 3
        if len(got) == 20:
            stop.set()
    assert len(got) == 20
    read = joined(got)
    assert read.height > 0
    assert read.equals(always.head(read.height))


def test_a_stopped_feed_ends_its_wait() -> None:
    stop, delivered = threading.Event(), threading.Event()
    feed = live(ALWAYS, START, FakeClock(ns(START)), stop=stop, interval=3600)
    reader = threading.Thread(target=lambda: [delivered.set() for _ in feed], daemon=True)
    reader.start()
    assert delivered.wait(30)
    stop.set()
    reader.join(30)
    assert not reader.is_alive()


def test_a_start_without_a_time_zone_is_refused() -> None:
    with pytest.raises(UsageError, match="since: 2026-06-03"):
        live(SMALL, datetime(2026, 6, 3), FakeClock(0))  # noqa: DTZ001
    with pytest.raises(UsageError, match="cursor: -2 lies before 1970"):
        LiveFeed(SMALL, FakeClock(0), -2)
