"""Where the line turned."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Turns(NamedTuple):
    """Arrays of one length, the largest turn first: `place` among the line's points, `high` or low, and
    `prominence` in the line's unit."""

    place: Ints
    high: npt.NDArray[np.bool_]
    prominence: Ints


def turning_points(line: Ints, most: int) -> Turns:
    """The largest reversals of a line, at most so many.

    A high's prominence is its height above the higher of the lowest points that lie between it and the next higher
    ground on either side, or the line's end; a low's is that of the line turned over. This is topographic
    prominence as `scipy.signal.peak_prominences` has it. Of a level stretch the first point is the turn. The line's
    ends are no turns. Of equals the earlier is first.
    """
    from scipy.signal import find_peaks, peak_prominences

    found = []
    for high in (True, False):
        # In doubles, which hold the integers that a tape can sum to.
        heights = (line if high else -line).astype(np.float64)
        middles, level = find_peaks(heights, plateau_size=1)
        prominence = peak_prominences(heights, middles)[0].astype(np.int64)
        found.append((level["left_edges"].astype(np.int64), np.full(len(middles), high), prominence))
    place, kind, prominence = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((place, -prominence))[:most]
    return Turns(place[order], kind[order], prominence[order])
