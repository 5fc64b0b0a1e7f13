"""Turning points: the highs and lows at which the cumulative line reversed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flowtape.model.exact import Ints, Numbers


class Turns(NamedTuple):
    """Arrays of one length, the largest turn first.

    `place` is the position among the line's points, `high` is false for a low, `prominence` is in the line's unit.
    """

    place: Ints
    high: npt.NDArray[np.bool_]
    prominence: Numbers


def turning_points(line: Numbers, most: int) -> Turns:
    """Return the largest reversals of a line, at most `most`.

    They are ranked by topographic prominence, as in `scipy.signal.peak_prominences`. For a high, take the lowest point
    between it and the next higher point (or the line's end) on each side; the prominence is its height above the higher
    of the two. For a low, the same holds for the inverted line. A level stretch counts as its first point. The line's
    ends are not turns. Of equal turns the earlier is first.
    """
    values, first = _without_repeats(line)
    found = []
    for high in (True, False):
        heights = values if high else -values
        inner = heights[1:-1]
        peaks = np.flatnonzero((inner > heights[:-2]) & (inner > heights[2:])) + 1
        prominence = heights[peaks] - np.maximum(_bases(heights)[peaks], _bases(heights[::-1])[::-1][peaks])
        found.append((first[peaks], np.full(len(peaks), high), prominence))
    place, kind, prominence = (np.concatenate(column) for column in zip(*found, strict=True))
    order = place[:0]
    if len(place):
        order = np.array(sorted(range(len(place)), key=lambda one: (-prominence[one], place[one]))[:most])
    return Turns(place[order], kind[order], prominence[order])


def _without_repeats(line: Numbers) -> tuple[Numbers, Ints]:
    """Return the line with each level stretch as one point, and the position of the first point of each."""
    first = np.flatnonzero(np.diff(line, prepend=line[:1] - 1))
    return line[first], first


def _bases(heights: Numbers) -> Numbers:
    """Return, for each point, the lowest height between it and the next higher point to its left, or the line's
    start."""
    bases = np.empty_like(heights)
    # Points to the left that no later point is above, highest first, each with the lowest height since the one before.
    open_points: list[tuple[int, int]] = []
    for place, height in enumerate(heights.tolist()):
        lowest = height
        while open_points and open_points[-1][0] <= height:
            lowest = min(lowest, open_points.pop()[1])
        open_points.append((height, lowest))
        bases[place] = lowest
    return bases
