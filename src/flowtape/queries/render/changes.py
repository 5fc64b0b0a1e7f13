"""The difference between two answers to one query: the changes of a cumulative answer, and the digest of a
leaderboard."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape.queries.cumulative import Cumulative
from flowtape.queries.leaders import Leaderboard
from flowtape.queries.render.bodies import Rows

Numbers = npt.NDArray[Any]
_SEED = secrets.randbits(63)
"""A random seed per process, so that a client cannot construct two points with the same hash."""
_OBJECTS = ("families", "median_quote_age_ms")
"""Columns with values other than numbers and texts."""


class Line(NamedTuple):
    """The points of a cumulative answer as arrays of one length, 24 bytes per point.

    `ts` is in seconds since 1970 and rises. `rest` is a hash of each point's fields other than `ts` and `cumulative`.
    `cumulative` holds whole numbers or floats.
    """

    ts: Numbers
    rest: Numbers
    cumulative: Numbers

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(int(column.nbytes) for column in self)

    def same(self, other: Line) -> bool:
        """Return whether two answers to one query have the same points."""
        return all(np.array_equal(mine, theirs) for mine, theirs in zip(self, other, strict=True))


def line_of(body: Cumulative) -> Line:
    """Return the line of a cumulative body."""
    columns = _columns(body)
    if not columns["ts"]:
        return Line(np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int64))
    rest = pl.DataFrame(
        [_hashable(name, values) for name, values in columns.items() if name not in ("ts", "cumulative")]
    )
    times = np.array([ts[:-1] for ts in columns["ts"]], "datetime64[s]")
    hashes = rest.hash_rows(seed=_SEED).to_numpy()
    return Line(times.astype(np.int64), hashes, np.array(columns["cumulative"]))


def _columns(body: Cumulative) -> dict[str, Sequence[Any]]:
    if not isinstance(body.points, Rows):
        raise TypeError("a body's points are rows of columns")
    return body.points.columns


def _hashable(name: str, values: Sequence[Any]) -> pl.Series:
    return pl.Series(name, [repr(value) for value in values] if name in _OBJECTS else values)


def change(before: Line, now: Line, body: Cumulative) -> dict[str, Any]:
    """Return the change from the previous body to `body`, whose line is `now`.

    A client drops the points before `first`, adds `shift` to `cumulative` of the others, and puts in `points` by `ts`.
    """
    points = body.points
    start = np.searchsorted(before.ts, now.ts[0]) if points else len(before.ts)
    kept = Line(*(column[start:] for column in before))
    _, mine, theirs = np.intersect1d(kept.ts, now.ts, assume_unique=True, return_indices=True)
    whole = kept.cumulative.dtype.kind == now.cumulative.dtype.kind == "i"
    # No shift of floats: the sums would differ in the last digit.
    shift = int(now.cumulative[theirs[0]] - kept.cumulative[mine[0]]) if whole and len(mine) else 0
    same = np.zeros(len(points), bool)
    same[theirs] = (kept.rest[mine] == now.rest[theirs]) & (
        kept.cumulative[mine] + shift == now.cumulative[theirs]
    )
    made = {
        "symbol": body.symbol,
        "minutes": body.minutes,
        "count": body.count,
        "first": points[0].ts if points else None,
        "shift": shift,
        "points": [points[place] for place in np.flatnonzero(~same)],
    }
    gone = np.setdiff1d(kept.ts, now.ts, assume_unique=True)
    texts = [f"{text}Z" for text in np.datetime_as_string(gone.astype("datetime64[s]"))]
    return made | ({"gone": texts} if texts else {})


def digest(body: Leaderboard) -> bytes:
    """Return a digest of all fields of a leaderboard but the time at which it was made."""
    lists = [dict(rows.columns) for rows in (body.buyers, body.sellers) if isinstance(rows, Rows)]
    return hashlib.blake2b(msgspec.msgpack.encode(lists)).digest()
