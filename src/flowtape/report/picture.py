"""The day as a picture, by matplotlib."""

from __future__ import annotations

import io
from datetime import datetime
from itertools import pairwise
from typing import Any, Literal

from flowtape.errors import UsageError
from flowtape.model.prints import NEW_YORK
from flowtape.report.day import Day

_COLORS = {
    "line": "#0b5cad", "price": "#7a6200", "buy": "#0e6a8c", "sell": "#b3420e", "session": "#3c5a82",
    "bullish_divergence": "#0e6a8c", "bearish_divergence": "#b3420e",
}  # fmt: skip
_MINUTE = 1 / 1440
"""A minute in matplotlib's days."""


def picture(day: Day, kind: Literal["png", "svg"]) -> bytes:
    """The cumulative line with its turning points, the price, sessions and divergences, and the minutes' net volume
    beneath. The same day gives the same bytes. Raises `UsageError` where matplotlib is not there."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("a report's picture needs matplotlib: pip install 'flowtape[report]'") from None
    with mpl.rc_context({"svg.hashsalt": "flowtape", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(11, 6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        _draw_line(above, day)
        _draw_price(above, day)
        _draw_minutes(below, day)
        out = io.BytesIO()
        # No date of making: whoever makes it again can compare.
        nothing: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(out, format=kind, dpi=130, metadata=nothing)
    return out.getvalue()


def _times(texts: list[str]) -> list[datetime]:
    # Matplotlib's axis is told the clock's time: New York's.
    return [datetime.fromisoformat(text).astimezone(NEW_YORK).replace(tzinfo=None) for text in texts]


def _draw_line(axes: Any, day: Day) -> None:
    points = day.line.points
    label = " (simulated)" if day.simulated else ""
    axes.set_title(
        f"{day.symbol} {day.asset}s, {day.day}{label}", loc="left", fontweight="bold", parse_math=False
    )
    for session in day.sessions.sessions:
        if isinstance(session.open, str) and isinstance(session.close, str):
            axes.axvspan(*_times([session.open, session.close]), color=_COLORS["session"], alpha=0.06, lw=0)
    times = _times([point.ts for point in points])
    axes.plot(times, [point.cumulative for point in points], color=_COLORS["line"], lw=1.4)
    for turn in day.turns.points:
        mark = "v" if turn.kind == "high" else "^"
        axes.plot(_times([turn.ts]), [turn.cumulative], marker=mark, color="black", ms=5)
    axes.axhline(0, color="grey", lw=0.5)
    axes.set_ylabel("cumulative net volume", color=_COLORS["line"])
    axes.grid(alpha=0.2)


def _draw_price(axes: Any, day: Day) -> None:
    points = day.divergence.points
    if not points:
        return
    times = _times([point.ts for point in points])
    for place, state, following in _stretches([point.state for point in points]):
        if state in _COLORS:
            axes.axvspan(times[place], times[following - 1], color=_COLORS[state], alpha=0.2, lw=0)
    prices = axes.twinx()
    prices.plot(times, [point.price for point in points], color=_COLORS["price"], lw=0.8)
    source = {"stock": "stock", "underlying": "underlying mid"}.get(day.divergence.price_source, "")
    prices.set_ylabel(f"price, USD ({source})", color=_COLORS["price"])


def _stretches(states: list[str]) -> list[tuple[int, str, int]]:
    """Runs of one state: first place, state, the place after the last."""
    starts = [place for place, state in enumerate(states) if place == 0 or states[place - 1] != state]
    return [(low, states[low], high) for low, high in pairwise([*starts, len(states)])]


def _draw_minutes(axes: Any, day: Day) -> None:
    from matplotlib.dates import DateFormatter

    points = day.line.points
    net = [int(point.net_volume) for point in points]  # type: ignore[arg-type]
    colors = [_COLORS["buy" if value >= 0 else "sell"] for value in net]
    axes.bar(_times([point.ts for point in points]), net, width=_MINUTE, color=colors)
    axes.set_ylabel("net volume")
    axes.set_xlabel("New York")
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))  # type: ignore[no-untyped-call]
    axes.grid(alpha=0.2)
