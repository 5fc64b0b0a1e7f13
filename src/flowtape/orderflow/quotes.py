"""The quote before each trade, where a source sends the two apart."""

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
"""The last quote of an instrument at the place a feed goes on from: `ts` in ns UTC, prices in 1e-9 USD.
`instrument` is the source's own name of it, the same from day to day and in every session."""
QUOTE_COLUMNS = ("bid", "ask", "bid_size", "ask_size")
JOINED = (*QUOTE_COLUMNS, "quote_ts", "quote_seq", "quote_class")
"""The columns that a join adds to trades."""
PRECEDENCE = ("quote_class", "quote_ts", "quote_seq", *QUOTE_COLUMNS)
"""Of two quotes of one print the greater in these columns counts: `identity.PRECEDENCE` as far as it is the quote's."""
FEW_QUOTES = 0.1
"""If more than this share (0 to 1) of a tape's prints has no quote in force, reading the tape ends with a warning."""
NO_QUOTE_OF = "no quote of "
_HELD_ROWS = 1_000_000

_Position = tuple[str, int]
"""A row's place in the files' order: its group (empty in an order by time alone) and its time."""
_START: _Position = ("", -(2**63))


def join_quotes(
    trades: pl.DataFrame, quotes: pl.DataFrame, by: Sequence[str], quote_class: str = "joined"
) -> pl.DataFrame:
    """Give each trade the last quote of its contract set strictly before it.

    Both frames hold `ts` (one type, any unit) and the `by` columns; quotes also `bid`, `ask`, `bid_size`,
    `ask_size`. Of quotes with one `ts` the last in `seq` wins (if they have that column), then the last in
    the frame. Returns the trades in their order with those four columns, `quote_ts` and `quote_seq`, null where no
    quote stands before, and `quote_class`: the given one, or "none". A quote of an earlier day is attached too: the
    side rule leaves it out by its `quote_ts`.
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
    """Of the same trades joined with several lots of quotes, each with the quote that counts (`PRECEDENCE`)."""
    found = joined[0]
    for other in joined[1:]:
        both = found.select(PRECEDENCE).hstack(other.select(pl.col(PRECEDENCE).name.prefix("other_")))
        wins = both.select(better("other_", "", PRECEDENCE)).to_series()
        found = found.with_columns(other[name].zip_with(wins, found[name]) for name in JOINED)
    return found


class QuoteJoin:
    """`join_quotes` for files too large to hold: trades come in batches, quotes are pulled as needed.

    Frames are as for `join_quotes`. Both files are in one order: by `ts` over the whole file, or, if
    `grouped`, ascending by the first of `by` (text) and by `ts` within it. Ordered by `ts`, a row may come
    late by up to `slack` (in the unit of `ts`). Held of the quotes are the last of each contract and about a
    million rows more. A file so far out of order that an answer would be wrong raises `TapeError`, at the
    latest in `finish`.
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
        """`names` are what errors call the trades and the quotes; `quote_class` is what the quotes are: "joined" for
        every quote there was, "sampled" for samples of them."""
        self.trade_days, self.quote_days = Counter[date](), set[date]()
        """How many trades there were of each trading day, and the days that quotes were of."""
        self._class = quote_class
        self._quotes, self._by, self._grouped, self._slack = quotes, list(by), grouped, slack
        self._names = names
        self._held: list[pl.DataFrame] = []
        self._new_rows = 0
        self._exhausted = False
        self._seen = self._floor = self._answered = _START

    def attach(self, trades: pl.DataFrame) -> pl.DataFrame:
        """The next batch of trades, in its order, with their quotes. Raises `TapeError`."""
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
        """Read the quotes left over, so that a fault in them is found. Raises `TapeError`."""
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
        """Take quotes until none can come that is older than `wanted`, or enough are held for a while."""
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
        """The last place in a frame of quotes, none of which may be older than a trade already answered."""
        first, last = self._span(quotes) if not quotes.is_empty() else (self._answered, self._seen)
        self.quote_days.update(_days(quotes).unique())
        if first < self._answered:
            raise TapeError(f"{self._names[1]}: quotes not in order of {self._order}")
        return last

    def _forget(self, floor: _Position) -> None:
        """Of the quotes before `floor`, keep the last of each contract, all that later trades need."""
        held = pl.concat(self._held)
        early = self._before(floor)
        order = ["ts", "seq"] if "seq" in held.columns else ["ts"]
        old = held.filter(early & (pl.col(self._by[0]) == floor[0]) if self._grouped else early)
        last = old.sort(order, maintain_order=True).unique(self._by, keep="last", maintain_order=True)
        self._held = [last, held.filter(~early)]
        self._floor = max(self._floor, floor)

    def _span(self, frame: pl.DataFrame) -> tuple[_Position, _Position]:
        """The first and last place of a frame's rows in the files' order."""
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
    """The trading day of each row; none where `ts` is no instant but a bare number."""
    if not isinstance(frame.schema["ts"], pl.Datetime):
        return pl.Series("day", [], pl.Date)
    return trading_days(frame["ts"])


def few_quotes(unquoted: int, prints: int) -> str | None:
    """A warning where more than `FEW_QUOTES` of some prints have no quote in force; else None."""
    if unquoted <= FEW_QUOTES * prints:
        return None
    return (
        f"{unquoted:,} of {prints:,} prints ({unquoted / prints:.0%}) have no quote in force: their side is mid."
        " Give the quotes of the same day together with the trades"
    )


def note_days_without_quotes(joins: Sequence[QuoteJoin], notes: Counter[str]) -> None:
    """Note the trading days of trades of which no lot of quotes has a quote. To be called once all is joined."""
    days = set[date]().union(*(join.quote_days for join in joins))
    for day, trades in joins[0].trade_days.items() if joins else ():
        if day not in days:
            notes[f"{NO_QUOTE_OF}{day} was given: its prints have no quote in force"] += trades
