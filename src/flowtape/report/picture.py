"""The picture of a day, drawn with matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from flowtape.errors import UsageError
from flowtape.model.prints import NEW_YORK
from flowtape.report.day import Day

_COLORS = {
    "line": "#0b5cad", "price": "#7a6200", "buy": "#0e6a8c", "sell": "#b3420e", "session": "#3c5a82",
    "bullish_divergence": "#0e6a8c", "bearish_divergence": "#b3420e",
}  # fmt: skip
_MINUTE = 1 / 1440
"""One minute in matplotlib's days."""


class Drawing(NamedTuple):
    """The data of a picture: the minutes of a line, its turning points, the regular sessions, and the price with the
    state of each of its minutes. Times are UTC."""

    title: str
    times: list[datetime]
    net: list[float]
    cumulative: list[float]
    turns: list[tuple[datetime, str, float]]
    """Time, `high` or `low`, and the line's value."""
    sessions: list[tuple[datetime, datetime]]
    price_times: list[datetime]
    prices: list[float]
    states: list[str]
    price_source: str
    unit: str = "volume"
    dated: bool = False
    """Whether the time axis also shows the date."""


def picture(day: Day, kind: Literal["png", "svg"]) -> bytes:
    """Return the picture of a day as the bytes of a file. The same day always gives the same bytes.

    The picture shows the cumulative line with its turning points, the price, sessions and divergences, and below it the
    net volume of each minute.

    Raises:
        UsageError: matplotlib is not installed.
    """
    mpl = _matplotlib()
    with mpl.rc_context({"svg.hashsalt": "flowtape", "svg.fonttype": "none", "font.size": 9}):
        figure = drawn(_drawing(day))
        out = io.BytesIO()
        # Without the date of creation, equal days give equal files.
        nothing: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(out, format=kind, dpi=130, metadata=nothing)
    return out.getvalue()


def drawn(drawing: Drawing) -> Any:
    """Return a drawing as a `matplotlib.figure.Figure`. Raises `UsageError` if matplotlib is not installed."""
    _matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    _draw_line(above, drawing)
    _draw_price(above, drawing)
    _draw_minutes(below, drawing)
    return figure


def _matplotlib() -> Any:
    try:
        import matplotlib as mpl
    except ImportError:
        raise UsageError("a picture needs matplotlib: pip install 'flowtape[plot]'") from None
    return mpl


def _drawing(day: Day) -> Drawing:
    points, prices = day.line.points, day.divergence.points
    label = " (simulated)" if day.simulated else ""
    return Drawing(
        title=f"{day.symbol} {day.asset}s, {day.day}{label}",
        times=_instants([point.ts for point in points]),
        net=[int(point.net_volume) for point in points],  # type: ignore[arg-type]
        cumulative=[point.cumulative for point in points],
        turns=[(datetime.fromisoformat(turn.ts), turn.kind, turn.cumulative) for turn in day.turns.points],
        sessions=[
            (datetime.fromisoformat(one.open), datetime.fromisoformat(one.close))
            for one in day.sessions.sessions
            if isinstance(one.open, str) and isinstance(one.close, str)
        ],
        price_times=_instants([point.ts for point in prices]),
        prices=[point.price for point in prices],
        states=[point.state for point in prices],
        price_source={"stock": "stock", "underlying": "underlying mid"}.get(day.divergence.price_source, ""),
    )


def _instants(texts: list[str]) -> list[datetime]:
    return [datetime.fromisoformat(text) for text in texts]


def _times(instants: Iterable[datetime]) -> list[datetime]:
    # Matplotlib's axis shows naive times, here New York's.
    return [instant.astimezone(NEW_YORK).replace(tzinfo=None) for instant in instants]


def _draw_line(axes: Any, drawing: Drawing) -> None:
    axes.set_title(drawing.title, loc="left", fontweight="bold", parse_math=False)
    for session in drawing.sessions:
        axes.axvspan(*_times(session), color=_COLORS["session"], alpha=0.06, lw=0)
    axes.plot(_times(drawing.times), drawing.cumulative, color=_COLORS["line"], lw=1.4)
    for at, kind, value in drawing.turns:
        axes.plot(_times([at]), [value], marker="v" if kind == "high" else "^", color="black", ms=5)
    axes.axhline(0, color="grey", lw=0.5)
    axes.set_ylabel(f"cumulative net {drawing.unit}", color=_COLORS["line"])
    axes.grid(alpha=0.2)


def _draw_price(axes: Any, drawing: Drawing) -> None:
    if not drawing.prices:
        return
    times = _times(drawing.price_times)
    for place, state, following in _stretches(drawing.states):
        if state in _COLORS:
            axes.axvspan(times[place], times[following - 1], color=_COLORS[state], alpha=0.2, lw=0)
    prices = axes.twinx()
    prices.plot(times, drawing.prices, color=_COLORS["price"], lw=0.8)
    source = f" ({drawing.price_source})" if drawing.price_source else ""
    prices.set_ylabel(f"price, USD{source}", color=_COLORS["price"])


def _stretches(states: list[str]) -> list[tuple[int, str, int]]:
    """Return runs of one state: first index, state, the index after the last."""
    starts = [place for place, state in enumerate(states) if place == 0 or states[place - 1] != state]
    return [(low, states[low], high) for low, high in pairwise([*starts, len(states)])]


def _draw_minutes(axes: Any, drawing: Drawing) -> None:
    from matplotlib.dates import DateFormatter

    colors = [_COLORS["buy" if value >= 0 else "sell"] for value in drawing.net]
    axes.bar(_times(drawing.times), drawing.net, width=_MINUTE, color=colors)
    axes.set_ylabel(f"net {drawing.unit}")
    axes.set_xlabel("New York")
    clock = "%m-%d %H:%M" if drawing.dated else "%H:%M"
    axes.xaxis.set_major_formatter(DateFormatter(clock))  # type: ignore[no-untyped-call]
    axes.grid(alpha=0.2)
