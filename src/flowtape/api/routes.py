"""The route table: one declaration a route, read by the server and by the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any, Protocol
from urllib.parse import unquote

import msgspec

from flowtape.answers import Answer, Cumulative
from flowtape.api.params import AT, EXPIRY, SYMBOL, Param, whole


class FlowAnswers(Protocol):
    """What the routes ask of the flow behind them."""

    def cumulative(
        self, asset: str, symbol: str, minutes: int, expiry: date | None, at: int | None
    ) -> Answer | Awaitable[Answer]:
        """Running net volume of a symbol; `at` is ns since 1970, UTC."""

    def check(self) -> None:
        """Raise `StoreError` or `FeedError` while answers may not be trusted. Called for every request."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One flow endpoint. `answer` is called with the flow and the values of `params`, in their order."""

    path: str
    params: tuple[Param, ...]
    answer: Callable[..., Answer | Awaitable[Answer]]
    body: type[msgspec.Struct]
    summary: str
    help: str


def _option_cumulative(
    flow: FlowAnswers, symbol: str, minutes: int, expiry: date | None, at: int | None
) -> Answer | Awaitable[Answer]:
    return flow.cumulative("option", symbol, minutes, expiry, at)


ROUTES = (
    Route(
        path="/v1/flow/options/{symbol}/cumulative",
        params=(SYMBOL, whole("minutes", 240, 1, 10_080, "Minutes in the window."), EXPIRY, AT),
        answer=_option_cumulative,
        body=Cumulative,
        summary="Cumulative net option flow",
        help="Net volume of each minute (buys less sells) with its running sum, VWAP and number of prints.",
    ),
)


class Router:
    """Finds the route of a path; `{name}` in a route's path stands for one segment, percent-decoded."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._tree: dict[str | None, Any] = {}
        for route in routes:
            branch = self._tree
            for part in route.path.split("/"):
                branch = branch.setdefault("{}" if part.startswith("{") else part, {})
            branch[None] = route

    def find(self, raw_path: bytes) -> tuple[Route, dict[str, str]] | None:
        """The route and the values of its named segments; None where there is none."""
        parts = [unquote(part) for part in raw_path.decode("latin-1").split("/")]
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
