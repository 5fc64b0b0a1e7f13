"""Draws `docs/picture.svg`: SPY's net volume a minute and its running sum over one simulated session.

Run as `python docs/make_picture.py [FILE]`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import flowtape
from flowtape.simulation.tape import Market, write_tape

DAY = date(2026, 5, 12)
MARKET = Market(seed=6)
OPEN = 13 * 60 + 30
MINUTES = 390

WIDTH, HEIGHT = 880, 400
LEFT, RIGHT = 74, WIDTH - 20
LINE = (64, 236)
BARS = (262, 362)
STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #57606a }
.title { font-size: 15px; fill: #1f2328 }
.end { text-anchor: end }
.middle { text-anchor: middle }
.grid { stroke: #d8dee4; stroke-width: 1 }
.zero { stroke: #8c959f; stroke-width: 1 }
.line { fill: none; stroke: #1f2328; stroke-width: 1.6; stroke-linejoin: round }
.buy { stroke: #1a7f5a; stroke-width: 1.4 }
.sell { stroke: #c2410c; stroke-width: 1.4 }
.buy-word { fill: #1a7f5a }
.sell-word { fill: #c2410c }
"""


class Scale:
    """Numbers → heights: a range of values onto a band of the picture, its top the largest."""

    def __init__(self, values: list[int], band: tuple[int, int], step: int) -> None:
        self.low = min(0, *values) // step * step
        self.high = -(-max(0, *values) // step) * step
        self.step = step
        self._top, self._bottom = band

    def __call__(self, value: int) -> float:
        """The height of a value."""
        share = (value - self.low) / (self.high - self.low)
        return round(self._bottom - share * (self._bottom - self._top), 1)

    def lines(self) -> Iterator[str]:
        """A grid line and a number for every step."""
        for value in range(self.low, self.high + 1, self.step):
            kind, y = "grid" if value else "zero", self(value)
            yield f'<path class="{kind}" d="M{LEFT} {y}H{RIGHT}"/>'
            yield f'<text class="end" x="{LEFT - 8}" y="{y + 4}">{value:,}</text>'


def x_of(minute: int) -> float:
    """The place of a minute of the session, from 0."""
    return round(LEFT + (minute + 0.5) * (RIGHT - LEFT) / MINUTES, 1)


def draw(points: list[tuple[int, int, int]]) -> str:
    """The picture of points (minute of the session, net volume, running sum)."""
    nets, sums = ([point[place] for point in points] for place in (1, 2))
    line, bars = Scale(sums, LINE, 10_000), Scale(nets, BARS, 5_000)
    path = "L".join(f"{x_of(minute)} {line(total)}" for minute, _, total in points)
    strokes = {
        side: "".join(f"M{x_of(at)} {bars(0)}V{bars(net)}" for at, net, _ in points if net * sign > 0)
        for side, sign in (("buy", 1), ("sell", -1))
    }
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
            f' height="{HEIGHT}" role="img" aria-labelledby="title">',
            f'<title id="title">SPY, one simulated session: cumulative net volume and net volume a minute</title>'
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#ffffff"/>',
            f'<text class="title" x="{LEFT}" y="26">SPY options, {DAY}, a simulated market</text>',
            f'<text x="{LEFT}" y="48">cumulative net volume, contracts</text>',
            f'<text x="{LEFT}" y="{BARS[0] - 8}">net volume a minute:'
            ' <tspan class="buy-word">bought</tspan> less <tspan class="sell-word">sold</tspan>'
            " by the aggressor</text>",
            *line.lines(),
            *bars.lines(),
            *hours(),
            *(f'<path class="{side}" d="{strokes[side]}"/>' for side in strokes),
            f'<path class="line" d="M{path}"/>',
            "</svg>\n",
        ]
    )


def hours() -> Iterator[str]:
    """The full hours of the session, UTC."""
    for minute in range(-OPEN % 60, MINUTES + 1, 60):
        hour = (OPEN + minute) // 60
        kind = "end" if minute == MINUTES else "middle"
        label = f"{hour}:00 UTC" if minute == MINUTES else f"{hour}:00"
        yield f'<text class="{kind}" x="{x_of(minute - 1)}" y="{HEIGHT - 16}">{label}</text>'


def points_of(market: Market, day: date) -> list[tuple[int, int, int]]:
    """SPY's points of a simulated session, made by the library as a notebook would."""
    with tempfile.TemporaryDirectory() as folder:
        tape = Path(folder) / "day.parquet"
        write_tape(market, day, tape)
        bars = flowtape.minutes(flowtape.sign(flowtape.read(tape)))
    line = flowtape.cumulative(bars, "SPY", minutes=MINUTES)
    minute = line["ts"].dt.hour().cast(int) * 60 + line["ts"].dt.minute() - OPEN
    return list(zip(minute, line["net_volume"], line["cumulative"], strict=True))


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("picture.svg")
    target.write_text(draw(points_of(MARKET, DAY)), encoding="utf-8")
