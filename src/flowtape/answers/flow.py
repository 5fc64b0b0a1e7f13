"""The numbers that a minute, a bar and a symbol of a board have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowtape.answers.numbers import Ints, decimals, vwap
from flowtape.minutes import SUMS
from flowtape.prints import PRICE_SCALE

_PRICES = ("open", "close", "high", "low")


def flow_fields(asset: str) -> tuple[str, ...]:
    """The names of totals that `flow_columns` is made of."""
    return (*SUMS, "biggest", "high", "low", *(("open", "close") if asset == "stock" else ()))


def flow_columns(values: Mapping[str, Ints]) -> dict[str, list[Any]]:
    """buy_volume, sell_volume, mid_volume, net_volume, trade_count, biggest_trade, and vwap, high, low (open, close
    where there) in USD, of sums of prints."""
    prices = {name: decimals(values[name], PRICE_SCALE) for name in _PRICES if name in values}
    return {
        **volume_columns(values),
        "trade_count": values["trades"].tolist(),
        "biggest_trade": values["biggest"].tolist(),
        "vwap": decimals(vwap(gross(values, "notional"), gross(values, "volume")), PRICE_SCALE),
        **prices,
    }


def volume_columns(values: Mapping[str, Ints]) -> dict[str, list[int]]:
    """Volumes bought, sold, of neither side, and bought less sold."""
    sides = {f"{side}_volume": values[f"{side}_volume"].tolist() for side in ("buy", "sell", "mid")}
    return {**sides, "net_volume": net(values, "volume").tolist()}


def net(values: Mapping[str, Ints], kind: str) -> Ints:
    """Bought less sold; `kind` is volume or notional."""
    return values[f"buy_{kind}"] - values[f"sell_{kind}"]


def gross(values: Mapping[str, Ints], kind: str) -> Ints:
    """Bought, sold and of neither side; `kind` is volume or notional."""
    return values[f"buy_{kind}"] + values[f"sell_{kind}"] + values[f"mid_{kind}"]
