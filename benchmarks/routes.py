"""Every route made anew from a full week's store; filters and boards of the week against SQL on the same rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import partial
from statistics import median
from typing import Any

from benchmarks.measure import Run, child, in_turn, ratio
from benchmarks.report import Aim, Section
from benchmarks.scale import Scale
from benchmarks.week import CLOSE, DAYS, SYMBOL, Week, week_of

ANSWERS = 7
_BOARDS = ("leaderboard", "outliers of 200", "drift of 240 minutes, with its sessions")
_DAY = f"symbol = '{SYMBOL}' AND ts >= '{DAYS[-1]} 04:00' AND ts < '{DAYS[-1]} 24:00'"
_COUNTED = (
    "FROM print_rows JOIN (SELECT DISTINCT symbol_id, asset, symbol FROM series) USING (symbol_id)"
    f" WHERE asset = 'option' AND {_DAY} AND removed_at IS NULL"
)
_SUMMARY = f"""SELECT count(DISTINCT series::BIGINT * 4294967296 + strike), count(*), max(size), max(ts),
    sum(size) FILTER (side = 0), sum(size) FILTER (side = 1), sum(size) FILTER (side = 2) {_COUNTED}"""
_BLOCKS = f"SELECT * {_COUNTED} AND size >= 100 ORDER BY ts DESC LIMIT 50"
_STRIKES = f"""SELECT epoch_ns(ts) // 60000000000 AS minute, count(*), sum(size) FILTER (side = 0),
    sum(size) FILTER (side = 1), sum(price::HUGEINT * size) {_COUNTED} AND strike BETWEEN 5900000 AND 6100000
    GROUP BY minute ORDER BY minute"""
_LEADERS = """SELECT symbol, sum(buy_volume), sum(sell_volume), sum(buy_notional - sell_notional) net, sum(trades)
    FROM minute_bars WHERE asset = 'option' GROUP BY symbol ORDER BY net DESC LIMIT 10"""
_PEERS = {"summary": _SUMMARY, "blocks": _BLOCKS, "cumulative, a day, 21 strikes": _STRIKES}
"""Routes, and plain SQL over the tables for the same figures."""
_FILTERS = {
    "right=C": {"right": "C"},
    "dte=0": {"dte": (0, 0)},
    "expiry=2026-05-15..2026-06-19": {"expiries": ((date(2026, 5, 15), date(2026, 6, 19)),)},
    "strike=590..610": {"strike": (5_900_000, 6_100_000)},
    "side=buy": {"side": "buy"},
    "exclude=multileg": {"exclude": ("multileg",)},
    "right=P, dte=0..7, strike=500..600": {"right": "P", "dte": (0, 7), "strike": (5_000_000, 6_000_000)},
}
_QUALITY = "include=quality"


def run(scale: Scale) -> list[Section]:
    """A table of routes, of filters, of boards."""
    week = week_of(scale)
    names = {"routes": "routes:all_routes", "filters": "routes:filters", "boards": "routes:boards"}
    runs = in_turn(scale.rounds, {name: partial(child, of, week.path) for name, of in names.items()})
    return [
        _routes_section(scale, week, runs["routes"]),
        _filters_section(scale, week, runs["filters"]),
        _boards_section(scale, week, runs["boards"]),
    ]


def _opened(store: str) -> tuple[Any, Any, Callable[[], None]]:
    """The store, the numbers behind answers at the week's last close, and what forgets the filtered ones."""
    from flowtape.cache.cache import Cache
    from flowtape.cache.filtered import Filtered
    from flowtape.queries.flow_data import FlowData
    from flowtape.storage import open_store

    opened = open_store(store, read_only=True)
    cache = Cache(opened.catalog, CLOSE // 60_000_000_000)
    cache.load(opened)

    def forget() -> None:
        cache.filtered = Filtered()

    return opened, FlowData(opened, cache, CLOSE), forget


def all_routes(store: str) -> dict[str, float]:
    """Median milliseconds of each route's answer, made anew and encoded, and of SQL that gives part of a summary."""
    from flowtape import queries
    from flowtape.model.query import Filter, Query

    opened, data, forget = _opened(store)
    now = int(datetime(2026, 5, 15, 20, 0, tzinfo=UTC).timestamp()) * 10**9
    ask = partial(Query, symbol=SYMBOL)
    day = partial(ask, since=now - 390 * 60 * 10**9, until=now)
    strikes = Filter(strike=(5_900_000, 6_100_000))
    calls: dict[str, Callable[[], queries.Made]] = {
        "recent": lambda: queries.recent(data, ask(limit=50)),
        "summary": lambda: queries.summary(data, ask()),
        "blocks": lambda: queries.blocks(data, ask(min_size=100)),
        "history": lambda: queries.history(data, ask(minutes=60)),
        "history, the week": lambda: queries.history(data, ask(minutes=10_080)),
        "cumulative": lambda: queries.cumulative(data, ask(minutes=240)),
        "cumulative, the week": lambda: queries.cumulative(data, ask(minutes=10_080)),
        "cumulative, the week, calls": lambda: queries.cumulative(
            data, ask(minutes=10_080, filter=Filter(right="C"))
        ),
        "cumulative, a day, 21 strikes": lambda: queries.cumulative(data, day(filter=strikes)),
        "cumulative, a day, quality": lambda: queries.cumulative(data, day(quality=True)),
        "cumulative, at the close": lambda: queries.cumulative(data, ask(minutes=240, at=now)),
        "dealer-premium": lambda: queries.dealer_premium(data, ask(minutes=240)),
        "leaderboard": lambda: queries.leaderboard(data, Query(minutes=240, limit=10)),
        "outliers": lambda: queries.outliers(data, Query(minutes=240, limit=20, min_trades=20)),
        "divergence": lambda: queries.divergence_answer(data, ask(minutes=240, lookback=30)),
        "turning-points": lambda: queries.turning_points_answer(data, ask(minutes=240, limit=10)),
        "sessions": lambda: queries.sessions_answer(data, ask(days=5)),
    }
    told = {
        name: _milliseconds(lambda call=call: queries.encode(call(), False), forget)
        for name, call in calls.items()
    }
    told |= {f"SQL {name}": _milliseconds(lambda sql=sql: _sql(opened, sql)) for name, sql in _PEERS.items()}
    opened.close()
    return told


def filters(store: str) -> dict[str, float]:
    """Median milliseconds of `cumulative` over the whole week by each filter."""
    from flowtape import queries
    from flowtape.cache.cache import MINUTES
    from flowtape.model.query import Filter, Query

    opened, data, forget = _opened(store)
    ask = partial(Query, symbol=SYMBOL, minutes=MINUTES)
    asked = {name: ask(filter=Filter(**given)) for name, given in _FILTERS.items()}
    asked[_QUALITY] = ask(quality=True)
    told = {
        name: _milliseconds(
            lambda query=query: queries.encode(queries.cumulative(data, query), False), forget
        )
        for name, query in asked.items()
    }
    opened.close()
    return told


def boards(store: str) -> dict[str, float]:
    """Median milliseconds of both boards over a full week, and of SQL over the same minutes."""
    from flowtape import queries
    from flowtape.cache.cache import MINUTES
    from flowtape.model.query import Query

    opened, data, forget = _opened(store)
    calls = {
        "leaderboard": lambda: queries.leaderboard(data, Query(minutes=MINUTES, limit=10)),
        "outliers of 200": lambda: queries.outliers(data, Query(minutes=MINUTES, limit=200)),
        "drift of 240 minutes, with its sessions": lambda: queries.drift_answer(
            data, Query(minutes=240, limit=20)
        ),
    }
    told = {
        name: _milliseconds(lambda call=call: queries.encode(call(), False), forget)
        for name, call in calls.items()
    }
    told["SQL"] = _milliseconds(lambda: _sql(opened, _LEADERS))
    opened.close()
    return told


def _sql(opened: object, query: str) -> None:
    opened._db.cursor().sql(query).fetchall()  # type: ignore[attr-defined]  # the views any tool reads


def _milliseconds(call: Callable[[], object], forget: Callable[[], None] = lambda: None) -> float:
    taken = []
    for _ in range(ANSWERS):
        forget()
        started = time.perf_counter()
        call()
        taken.append((time.perf_counter() - started) * 1e3)
    return median(taken)


def _routes_section(scale: Scale, week: Week, runs: list[Run]) -> Section:
    routes = {name: [run.told[name] for run in runs] for name in runs[0].told if not name.startswith("SQL ")}
    peers = {name: median([run.told[f"SQL {name}"] for run in runs]) for name in _PEERS}
    slowest = sorted(routes, key=lambda name: -median(routes[name]))
    rows = [
        [name, f"{median(routes[name]):.1f}", f"{peers[name]:.1f}" if name in peers else ""]
        for name in slowest
    ]
    worst = median(routes[slowest[0]])
    beyond = max(median(routes[name]) - peers[name] for name in peers)
    return Section(
        "Every route, made anew",
        ["route", "ms", "plain SQL, ms"],
        rows,
        [
            Aim(
                f"every route made anew on {SYMBOL}'s day",
                "40 ms",
                f"{slowest[0]}: {worst:.1f} ms",
                worst <= 40,
            ),
            Aim("… beyond plain SQL for the same figures", "10 ms", f"{beyond:.1f} ms", beyond <= 10),
        ],
        [
            week.note,
            f"{SYMBOL}, the busiest of {scale.underlyings:,} underlyings; from query to bytes and ETag in one process, "
            f"nothing remembered; median of {ANSWERS} answers, of {scale.rounds} rounds. A server gives an answer "
            "again without making it while nothing changed.",
        ],
    )


def _filters_section(scale: Scale, week: Week, runs: list[Run]) -> Section:
    made = {name: median([run.told[name] for run in runs]) for name in runs[0].told}
    slowest = max((name for name in made if name != _QUALITY), key=lambda name: made[name])
    return Section(
        "Filters over the whole week",
        ["filter of cumulative, 10,080 minutes", "ms"],
        [[name, f"{ms:.1f}"] for name, ms in sorted(made.items(), key=lambda one: -one[1])],
        [
            Aim(f"every filter on cumulative over the week, {SYMBOL}", "150 ms",
                f"{slowest}: {made[slowest]:.0f} ms", made[slowest] <= 150),
            Aim("… with quality", "250 ms", f"{made[_QUALITY]:.0f} ms", made[_QUALITY] <= 250),
        ],
        [week.note, f"Median of {ANSWERS} answers, of {scale.rounds} rounds; nothing remembered."],
    )  # fmt: skip


def _boards_section(scale: Scale, week: Week, runs: list[Run]) -> Section:
    peer = [run.told["SQL"] for run in runs]
    made = {name: [run.told[name] for run in runs] for name in _BOARDS}
    rows = [[name, f"{median(of):.1f}", f"{ratio(peer, of):.0f}×"] for name, of in made.items()]
    rows.append(["DuckDB SQL, ten leaders from the view minute_bars", f"{median(peer):.1f}", "1×"])
    aims = [
        Aim(f"{name}, {scale.underlyings:,} symbols" + ("" if "drift" in name else ", 10,080 minutes"),
            "under 20 ms", f"{median(of):.1f} ms", median(of) < 20)
        for name, of in made.items()
    ]  # fmt: skip
    return Section(
        "Boards over all symbols",
        ["what", "ms", "DuckDB SQL takes"],
        rows,
        aims,
        [
            week.note,
            "From query to bytes and ETag, nothing remembered; "
            f"median of {ANSWERS} answers, of {scale.rounds} rounds.",
        ],
    )
