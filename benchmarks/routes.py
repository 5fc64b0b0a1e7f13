"""Every route made anew from a full day's store, slowest first; boards of a full week against SQL on the same rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

from benchmarks.measure import Run, child, in_turn, ratio
from benchmarks.report import Aim, Section
from benchmarks.scale import Scale
from benchmarks.week import week_store

SYMBOL = "SPY"
ANSWERS = 7
_BOARDS = ("leaderboard", "outliers of 200", "drift of 240 minutes, with its sessions")
_SUMMARY = """SELECT count(DISTINCT (root, expiry, "right", strike)), count(*), max(size), max(ts) FROM prints
    WHERE asset = 'option' AND symbol = 'SPY'"""
_LEADERS = """SELECT symbol, sum(buy_volume), sum(sell_volume), sum(buy_notional - sell_notional) net, sum(trades)
    FROM minutes WHERE asset = 'option' GROUP BY symbol ORDER BY net DESC LIMIT 10"""


def run(scale: Scale) -> list[Section]:
    """A table of routes, a table of boards."""
    store, week = scale.folder / "routes.duckdb", scale.folder / "week.duckdb"
    if not store.exists():
        child("tape_to_store:ingest", scale.tape(), store)
    minute = week_store(week, scale.prints // 2, scale.underlyings)
    routes = in_turn(scale.rounds, {"routes": partial(child, "routes:all_routes", store)})["routes"]
    boards = in_turn(scale.rounds, {"boards": partial(child, "routes:boards", week, minute)})["boards"]
    return [_routes_section(scale, routes), _boards_section(scale, boards)]


def all_routes(store: str) -> dict[str, float]:
    """Median milliseconds of each route's answer, made anew and encoded, and of SQL that gives part of a summary."""
    from flowtape import queries
    from flowtape.cache.cache import Cache
    from flowtape.model.query import Filter, Query
    from flowtape.queries.source import Desk
    from flowtape.storage import open_store

    opened = open_store(store, read_only=True)
    span = opened.span()
    if span is None:
        raise RuntimeError("the store is empty")
    now = span[1]
    window = Cache(opened.catalog, now // 60_000_000_000)
    window.load(opened)
    desk = Desk(opened, window, now)
    ask = partial(Query, symbol=SYMBOL)
    strikes = Filter(strike=(5_900_000, 6_100_000))
    calls: dict[str, Callable[[], queries.Made]] = {
        "recent": lambda: queries.recent(desk, ask(limit=50)),
        "summary": lambda: queries.summary(desk, ask()),
        "blocks": lambda: queries.blocks(desk, ask(min_size=100)),
        "history": lambda: queries.history(desk, ask(minutes=60)),
        "history, the week": lambda: queries.history(desk, ask(minutes=10_080)),
        "cumulative": lambda: queries.cumulative(desk, ask(minutes=240)),
        "cumulative, the week": lambda: queries.cumulative(desk, ask(minutes=10_080)),
        "cumulative, the week, calls": lambda: queries.cumulative(
            desk, ask(minutes=10_080, filter=Filter(right="C"))
        ),
        "cumulative, a day, 21 strikes": lambda: queries.cumulative(desk, ask(minutes=1440, filter=strikes)),
        "cumulative, a day, quality": lambda: queries.cumulative(desk, ask(minutes=1440, quality=True)),
        "cumulative, at the close": lambda: queries.cumulative(desk, ask(minutes=240, at=now)),
        "dealer-premium": lambda: queries.dealer_premium(desk, ask(minutes=240)),
        "leaderboard": lambda: queries.leaderboard(desk, Query(minutes=240, limit=10)),
        "outliers": lambda: queries.outliers(desk, Query(minutes=240, limit=20, min_trades=20)),
        "divergence": lambda: queries.divergence_answer(desk, ask(minutes=240, lookback=30)),
        "turning-points": lambda: queries.turning_points_answer(desk, ask(minutes=240, limit=10)),
        "sessions": lambda: queries.sessions_answer(desk, ask(days=5)),
    }
    told = {
        name: _milliseconds(lambda call=call: queries.encode(call(), False)) for name, call in calls.items()
    }
    told["SQL"] = _milliseconds(lambda: _sql(opened, _SUMMARY))
    opened.close()
    return told


def boards(store: str, minute: str) -> dict[str, float]:
    """Median milliseconds of both boards over a full week, and of SQL over the same minutes."""
    from flowtape import queries
    from flowtape.cache.cache import MINUTES, Cache
    from flowtape.model.query import Query
    from flowtape.queries.source import Desk
    from flowtape.storage import open_store

    opened = open_store(store, read_only=True)
    window = Cache(opened.catalog, int(minute))
    window.load(opened)
    desk = Desk(opened, window, int(minute) * 60_000_000_000 + 1)
    calls = {
        "leaderboard": lambda: queries.leaderboard(desk, Query(minutes=MINUTES, limit=10)),
        "outliers of 200": lambda: queries.outliers(desk, Query(minutes=MINUTES, limit=200)),
        "drift of 240 minutes, with its sessions": lambda: queries.drift_answer(
            desk, Query(minutes=240, limit=20)
        ),
    }
    told = {
        name: _milliseconds(lambda call=call: queries.encode(call(), False)) for name, call in calls.items()
    }
    told["SQL"] = _milliseconds(lambda: _sql(opened, _LEADERS))
    opened.close()
    return told


def _sql(opened: object, query: str) -> None:
    opened._db.cursor().sql(query).fetchall()  # type: ignore[attr-defined]  # the views any tool reads


def _milliseconds(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(ANSWERS):
        started = time.perf_counter()
        call()
        taken.append((time.perf_counter() - started) * 1e3)
    return median(taken)


def _routes_section(scale: Scale, runs: list[Run]) -> Section:
    peer = [run.told["SQL"] for run in runs]
    routes = {name: [run.told[name] for run in runs] for name in runs[0].told if name != "SQL"}
    slowest = sorted(routes, key=lambda name: -median(routes[name]))
    rows = [
        [
            name,
            f"{median(routes[name]):.1f}",
            f"{ratio(peer, routes[name]):.2f}×" if name == "summary" else "",
        ]
        for name in slowest
    ]
    rows.append(
        ["DuckDB SQL, four figures of a summary from the view prints", f"{median(peer):.1f}", "1.00×"]
    )
    return Section(
        "Every route, made anew",
        ["route", "ms", "DuckDB SQL takes"],
        rows,
        notes=[
            f"The two slowest are **{slowest[0]}** and **{slowest[1]}**.",
            f"{SYMBOL}, the busiest of {scale.underlyings:,} underlyings in a day of {scale.prints:,} prints; from "
            f"query to bytes and ETag in one process, nothing remembered; median of {ANSWERS} answers, of "
            f"{scale.rounds} rounds. A server gives an answer again without making it while nothing changed.",
            "Strikes, sides, quality, recent prints, blocks and summaries come from the prints in the store, the rest "
            "from memory.",
        ],
    )


def _boards_section(scale: Scale, runs: list[Run]) -> Section:
    peer = [run.told["SQL"] for run in runs]
    made = {name: [run.told[name] for run in runs] for name in _BOARDS}
    rows = [[name, f"{median(of):.1f}", f"{ratio(peer, of):.0f}×"] for name, of in made.items()]
    rows.append(["DuckDB SQL, ten leaders from the view minutes", f"{median(peer):.1f}", "1×"])
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
            f"A store of {scale.prints // 2:,} minute rows over seven days; from query to bytes and ETag, nothing "
            f"remembered; median of {ANSWERS} answers, of {scale.rounds} rounds.",
        ],
    )
