"""How often the readings see something where there is nothing: simulated tapes whose aggressors are drawn by a coin."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import polars as pl
from rich.progress import track
from scipy import stats

from benchmarks.report import Section
from benchmarks.scale import Scale
from flowtape.orderflow.classify import sign
from flowtape.orderflow.minute_bars import NS_PER_MINUTE, minutes
from flowtape.orderflow.signals import Divergence, divergence, drift
from flowtape.simulation.chains import Ints
from flowtape.simulation.injected import Effect
from flowtape.simulation.market import Market

TAPES = 1000
LOOKBACK = 30
SYMBOLS, DRIFT_SEEDS = 50, 20
DAYS = [date(2026, 5, day) for day in (6, 7, 8, 11, 12)]


def _instant(day: date, hour: int, minute: int) -> int:
    return int(datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC).timestamp()) * 10**9


FAIR = Effect("*", _instant(DAYS[0], 0, 0), _instant(DAYS[-1], 23, 0), flow=0.0)


def null_tape(seed: int) -> Divergence:
    """Return the divergence of a session whose flow is chance alone, at the minutes with a full look-back."""
    _, found, _ = injected_tape(seed, FAIR)
    full = found.n == LOOKBACK
    return Divergence(*(column[full] for column in found))


def injected_tape(seed: int, *effects: Effect) -> tuple[Ints, Divergence, Ints]:
    """Return the minutes of a session of 12,000 option prints, their divergence, and the cumulative line."""
    market = Market(seed=seed, underlyings=1, prints_per_day=12_000, stock_prints_per_day=0, effects=effects)
    session = market.session(DAYS[-1])
    assert session is not None
    prints = pl.concat(market.prints(*session)).select(pl.exclude("true_side", "source"))
    line = _net(prints)
    in_minute = pl.col("ts").to_physical() // NS_PER_MINUTE
    price = prints.sort("ts", "seq").group_by(in_minute.alias("minute")).agg(pl.col("underlying").last())
    price = price.drop_nulls().sort("minute")
    columns = (line["minute"], line["net"], price["minute"], price["underlying"])
    minute, net, price_minute, mid = (column.cast(pl.Int64).to_numpy() for column in columns)
    opens = np.full(len(minute), _instant(DAYS[-1], 13, 30) // NS_PER_MINUTE)
    found = divergence(minute, net, opens, price_minute, mid, LOOKBACK)
    return minute[found.place], found, np.cumsum(net)[found.place]


def _net(prints: pl.DataFrame) -> pl.DataFrame:
    """symbol, minute and net volume of prints, by the path a tape takes."""
    bars = minutes(sign(prints))
    net = (pl.col("buy_volume").sum() - pl.col("sell_volume").sum()).alias("net")
    named = bars.with_columns(
        pl.col("minute").to_physical().cast(pl.Int64) // NS_PER_MINUTE, pl.col("symbol").cast(pl.String)
    )
    return named.group_by("symbol", "minute").agg(net).sort("symbol", "minute")


def _null_drift(seed: int) -> tuple[float, float, int]:
    """Of the symbols of one market, on the last of five days, the shares stretched by z and by volume; how many."""
    market = Market(
        seed=seed, underlyings=SYMBOLS, prints_per_day=60_000, stock_prints_per_day=0, effects=(FAIR,)
    )
    days: list[dict[str, tuple[int, int]]] = []
    for day in DAYS:
        session = market.session(day)
        assert session is not None
        line = _net(pl.concat(market.prints(*session)).select(pl.exclude("true_side", "source")))
        window = line.filter(pl.col("minute") >= _instant(day, 16, 0) // NS_PER_MINUTE)
        sums = window.group_by("symbol").agg(pl.col("net").sum(), (pl.col("net") ** 2).sum().alias("squares"))
        days.append({symbol: (net, squares) for symbol, net, squares in sums.iter_rows()})
    names = sorted(days[-1])
    net, squares = np.array([[one.get(name, (0, 0)) for name in names] for one in days], np.int64).transpose(
        2, 0, 1
    )
    found = drift(net[-1], squares[-1], net[:-1], squares[:-1])
    over = float((np.abs(found.z[found.has_z]) >= 200).mean()), float((np.abs(found.volume_z) >= 200).mean())
    return *over, len(names)


def run(scale: Scale) -> list[Section]:
    """1,000 tapes for divergence, 1,000 symbols for drift; fewer where the run is not at full size."""
    tapes = TAPES if scale.full else 50
    found = [null_tape(seed) for seed in track(range(tapes), "null tapes", transient=True)]
    seen = sum(len(tape.state) for tape in found)
    promised = 2 * float(stats.t.sf(2, LOOKBACK - 1))
    flow, price = (
        sum(int((np.abs(getattr(tape, name)) >= 200).sum()) for tape in found) / seen
        for name in ("flow_t", "price_t")
    )
    states = sum(np.bincount(tape.state, minlength=4) for tape in found) / seen
    ever = sum(bool((tape.state >= 2).any()) for tape in found) / tapes
    seeds = DRIFT_SEEDS if scale.full else 2
    shares = [_null_drift(seed) for seed in track(range(seeds), "null markets", transient=True)]
    by_z, by_volume = (float(np.mean([one[place] for one in shares])) for place in (0, 1))
    normal = 2 * float(stats.norm.sf(2))
    rows = [
        ["absolute flow t of 2 or more, minutes", f"{flow:.2%}", f"{promised:.2%}"],
        ["absolute price t of 2 or more, minutes", f"{price:.2%}", f"{promised:.2%}"],
        ["confirming, minutes", f"{states[1]:.3%}", f"{promised**2 / 2:.3%}"],
        ["bullish divergence, minutes", f"{states[2]:.3%}", f"{promised**2 / 4:.3%}"],
        ["bearish divergence, minutes", f"{states[3]:.3%}", f"{promised**2 / 4:.3%}"],
        ["tapes with any divergence in the session", f"{ever:.1%}", ""],
        ["drift: absolute z of 2 or more, four earlier sessions, symbols", f"{by_z:.2%}", f"{normal:.2%}"],
        ["drift: absolute volume z of 2 or more, symbols", f"{by_volume:.2%}", f"{normal:.2%}"],
    ]
    notes = [
        f"{tapes:,} simulated sessions of one underlying, 12,000 option prints each, aggressors drawn by a coin; "
        f"{seeds * SYMBOLS:,} symbols for drift",
        "sizes have heavy tails, and a t-statistic of such increments passes its limit less often than Student's",
    ]
    return [
        Section(
            f"Alarms on {tapes:,} tapes of chance alone",
            ["figure", "measured", "promised"],
            rows,
            notes=notes,
        )
    ]
