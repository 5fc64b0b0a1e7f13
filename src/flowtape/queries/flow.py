"""The columns that a minute, a bar and a symbol of a cross-section have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowtape.model.prints import PRICE_SCALE
from flowtape.orderflow.minute_bars import EDGES, SUMS, VOLUMES, gross, net
from flowtape.queries.render.numbers import Ints, decimals, vwap, whole

_PRICES = ("open", "close", "high", "low")


def flow_fields(asset: str) -> tuple[str, ...]:
    """Return the names of the bar fields that `flow_columns` needs."""
    return (*SUMS, "biggest", "high", "low", *(EDGES if asset == "stock" else ()))


def flow_columns(values: Mapping[str, Ints], asset: str) -> dict[str, list[Any]]:
    """Return volumes, counts and prices in USD as columns, from sums of an asset's prints.

    Open and close are among them where `values` has them.
    """
    prices = {name: decimals(values[name], PRICE_SCALE) for name in _PRICES if name in values}
    return {
        **volume_columns(values, asset),
        "trade_count": values["trades"].tolist(),
        "biggest_trade": whole(values["biggest"], asset).tolist(),
        "vwap": decimals(vwap(gross(values, "notional"), gross(values, "volume")), PRICE_SCALE),
        **prices,
    }


def volume_columns(values: Mapping[str, Ints], asset: str) -> dict[str, list[int]]:
    """Return buy, sell, mid and net volume as columns, in whole contracts or shares.

    Each is rounded from its own exact sum, so net may differ by one from buy − sell.
    """
    sides = {name: whole(values[name], asset).tolist() for name in VOLUMES}
    return {**sides, "net_volume": whole(net(values, "volume"), asset).tolist()}
