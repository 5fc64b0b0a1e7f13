"""As-of join: find the prevailing quote of each trade where a source sends trades and quotes apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date

import polars as pl

from flowtape.errors import TapeError
from flowtape.model.prints import QuoteClass, trading_days
from flowtape.orderflow.identity import better

STANDING = {
    "instrument": pl.String,
    "ts": pl.Int64,
    "seq": pl.Int64,
    "bid": pl.Int64,
    "ask": pl.Int64,
    "bid_size": pl.Int64,
    "ask_size": pl.Int64,
}
"""The schema of the last quotes of instruments at a feed's cursor: `ts` in ns UTC, prices in 1e-9 USD. `instrument` is
the source's own name of it, which is the same every day and in every session."""
QUOTE_COLUMNS = ("bid", "ask", "bid_size", "ask_size")
JOINED = (*QUOTE_COLUMNS, "quote_ts", "quote_seq", "quote_class")
"""The columns that the join adds to trades."""
PRECEDENCE = ("quote_class", "quote_ts", "quote_seq", *QUOTE_COLUMNS)
"""Of two quotes for one print, the one that is greater in these columns counts. They are the quote's columns of
`identity.PRECEDENCE`."""
FEW_QUOTES = 0.1
"""If more than this share (0 to 1) of a tape's prints has no quote in force, a warning follows the read."""
NO_QUOTE_OF = "no quote of "
_HELD_ROWS = 1_000_000

_Position = tuple[str, int]
"""A position in the files' order: the group (empty where the order is by time only) and the time."""
_START: _Position = ("", -(2**63))


def join_quotes(
    trades: pl.DataFrame, quotes: pl.DataFrame, by: Sequence[str], quote_class: str = "joined"
) -> pl.DataFrame:
    """Return trades with the last quote of their contract that is strictly earlier than the trade.

    A quote of an earlier day is attached too. Trade classification ignores it because of its `quote_ts`.

    Args:
        trades: has `ts` and the `by` columns.
        quotes: has `ts` (the same type, any unit), the `by` columns, `bid`, `ask`, `bid_size` and `ask_size`. Of quotes
            with the same `ts`, the greatest `seq` wins (if there is such a column), then the last row.
        by: the columns that name a contract.
        quote_class: the class of these quotes.

    Returns:
        The trades in their order, with the four quote columns, `quote_ts` and `quote_seq`, which are null where there
        is no earlier quote, and with `quote_class`, which is "none" there.
    """
    order = ["ts", "seq"] if "seq" in quotes.columns else ["ts"]
    known = (
        quotes.join(trades.select(by).unique(), on=list(by), how="semi", maintain_order="left")
        .sort(order, maintain_order=True)
        .select(*by, *QUOTE_COLUMNS, pl.col("ts").alias("quote_ts"), _sequence(quotes).alias("quote_seq"))
    )
    known_class = (
        pl.when(pl.col("quote_ts").is_not_null()).then(pl.lit(quote_class)).otherwise(pl.lit("none"))
    )
    return (
        trades.with_row_index("#place")
        .sort("ts")
        .join_asof(
            known,
            left_on="ts",
            right_on="quote_ts",
            by=list(by),
            strategy="backward",
            allow_exact_matches=False,
            coalesce=False,
            check_sortedness=False,
        )
        .sort("#place")
        .drop("#place")
        .with_columns(known_class.cast(QuoteClass).alias("quote_class"))
    )


def _sequence(quotes: pl.DataFrame) -> pl.Expr:
    return pl.col("seq").cast(pl.Int64) if "seq" in quotes.columns else pl.lit(None, pl.Int64)


def best(joined: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return trades with the best of their quotes (`PRECEDENCE`); `joined` holds the same trades with other quotes
    each.
    """
    found = joined[0]
    for other in joined[1:]:
        both = found.select(PRECEDENCE).hstack(other.select(pl.col(PRECEDENCE).name.prefix("other_")))
        wins = both.select(better("other_", "", PRECEDENCE)).to_series()
        found = found.with_columns(other[name].zip_with(wins, found[name]) for name in JOINED)
    return found


class QuoteJoin:
    """The as-of join of `join_quotes` for large files: trades arrive in batches, quotes are read as needed.

    Both files have the same order: by `ts`, or, if `grouped`, by the first column of `by` (text) and by `ts` within it.
    In a file ordered by `ts`, a row may be late by up to `slack` (in the unit of `ts`). The join holds the last quote
    of each contract and about a million further rows. A file whose order is too far off for a correct result raises
    `TapeError`, in `finish` at the latest.
    """

    def __init__(
        self,
        quotes: Iterator[pl.DataFrame],
        by: Sequence[str],
        *,
        grouped: bool = False,
        slack: int = 0,
        names: tuple[str, str] = ("trades", "quotes"),
        quote_class: str = "joined",
    ) -> None:
        """Take the quotes. `names` are the names of the trades and the quotes in errors. `quote_class` is "joined"
        where the file has every quote and "sampled" where it has samples of them."""
        self.trade_days, self.quote_days = Counter[date](), set[date]()
        """The number of trades of each trading day, and the trading days that have quotes."""
        self._class = quote_class
        self._quotes, self._by, self._grouped, self._slack = quotes, list(by), grouped, slack
        self._names = names
        self._held: list[pl.DataFrame] = []
        self._new_rows = 0
        self._exhausted = False
        self._seen = self._floor = self._answered = _START

    def attach(self, trades: pl.DataFrame) -> pl.DataFrame:
        """Return the next batch of trades, in its order, with their quotes. Raises `TapeError`."""
        if trades.is_empty():
            return join_quotes(trades, self._known(trades), self._by, self._class)
        self.trade_days.update(dict(_days(trades).value_counts().iter_rows()))
        if self._span(trades)[0] < self._floor:
            raise TapeError(f"{self._names[0]}: trades not in order of {self._order}")
        rest = trades.with_row_index("#batch_place")
        parts = []
        while not rest.is_empty():
            self._pull(self._span(rest)[1])
            late = self._before(self._seen, inclusive=True)
            ready, rest = (rest, rest.clear()) if self._exhausted else (rest.filter(late), rest.filter(~late))
            if not ready.is_empty():
                parts.append(join_quotes(ready, self._known(trades), self._by, self._class))
                self._answered = max(self._answered, self._span(ready)[1])
            if self._new_rows >= _HELD_ROWS:
                group, latest = self._span(trades)[1]
                next_batch = (group, latest - self._slack)
                self._forget(next_batch if rest.is_empty() else min(self._span(rest)[0], next_batch))
        return pl.concat(parts).sort("#batch_place").drop("#batch_place")

    def finish(self) -> None:
        """Read the remaining quotes, so that faults in them are found. Raises `TapeError`."""
        for quotes in self._quotes:
            self._check(quotes)
        self._exhausted = True

    @property
    def _order(self) -> str:
        return f"{self._by[0]} and time" if self._grouped else "time"

    def _known(self, trades: pl.DataFrame) -> pl.DataFrame:
        if self._held:
            return pl.concat(self._held)
        quote = dict.fromkeys(QUOTE_COLUMNS, pl.Int64)
        return (
            trades.clear()
            .select(*self._by, "ts")
            .with_columns(pl.lit(None, kind).alias(name) for name, kind in quote.items())
        )

    def _pull(self, wanted: _Position) -> None:
        """Read quotes until none earlier than `wanted` can follow, or enough of them are held."""
        self._new_rows = 0 if self._new_rows >= _HELD_ROWS else self._new_rows
        while not self._exhausted and self._seen < wanted and self._new_rows < _HELD_ROWS:
            quotes = next(self._quotes, None)
            if quotes is None:
                self._exhausted = True
            elif not quotes.is_empty():
                group, latest = self._check(quotes)
                self._seen = max(self._seen, (group, latest - self._slack))
                self._held.append(quotes)
                self._new_rows += quotes.height

    def _check(self, quotes: pl.DataFrame) -> _Position:
        """Return the last position in a frame of quotes, after a check that none is earlier than a joined trade."""
        first, last = self._span(quotes) if not quotes.is_empty() else (self._answered, self._seen)
        self.quote_days.update(_days(quotes).unique())
        if first < self._answered:
            raise TapeError(f"{self._names[1]}: quotes not in order of {self._order}")
        return last

    def _forget(self, floor: _Position) -> None:
        """Drop the quotes before `floor`, except the last of each contract, which later trades need."""
        held = pl.concat(self._held)
        early = self._before(floor)
        order = ["ts", "seq"] if "seq" in held.columns else ["ts"]
        old = held.filter(early & (pl.col(self._by[0]) == floor[0]) if self._grouped else early)
        last = old.sort(order, maintain_order=True).unique(self._by, keep="last", maintain_order=True)
        self._held = [last, held.filter(~early)]
        self._floor = max(self._floor, floor)

    def _span(self, frame: pl.DataFrame) -> tuple[_Position, _Position]:
        """Return the first and last position of a frame's rows in the files' order."""
        ts = pl.col("ts").to_physical()
        if not self._grouped:
            low, high = frame.select(ts.min().alias("low"), ts.max().alias("high")).row(0)
            return ("", low), ("", high)
        group = pl.col(self._by[0])
        first, last, low, high = frame.select(
            group.min().alias("first"),
            group.max().alias("last"),
            ts.filter(group == group.min()).min().alias("low"),
            ts.filter(group == group.max()).max().alias("high"),
        ).row(0)
        return (first, low), (last, high)

    def _before(self, place: _Position, *, inclusive: bool = False) -> pl.Expr:
        ts = pl.col("ts").to_physical()
        earlier = ts <= place[1] if inclusive else ts < place[1]
        group = pl.col(self._by[0])
        return (group < place[0]) | ((group == place[0]) & earlier) if self._grouped else earlier


def _days(frame: pl.DataFrame) -> pl.Series:
    """Return the trading day of each row; empty where `ts` is a bare number."""
    if not isinstance(frame.schema["ts"], pl.Datetime):
        return pl.Series("day", [], pl.Date)
    return trading_days(frame["ts"])


def few_quotes(unquoted: int, prints: int) -> str | None:
    """Return a warning if more than the share `FEW_QUOTES` of the prints has no quote in force; else None."""
    if unquoted <= FEW_QUOTES * prints:
        return None
    return (
        f"{unquoted:,} of {prints:,} prints ({unquoted / prints:.0%}) have no quote in force: their side is mid."
        " Give the quotes of the same day together with the trades"
    )


def note_days_without_quotes(joins: Sequence[QuoteJoin], notes: Counter[str]) -> None:
    """Note the trading days of the trades for which no file has quotes. Call it after the whole join."""
    days = set[date]().union(*(join.quote_days for join in joins))
    for day, trades in joins[0].trade_days.items() if joins else ():
        if day not in days:
            notes[f"{NO_QUOTE_OF}{day} was given: its prints have no quote in force"] += trades
