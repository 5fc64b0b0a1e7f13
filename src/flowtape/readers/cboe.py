"""Cboe DataShop (LiveVol) option trades, CSV: one row a trade, with the NBBO and the underlying's quote.

Times are Eastern wall time. After `number_of_exchanges`, the five columns exchange, bid_size, bid, ask_size and ask
repeat for each exchange, so lines differ in length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from flowtape.model.prices import NANOS, nanos, units
from flowtape.readers import Batch, Options, Rejects, Tape, common
from flowtape.readers.common import FIELDS, Csv, Field

SOURCE = "cboe"
COLUMNS = (
    "underlying_symbol", "quote_datetime", "sequence_number", "root", "expiration", "strike", "option_type",
    "exchange_id", "trade_size", "trade_price", "trade_condition_id", "best_bid", "best_ask",
    "underlying_bid", "underlying_ask",
)  # fmt: skip
_COUNT = "number_of_exchanges"
_GROUP = ("exchange", "bid_size", "bid", "ask_size", "ask")


def matches(path: Path, start: bytes) -> bool:
    """Return whether the header is that of a Cboe trades file."""
    return set(COLUMNS) <= set(common.header_of(start))


def read(files: Sequence[Path], options: Options) -> list[Tape]:
    """Return a tape for each Cboe trades file. Raises `TapeError` for another file."""
    return [_open(path, options) for path in files]


def _open(path: Path, options: Options) -> Tape:
    table = Csv(path, "a Cboe option trades CSV", COLUMNS)
    if _COUNT in table.names:
        table.names = table.names[: table.names.index(_COUNT) + 1]
        table.ragged = True
    rejects, notes = Rejects(options.strict), Counter[str]()
    batches = _batches(table, options, rejects, notes)
    return Tape(options.source or SOURCE, "cboe", (path,), batches, rejects, notes)


def _batches(table: Csv, options: Options, rejects: Rejects, notes: Counter[str]) -> Iterator[Batch]:
    fixed = len(table.names)
    fields = _fields(fixed if table.ragged else None)
    for chunk in table.chunks(COLUMNS, rejects, notes, options.batch_rows):
        raw = chunk.frame.with_columns(
            common.instants(chunk.frame["quote_datetime"], notes).alias("#ts"),
            *_best_sizes([name for name in chunk.frame.columns if name.isdigit()], fixed),
        )
        prints = common.parse(raw, fields, rejects, table.path.name)
        common.note_unknown(prints["condition"], prints["#condition_id"], notes)
        middle = prints.select(_mid().alias("underlying")).to_series()
        prints = common.completed(prints.with_columns(asset=pl.lit("option")), common.noting(notes))
        yield Batch(prints.with_columns(middle), chunk.rows, chunk.done)


def _fields(fixed: int | None) -> list[Field]:
    """Return the fields of a print; `fixed` is the number of columns before those of the exchanges, if there are
    any."""
    condition = common.condition("trade_condition_id", "nanex")
    fields = [
        Field("ts", "quote_datetime", pl.col("#ts"), "quote_datetime is not a time of New York"),
        common.text("symbol", "underlying_symbol"),
        common.text("root", "root"),
        common.expiry("expiration"),
        common.strike("strike"),
        common.right("option_type"),
        common.price("trade_price"),
        *common.size("option", "trade_size"),
        common.quote("bid", "best_bid"),
        common.quote("ask", "best_ask"),
        common.quote("#underlying_bid", "underlying_bid"),
        common.quote("#underlying_ask", "underlying_ask"),
        Field("condition", "trade_condition_id", condition, "trade_condition_id is not a number"),
        Field("#condition_id", "trade_condition_id", pl.col("trade_condition_id"), "", required=False),
        common.text("venue", "exchange_id"),
        common.number("seq", "sequence_number"),
        Field("bid_size", "#bid_size", pl.col("#bid_size"), "", required=False),
        Field("ask_size", "#ask_size", pl.col("#ask_size"), "", required=False),
    ]
    if fixed is not None:
        count = common.whole(_COUNT)
        whole = pl.when(pl.col(FIELDS) == fixed + len(_GROUP) * count).then(count)
        what = f"the line does not hold the exchanges that {_COUNT} tells"
        fields.append(Field("#exchanges", _COUNT, whole, what))
    return fields


def _best_sizes(extra: Sequence[str], fixed: int) -> list[pl.Expr]:
    """Return the sizes at the NBBO: the sum over exchanges that quote the best price; null if none does."""
    groups = range(fixed, fixed + len(extra) - len(extra) % len(_GROUP), len(_GROUP))
    sizes = []
    for best, size_at, price_at in (("bid", 1, 2), ("ask", 3, 4)):
        at_best = [
            pl.when(nanos(pl.col(str(place + price_at))) == nanos(pl.col(f"best_{best}"))).then(
                common.whole(str(place + size_at))
            )
            for place in groups
        ]
        total = pl.sum_horizontal(at_best, ignore_nulls=True) if at_best else pl.lit(None, pl.Int64)
        found = pl.any_horizontal(size.is_not_null() for size in at_best) if at_best else pl.lit(False)
        sizes.append(pl.when(found).then(total).alias(f"#{best}_size"))
    return sizes


def _mid() -> pl.Expr:
    """Return the middle of the underlying's quote in price units, rounded half to even; null unless both sides
    exist."""
    bid, ask = pl.col("#underlying_bid"), pl.col("#underlying_ask")
    return pl.when((bid > 0) & (ask > 0)).then(units(bid + ask, 2 * NANOS))
