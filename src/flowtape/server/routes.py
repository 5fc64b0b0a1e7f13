"""The route table: each route is declared once, for the server and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import unquote

import msgspec

from flowtape import queries
from flowtape.model.query import Query
from flowtape.orderflow.minute_bars import NS_PER_MINUTE
from flowtape.queries import Made
from flowtape.queries.flow_data import FlowData
from flowtape.server.encoded import EncodedResponse
from flowtape.server.errors import Headers
from flowtape.server.filters import DTE, EXCLUDE, EXCLUDE_STOCKS, EXPIRY, RIGHT, SIDE, STRIKE
from flowtape.server.formats import Format
from flowtape.server.params import MOST, Param, whole
from flowtape.server.queries import (
    ANCHOR,
    AT,
    CURSOR,
    FORMAT,
    FROM,
    INCLUDE,
    RESOLUTION,
    SPLIT,
    SYMBOL,
    TO,
    measure,
)

NS_PER_SECOND = 10**9
Asset = Literal["option", "stock"]
T = TypeVar("T")


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One flow endpoint. `every` is how long (ns) an answer stays valid while no print arrives."""

    path: str
    asset: Asset
    params: tuple[Param, ...]
    answer: Callable[[FlowData, Query], Made]
    body: type[msgspec.Struct]
    every: int = NS_PER_MINUTE
    summary: str
    help: str


class FlowAnswers(Protocol):
    """The interface between the application and the answers."""

    def answer(
        self, route: Route, query: Query, format: Format
    ) -> EncodedResponse | Awaitable[EncodedResponse]:
        """Return the answer of a route."""

    def state(self, route: Route, query: Query) -> object:
        """Return the state that a route's answer depends on: the answer is unchanged while the state is. Cheap."""

    def meant(self, query: Query) -> Query:
        """Return the query with the stored spelling of its symbol, such as `BRK.B` for `BRKB`."""

    def listen(self, told: Callable[[str, frozenset[str]], None]) -> None:
        """Call `told` from any thread with the asset and the symbols whose minutes changed (none: any may have)."""

    async def follow(
        self, route: Route, query: Query, use: Callable[[Made, Callable[[], EncodedResponse]], T]
    ) -> tuple[object, T]:
        """Compute the answer of a route, and call `use` with its body and a function that renders it.

        Returns the state that the answer depends on, and the result of `use`.
        """

    def source(self, query: Query) -> Headers:
        """Return the header that marks the prints of a query's answers as simulated or replayed."""

    async def symbols(self, format: Format) -> EncodedResponse:
        """Return all symbols with stored prints."""

    def check(self, asset: Asset | None = None) -> None:
        """Raise `StoreError` or `FeedError` while answers of an asset (None: of any asset) cannot be trusted.

        With None, also raise `Loading` while anything is being loaded. Called for every request.
        """

    def detail(self) -> str:
        """Return the text that `/health` shows beside `Healthy`; empty for none."""


def _lasting(name: str, default: int, high: int = 10_080) -> Param:
    return whole(name, "minutes", default, 1, high, "Minutes in the window.")


_SPAN = (AT, FROM, TO, CURSOR)
_FILTERS: dict[Asset, tuple[Param, ...]] = {
    "option": (EXPIRY, RIGHT, DTE, STRIKE, EXCLUDE, SIDE),
    "stock": (EXCLUDE_STOCKS, SIDE),
}
_LIMIT = whole("limit", "limit", 50, 1, 500, "The most trades to show, newest first.")
_MIN_SIZE = {
    "option": whole("minSize", "min_size", 100, 1, MOST, "The least contracts of a block."),
    "stock": whole("minSize", "min_size", 10_000, 1, MOST, "The least shares of a block."),
}
_WINDOW = _lasting("windowMinutes", 240)
_N = whole("n", "limit", 10, 1, 50, "The most symbols on each side.")
_OUTLIERS = (
    whole("limit", "limit", 20, 1, 200, "The most symbols to show."),
    whole("minTrades", "min_trades", 20, 0, MOST, "The least prints of a symbol."),
    _WINDOW,
)
_LOOKBACK = whole("lookback", "lookback", 30, 10, 390, "Minutes of the regression behind each slope.")
_TURNS = whole("limit", "limit", 10, 1, 100, "The most turning points to show.")
_DAYS = whole("days", "days", 5, 1, 60, "The most trading days to show.")
_DRIFT = (
    whole("minTrades", "min_trades", 20, 0, MOST, "The least prints of a symbol."),
    whole("limit", "limit", 20, 1, 200, "The most symbols to show."),
)


def _of_symbol(asset: Asset, name: str, *params: Param, **rest: Any) -> Route:
    """Return a route of one symbol."""
    path = f"/v1/flow/{asset}s/{{symbol}}/{name}"
    return Route(path=path, asset=asset, params=(SYMBOL, *params, FORMAT), **rest)


def _of_all(asset: Asset, name: str, *params: Param, **rest: Any) -> Route:
    """Return a route of a cross-section; the ages in its rows are in seconds."""
    path = f"/v1/flow/{asset}s/{name}"
    return Route(path=path, asset=asset, params=(*params, FORMAT), every=NS_PER_SECOND, **rest)


def _routes(asset: Asset) -> tuple[Route, ...]:
    """Return the routes that options and stocks share."""
    filters = _FILTERS[asset]
    expiry, right, split = ((EXPIRY,), (RIGHT,), (SPLIT,)) if asset == "option" else ((), (), ())
    of_minutes = measure(asset, "volume")
    puts = " `directional` for `right=P`." if asset == "option" else ""
    of_reading = measure(asset, None, f"`volume` when absent.{puts}")
    of_all = measure(asset, None, "It is shown and ranks the symbols; when absent, net notional ranks them.")
    of_drift = measure(asset, None, "It is shown and ranks the symbols; `volume` when absent.")
    return (
        _of_symbol(
            asset, "recent", _LIMIT, *expiry, AT, answer=queries.recent, body=queries.Recent,
            summary=f"The newest {asset} prints",
            help="The newest prints of the newest trading day, each with its side and prevailing quote.",
        ),
        _of_symbol(
            asset, "summary", *filters, AT, answer=queries.summary, body=queries.Summary,
            summary=f"A day of {asset} flow in numbers",
            help="Buy, sell and mid volume of the newest trading day.",
        ),
        _of_symbol(
            asset, "blocks", _MIN_SIZE[asset], *expiry, AT, answer=queries.blocks, body=queries.Blocks,
            summary=f"Large {asset} prints",
            help="The newest prints of the newest trading day with at least a minimum size, at most 500.",
        ),
        _of_symbol(
            asset, "history", _lasting("minutes", 60), *filters, *_SPAN, of_minutes, INCLUDE,
            answer=queries.history, body=queries.History,
            summary=f"Net {asset} flow minute by minute",
            help="Volume by side, VWAP and extremes of each minute, newest first.",
        ),
        _of_symbol(
            asset, "cumulative", _lasting("minutes", 240), *filters, *_SPAN, of_minutes, *split, ANCHOR,
            INCLUDE,
            answer=queries.cumulative, body=queries.Cumulative,
            summary=f"Cumulative net {asset} flow",
            help="Net volume of each minute (buys less sells) with its running sum, VWAP and number of prints.",
        ),
        _of_symbol(
            asset, "divergence", _lasting("minutes", 240), _LOOKBACK, *filters, of_reading, AT,
            answer=queries.divergence_answer, body=queries.Divergence,
            summary=f"Divergence of {asset} flow and price",
            help="The t-statistics of the slopes of cumulative flow and of price, and the state they give.",
        ),
        _of_symbol(
            asset, "turning-points", _lasting("minutes", 240), _TURNS, *filters, of_reading, AT,
            answer=queries.turning_points_answer, body=queries.TurningPoints,
            summary=f"Turning points of cumulative {asset} flow",
            help="The largest highs and lows of the cumulative line, by prominence.",
        ),
        _of_symbol(
            asset, "sessions", _DAYS, *filters, of_reading, AT, answer=queries.sessions_answer, body=queries.Sessions,
            summary=f"{asset.title()} flow by part of the day",
            help="Net flow, the line's mean, high and low by trading day and part of the session, newest first.",
        ),
        _of_all(
            asset, "drift", _WINDOW, *_DRIFT, *right, of_drift, AT, answer=queries.drift_answer, body=queries.Drifts,
            summary=f"How far {asset} flow is from zero",
            help="Symbols by net volume relative to their own earlier sessions and to the root of their volume.",
        ),
        _of_all(
            asset, "leaderboard", _N, _WINDOW, *right, of_all, AT, answer=queries.leaderboard, body=queries.Leaderboard,
            summary=f"The {asset}s with the largest net buying and selling",
            help="Symbols by net notional in USD: the largest buying, and the largest selling.",
        ),
        _of_all(
            asset, "outliers", *_OUTLIERS, *right, of_all, AT, answer=queries.outliers, body=queries.Outliers,
            summary=f"Symbols with the largest net {asset} flow",
            help="Symbols by the size of their net notional in USD, with how one-sided their flow is.",
        ),
    )  # fmt: skip


ROUTES = (
    *_routes("option"),
    _of_symbol(
        "option", "dealer-premium", _WINDOW, EXPIRY, AT,
        answer=queries.dealer_premium, body=queries.DealerPremium, every=NS_PER_SECOND,
        summary="Premium paid and received by dealers",
        help="Premium in USD, on the assumption that dealers are the counterparty of every aggressor.",
    ),
    *_routes("stock"),
    _of_symbol(
        "stock", "bars", RESOLUTION, whole("minutes", "minutes", 60, 1, 1440, "Minutes in the window."),
        answer=queries.bars, body=queries.Bars, every=NS_PER_SECOND,
        summary="Price bars with signed volume",
        help="Open, high, low, close and volume by side of each bar, oldest first.",
    ),
)  # fmt: skip
FLOW = {(route.asset, route.path.rpartition("/")[2]): route for route in ROUTES}
"""The routes by asset and last part of the path, such as `("option", "cumulative")`."""
CUMULATIVE = {route.asset: route for route in ROUTES if route.path.endswith("/cumulative")}


def bare(path: str) -> str:
    """Return a path without one trailing slash."""
    return path[:-1] if path.endswith("/") and not path.endswith("//") and path != "/" else path


MOST_PATH = 512
"""Bytes of the longest path that is routed; no route has a longer one."""


class Router:
    """Finds the route of a path. `{name}` in a route's path stands for one segment, percent-decoded. A trailing
    slash is allowed."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._tree: dict[str | None, Any] = {}
        for route in routes:
            branch = self._tree
            for part in route.path.split("/"):
                branch = branch.setdefault("{}" if part.startswith("{") else part, {})
            branch[None] = route

    def find(self, raw_path: bytes) -> tuple[Route, dict[str, str]] | None:
        """Return the route and the values of its named segments; None if no route has the path."""
        if len(raw_path) > MOST_PATH:
            return None
        parts = [unquote(part) for part in bare(raw_path.decode("latin-1")).split("/")]
        branch = self._tree
        for part in parts:
            branch = branch.get(part) or branch.get("{}") or {}
        route = branch.get(None)
        if not isinstance(route, Route):
            return None
        names = route.path.split("/")
        return route, {
            name[1:-1]: part for name, part in zip(names, parts, strict=True) if name.startswith("{")
        }
