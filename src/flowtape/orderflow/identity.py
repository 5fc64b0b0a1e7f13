"""The identity of a row, the choice between duplicates, and the order of events.

A row's key is `prints.IDENTITY` with its source. Rows of one key with a sequence number (`seq` other than 0) are
duplicates of one print. Rows of one key without one are different prints, numbered 1, 2, … within their file (`copy`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from flowtape.errors import TapeError
from flowtape.model.prints import CONTRACT, IDENTITY, Asset

EVENT_ORDER = ("ts", "seq", "venue", *CONTRACT, "price", "size", "condition", "copy")
"""The order of events. It defines "earlier", "first" and "latest". All prints of a source differ in these columns."""
SLOT = ("venue", *CONTRACT, "ts", "seq")
"""The columns in which a correction agrees with the row it corrects; `seq` is not 0."""
PRECEDENCE = (
    "corrects", "quote_class", "quote_ts", "quote_seq", "bid", "ask", "bid_size", "ask_size", "underlying",
    "price_flags",
)  # fmt: skip
"""Of duplicates, the greatest in these columns is kept; null is least. A better class of quote wins, then a later
quote, then greater values. The columns after the quote's make the result independent of the order of arrival."""
HELD_ROWS = 64_000_000
"""The number of rows without a sequence whose hashes (8 bytes each) are held to number equal rows of a file."""
_BLOCK_ROWS = 8_000_000
_NUMBERED = tuple(name for name in IDENTITY if name not in ("seq", "copy"))
_LEAST = -(2**63)


class Rising:
    """A proof that a tape has no duplicates: the sequence numbers of each asset only rise.

    It costs one pass over a column. Nearly every tape passes.
    """

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}

    def holds(self, prints: pl.DataFrame) -> bool:
        """Return whether it holds for all rows so far and these next rows."""
        for asset in Asset.categories:
            mine = prints["asset"] == asset
            seq = prints["seq"] if mine.all() else prints["seq"].filter(mine)
            if seq.is_empty():
                continue
            newest = self._newest.get(asset)
            if not (seq.diff().slice(1) > 0).all() or (newest is not None and seq[0] <= newest):
                return False
            self._newest[asset] = int(seq[-1])
        return True


def unique(prints: pl.DataFrame) -> pl.DataFrame:
    """Return the prints without duplicates and without rows that another row corrects, in the order given.

    Of the rows of one key, the greatest by `PRECEDENCE` is kept.

    `prints` has the columns of `prints.SCHEMA`, with `copy` numbered, and maybe more.
    """
    if Rising().holds(prints):
        return prints
    prints = current(prints)
    repeated = prints.select(IDENTITY).hash_rows().is_duplicated()
    if not repeated.any():
        return prints
    few = prints.select(*IDENTITY, *PRECEDENCE).with_row_index("#row").filter(repeated)
    # `keep="last"` of equal rows: the row number makes it the last one given.
    kept = few.sort(*PRECEDENCE, "#row", nulls_last=False).unique(list(IDENTITY), keep="last")["#row"]
    return prints.filter((~repeated).scatter(kept, values=True))


def current(prints: pl.DataFrame) -> pl.DataFrame:
    """Return the prints without those that others among them correct.

    A row with `corrects` replaces all rows of its `SLOT`. Of several corrections, the greatest by price, size and
    condition wins.
    """
    if not (prints["corrects"] > 0).any():
        return prints
    numbered = prints.filter(pl.col("corrects") > 0, pl.col("seq") != 0)
    slots = numbered.select(SLOT).unique()
    order = ("corrects", "price", "size", "condition")
    few = prints.select(*SLOT, *order[:-1], "condition").with_row_index("#row")
    few = few.join(slots, on=list(SLOT), how="semi", nulls_equal=True).sort(*order)
    best = few.unique(list(SLOT), keep="last").select(*SLOT, *order[1:])
    losers = few.join(best, on=[*SLOT, *order[1:]], how="anti", nulls_equal=True)["#row"]
    keep = pl.repeat(True, prints.height, eager=True)
    return prints.filter(keep.scatter(losers, values=False))


def better(one: str, other: str, columns: Sequence[str] = PRECEDENCE) -> pl.Expr:
    """Return the SQL predicate for: the columns prefixed `one` are greater than those prefixed `other`. The first
    column that differs counts; null is least."""
    greater = pl.lit(value=False)
    for name in reversed(columns):
        left, right = (
            pl.col(prefix + name).to_physical().cast(pl.Int64).fill_null(_LEAST) for prefix in (one, other)
        )
        greater = (left > right) | ((left == right) & greater)
    return greater


@dataclass(slots=True)
class _Block:
    """Earlier rows: the range of their times and roots, and their hashes (None once dropped)."""

    low: int
    high: int
    first: str
    last: str
    rows: int
    hashes: pl.Series | None

    def with_(self, other: _Block) -> _Block:
        """Return this block merged with another."""
        assert self.hashes is not None  # noqa: S101 - for the type checker
        assert other.hashes is not None  # noqa: S101
        return _Block(
            min(self.low, other.low),
            max(self.high, other.high),
            min(self.first, other.first),
            max(self.last, other.last),
            self.rows + other.rows,
            pl.concat([self.hashes, other.hashes], rechunk=True),
        )


class Copies:
    """Number equal rows without a sequence over a whole file that is read in batches, in any order of its rows.

    Rows are compared by a 64-bit hash of their key. Up to `held_rows` hashes are held. Beyond that, those are dropped
    that a file ordered by time or by symbol does not need again.
    """

    def __init__(self, name: str = "prints", held_rows: int = HELD_ROWS) -> None:
        """Take the file's `name` for errors."""
        self._name, self._held_rows = name, held_rows
        self._blocks: list[_Block] = []

    def number(self, prints: pl.DataFrame) -> pl.DataFrame:
        """Return the next rows (`prints.SCHEMA`) with their `copy`, which is 1 for every row that has a sequence.

        Raises:
            TapeError: a row is so far out of order that it cannot be compared with all rows before it.
        """
        bare = prints["seq"] == 0
        if not bare.any():
            return prints
        every = bool(bare.all())
        few = prints if every else prints.filter(bare)
        hashes = few.select(_NUMBERED).hash_rows()
        copies = self._places(few, hashes)
        if copies is None:
            return prints
        if not every:
            ones = pl.repeat(1, prints.height, dtype=pl.Int64, eager=True)
            copies = ones.scatter(bare.arg_true(), copies)
        return prints.with_columns(copies.alias("copy"))

    def _places(self, few: pl.DataFrame, hashes: pl.Series) -> pl.Series | None:
        """Return the number of each row among the rows with its hash, from 1; None where all are 1."""
        ts = few["ts"].to_physical()
        roots = few["root"].unique().cast(pl.String).sort()
        block = _Block(int(ts.min()), int(ts.max()), roots[0], roots[-1], len(hashes), hashes)  # type: ignore[arg-type]
        before = [found for other in self._blocks for found in self._counts(other, few, roots, ts, hashes)]
        within = hashes.is_duplicated()
        places: pl.Series | None = None
        if within.any():
            places = pl.repeat(1, len(hashes), dtype=pl.Int64, eager=True)
            rows = few.select(PRECEDENCE).with_columns(hashes.alias("#hash")).with_row_index("#row")
            rows = rows.filter(within).sort(*PRECEDENCE, nulls_last=False)
            rows = rows.with_columns(place=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("#hash"))
            places = places.scatter(rows["#row"], rows["place"])
        if before:
            places = pl.repeat(1, len(hashes), dtype=pl.Int64, eager=True) if places is None else places
            earlier = pl.concat(before).group_by("hash").agg(pl.col("count").sum().cast(pl.Int64))
            more = hashes.alias("hash").to_frame().join(earlier, on="hash", how="left", maintain_order="left")
            places = places + more["count"].fill_null(0)
        self._keep(block)
        return places

    def _counts(
        self, block: _Block, few: pl.DataFrame, roots: pl.Series, ts: pl.Series, hashes: pl.Series
    ) -> Iterator[pl.DataFrame]:
        """Yield how often the hashes of these rows occur in an earlier block: `hash` and `count`."""
        shared = roots.filter(roots.is_between(block.first, block.last))
        if shared.is_empty() or block.low > ts.max() or block.high < ts.min():  # type: ignore[operator]
            return
        near = ts.is_between(block.low, block.high)
        if len(shared) < len(roots):
            near &= few["root"].is_in(shared.cast(few["root"].dtype).implode())
        if not near.any():
            return
        if block.hashes is None:
            raise TapeError(
                f"{self._name}: more than {self._held_rows:,} rows without a sequence number, in order of neither time"
                f" nor symbol: sort the file by ts, or give it a column seq"
            )
        wanted = hashes.filter(near)
        found = block.hashes.filter(block.hashes.is_in(wanted.implode()))
        if len(found):
            yield found.alias("hash").value_counts()

    def _keep(self, block: _Block) -> None:
        self._blocks.append(block)
        while len(self._blocks) > 1:
            one, other = self._blocks[-2:]
            if one.hashes is None or one.rows > 4 * other.rows or one.rows + other.rows > _BLOCK_ROWS:
                break
            self._blocks[-2:] = [one.with_(other)]
        held = [one for one in self._blocks if one.hashes is not None]
        while sum(one.rows for one in held) > self._held_rows and len(held) > 1:
            held.pop(0).hashes = None
