"""As-of join of live trades and quotes that arrive separately, late, out of order and repeated."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import polars as pl

from flowtape.errors import FeedError, UsageError
from flowtape.feeds.base import Outlet
from flowtape.model.prints import FIRST_DAY, QuoteClass, Timestamp, latest_instant, out_of_range
from flowtape.orderflow.quotes import QUOTE_COLUMNS, STANDING

_QUOTE = ("quote_ts", "quote_seq", *QUOTE_COLUMNS)
"""The order of quotes: by time, then by number, then by content, so that the order of arrival does not matter."""
_NO_VALUE = -(2**63)
_RENAMED = {"ts": "quote_ts", "seq": "quote_seq"}
_BLOCK_ROWS = 30_000
AHEAD = 3600 * 10**9
"""How far (ns) a source's time may be ahead of this machine's clock. Later times are invalid."""
ABSURD = f"times before {FIRST_DAY} or more than an hour ahead of the clock, left out"


def timely(frame: pl.DataFrame, outlet: Outlet) -> pl.DataFrame:
    """Return the rows with a valid `ts`, and count the others. One invalid time would stay the newest of its day."""
    outside = out_of_range(frame["ts"], latest_instant(AHEAD))
    if outside is None:
        return frame
    outlet.count(ABSURD, int(outside.sum()))
    return frame.filter(~outside)


@dataclass(slots=True)
class _Block:
    """Trades held, as two frames of the same rows: the source's columns, and instrument, time and quote. Trades that
    arrive together have similar times, so late quotes affect only the last few blocks."""

    trades: pl.DataFrame
    known: pl.DataFrame


class LiveJoin:
    """Joins each trade with the last quote of its instrument strictly before it, and updates it when a later one
    arrives.

    If no row arrives more than `horizon` after a newer row, the last copy of each trade does not depend on the order of
    arrival, nor on a restart at `floor` with the stored quotes. The last copy is the one with the latest `quote_ts`.
    The join holds the last quote of each instrument, and all rows within `horizon` and `advance_every`.

    Attributes:
        floor: ns UTC. A process that resumes must receive everything from here on again. None before any data.
        late: the number of quotes left out because they are older than the floor and than the prevailing quote there.
        late_trades: the number of trades without a quote because earlier quotes are no longer held.
    """

    floor: int | None
    late: int
    late_trades: int

    def __init__(
        self, horizon: float = 60.0, advance_every: float = 10.0, now: Callable[[], int] = time.time_ns
    ) -> None:
        """Take two durations in seconds of event time, and the clock `now` (ns UTC). Times after it do not move the
        floor.

        Raises:
            UsageError: a duration is negative or not a number.
        """
        for name, value in (("horizon", horizon), ("advance_every", advance_every)):
            if not 0 <= value < float("inf"):
                raise UsageError(f"{name} is {value}, not a number of seconds")
        self.floor, self.late, self.late_trades, self._now = None, 0, 0, now
        self._horizon, self._advance_every = round(horizon * 1e9), round(advance_every * 1e9)
        self._newest = self._restored = _NO_VALUE
        self._advanced = False
        # The categories belong to this join and are freed with it. Their numbers from 0 on are the rows of `_standing`.
        self._instrument = pl.Categorical(pl.Categories.random("live join"))
        quote = dict.fromkeys(_QUOTE, pl.Int64)
        self._standing = pl.DataFrame(schema=quote)
        self._quotes: list[pl.DataFrame] = [pl.DataFrame(schema={"instrument": self._instrument, **quote})]
        self._new_quotes: list[pl.DataFrame] = []
        self._new_trades: list[pl.DataFrame] = []
        self._blocks: list[_Block] = []
        self._ready: list[pl.DataFrame] = []
        said = pl.DataFrame(schema={"instrument": pl.String, "ts": Timestamp})
        self._nothing = _given(said, self._standing)

    def restore(self, standing: pl.DataFrame) -> None:
        """Restore the prevailing quotes at the cursor (`quotes.STANDING`). Call it before any data."""
        if standing.is_empty():
            return
        quotes = self._last(self._named(standing))
        self._stand(quotes)
        # All these quotes precede the cursor, so the floor never needs to move back before them.
        self._restored = max(self._restored, cast(int, quotes["quote_ts"].max()) + 1)

    def add_quotes(self, quotes: pl.DataFrame) -> None:
        """Add quotes with the columns of `quotes.STANDING`, in any order. Repeats have no effect.

        Raises:
            FeedError: `instrument` or `ts` is null.
        """
        if quotes.is_empty():
            return
        _check(quotes, "quotes")
        named = self._named(quotes)
        self._see(named["quote_ts"])
        if cast(int, named["quote_ts"].min()) < cast(int, self.floor):
            stood = self._standing_for(named["instrument"]).select(pl.all().name.prefix("stood_"))
            late = pl.col("quote_ts").lt(self.floor) & _later("stood_", "")
            left = named.hstack(stood).filter(~late).select(named.columns)
            self.late += named.height - left.height
            named = left
        self._new_quotes.append(named)

    def add_trades(self, trades: pl.DataFrame) -> None:
        """Add trades in any order.

        They have `instrument` (String), `ts` (`prints.Timestamp`) and any other columns that are not those of a quote,
        the same ones in every call.

        Raises:
            FeedError: `instrument` or `ts` is null.
        """
        if trades.is_empty():
            return
        _check(trades, "trades")
        self._see(trades["ts"].to_physical())
        self._new_trades.append(trades)

    def due(self) -> pl.DataFrame:
        """Return trades that are new, or have a later quote than before.

        Returns:
            The trades with `bid`, `ask`, `bid_size`, `ask_size`, `quote_ts`, `quote_seq` (null where no quote is known)
            and `quote_class`. If a trade occurs twice, the last copy is valid.
        """
        self._join()
        ready, self._ready = self._ready, []
        return pl.concat(ready) if ready else self._nothing

    def advance(self) -> pl.DataFrame | None:
        """Move `floor` to `horizon` before the newest row, if enough data has arrived, and drop what is older.

        Returns:
            The prevailing quotes at the new floor (`quotes.STANDING`) of instruments where they changed; None if the
            floor did not move. Trades still `due` belong to this delivery or an earlier one.
        """
        if self.floor is None or self._newest <= self.floor + self._horizon + self._advance_every:
            return None
        self._join()
        self.floor, self._advanced = self._newest - self._horizon, True
        for block in self._blocks:
            kept = block.known["ts"] >= self.floor
            block.trades, block.known = block.trades.filter(kept), block.known.filter(kept)
        self._blocks = [block for block in self._blocks if not block.known.is_empty()]
        held = pl.concat(self._quotes)
        old = pl.col("quote_ts") < self.floor
        last = self._last(held.filter(old))
        self._quotes = [held.filter(~old)]
        stood = self._standing_for(last["instrument"]).select(pl.all().name.prefix("stood_"))
        changed = last.hstack(stood).filter(_later("", "stood_")).select(last.columns)
        self._stand(changed)
        rename = {new: old for old, new in _RENAMED.items()}
        return changed.rename(rename).select(pl.col(name).cast(kind) for name, kind in STANDING.items())

    def _see(self, ts: pl.Series) -> None:
        # An invalid time in the future must not make all valid rows late, so the newest time is at most now.
        low, high = (min(cast(int, found), self._now()) for found in (ts.min(), ts.max()))
        self._newest = max(self._newest, high)
        if not self._advanced:
            # Nothing is dropped yet, so the first rows may have any age (such as the quotes a vendor sends at first).
            first = low - self._horizon
            self.floor = max(first if self.floor is None else min(self.floor, first), self._restored)

    def _named(self, quotes: pl.DataFrame) -> pl.DataFrame:
        return quotes.rename(_RENAMED).select(
            pl.col("instrument").cast(self._instrument), pl.col(_QUOTE).cast(pl.Int64)
        )

    def _last(self, quotes: pl.DataFrame) -> pl.DataFrame:
        return quotes.sort(_QUOTE).unique("instrument", keep="last", maintain_order=True)

    def _standing_for(self, instruments: pl.Series) -> pl.DataFrame:
        """Return the prevailing quote for each instrument of a column, a row of nulls where there is none."""
        rows = instruments.to_physical()
        wanted = cast(int, rows.max() if len(rows) else 0) + 1
        if wanted > self._standing.height:
            more = max(wanted, 2 * self._standing.height) - self._standing.height
            self._standing = pl.concat([self._standing, self._standing.clear(more)], rechunk=True)
        return self._standing.select(pl.all().gather(rows))

    def _stand(self, quotes: pl.DataFrame) -> None:
        self._standing_for(quotes["instrument"])
        _overwrite(self._standing, quotes["instrument"].to_physical(), quotes)

    def _join(self) -> None:
        """Update the quotes of all held trades with the data added since."""
        if self._new_quotes:
            quotes = pl.concat(self._new_quotes)
            self._new_quotes = []
            earliest = quotes["quote_ts"].min()
            for block in self._blocks:
                if cast(int, block.known["ts"].max()) > cast(int, earliest):
                    self._restate(block, quotes)
            self._hold(quotes)
        if self._new_trades:
            trades = pl.concat(self._new_trades)
            self._new_trades = []
            self._answer(trades)

    def _restate(self, block: _Block, quotes: pl.DataFrame) -> None:
        """Return trades again that were returned before, where one of these quotes is a later one before them."""
        touched = (
            block.known.with_row_index("row")
            .filter(
                pl.col("ts") > quotes["quote_ts"].min(),
                pl.col("instrument").is_in(quotes["instrument"].unique().implode()),
            )
            .rename({name: f"was_{name}" for name in _QUOTE})
        )
        if touched.is_empty():
            return
        better = _before(touched, quotes).filter(_later("", "was_"))
        if better.is_empty():
            return
        _overwrite(block.known, better["row"], better)
        self._ready.append(_given(block.trades[better["row"]], better))

    def _answer(self, trades: pl.DataFrame) -> None:
        """Join new trades with the quotes held so far, and hold the trades."""
        known = trades.select(pl.col("instrument").cast(self._instrument), pl.col("ts").to_physical())
        instruments = known["instrument"].unique()
        stood = self._standing_for(instruments).select(instruments, pl.all())
        latest = known["ts"].max()
        wanted = pl.col("instrument").is_in(instruments.implode()) & (pl.col("quote_ts") < latest)
        quotes = pl.concat([stood, *(held.filter(wanted) for held in self._quotes)])
        known = _before(known, quotes.drop_nulls("quote_ts"))
        stood_ts = self._standing_for(known["instrument"])["quote_ts"]
        too_old = (known["ts"] < self.floor) & known["quote_ts"].is_null() & stood_ts.is_not_null()
        self.late_trades += int(too_old.sum())
        given = _given(trades, known)
        self._ready.append(given)
        self._nothing = given.clear()
        self._blocks.append(_Block(trades, known))
        while len(self._blocks) > 1 and self._blocks[-2].known.height < _BLOCK_ROWS:
            one, other = self._blocks[-2:]
            if one.known.height >= 4 * other.known.height:
                break
            merged = (
                pl.concat(pair, rechunk=True)
                for pair in ((one.trades, other.trades), (one.known, other.known))
            )
            self._blocks[-2:] = [_Block(*merged)]

    def _hold(self, quotes: pl.DataFrame) -> None:
        """Hold quotes in few frames, each several times as long as the next, so that a row is copied only a few
        times."""
        self._quotes.append(quotes)
        while len(self._quotes) > 1 and self._quotes[-2].height < 4 * self._quotes[-1].height:
            self._quotes[-2:] = [pl.concat(self._quotes[-2:], rechunk=True)]


def _check(frame: pl.DataFrame, what: str) -> None:
    for name in ("instrument", "ts"):
        if frame[name].null_count():
            raise FeedError(f"{what}: row {frame[name].is_null().arg_max()} has no {name}")


def _given(trades: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    joined = pl.when(pl.col("quote_ts").is_not_null()).then(pl.lit("joined")).otherwise(pl.lit("none"))
    quote = known.select(
        *QUOTE_COLUMNS,
        pl.col("quote_ts").cast(Timestamp),
        "quote_seq",
        joined.cast(QuoteClass).alias("quote_class"),
    )
    return trades.hstack(quote)


def _before(trades: pl.DataFrame, quotes: pl.DataFrame) -> pl.DataFrame:
    """Return the trades, in their order, each with the last of the quotes strictly before it."""
    return (
        trades.with_row_index("#place")
        .sort("ts")
        .join_asof(
            quotes.sort(_QUOTE),
            left_on="ts",
            right_on="quote_ts",
            by="instrument",
            strategy="backward",
            allow_exact_matches=False,
            coalesce=False,
            check_sortedness=False,
        )
        .sort("#place")
        .drop("#place")
    )


def _later(one: str, other: str) -> pl.Expr:
    """Return whether the quote in the columns prefixed `one` is later than that in those prefixed `other`; null is
    least.
    """
    later = pl.lit(value=False)
    for name in reversed(_QUOTE):
        left, right = (pl.col(prefix + name).fill_null(_NO_VALUE) for prefix in (one, other))
        later = (left > right) | ((left == right) & later)
    return later


def _overwrite(frame: pl.DataFrame, rows: pl.Series, quotes: pl.DataFrame) -> None:
    """Write quotes into rows of a frame, in place."""
    for name in _QUOTE:
        place = frame.get_column_index(name)
        frame.replace_column(place, frame[name].scatter(rows, quotes[name]))
