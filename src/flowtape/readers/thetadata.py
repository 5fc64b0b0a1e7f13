"""ThetaData `trade_quote` CSV of options or stocks: one row a trade, with the NBBO that ThetaData paired with it.

Times have an offset, or are Eastern wall time. `sequence` is a signed 32-bit number that wraps around: it distinguishes
rows, but gives no order over a day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from flowtape.errors import TapeError
from flowtape.model.conditions import stock_conditions
from flowtape.model.prints import underlyings
from flowtape.readers import Batch, Options, Rejects, Tape, common
from flowtape.readers.common import Csv, Field

SOURCE = "thetadata"
COLUMNS = (
    "symbol", "expiration", "strike", "right", "trade_timestamp", "quote_timestamp", "sequence", "condition",
    "size", "exchange", "price", "bid_size", "bid", "ask_size", "ask",
)  # fmt: skip
CONTRACT = ("expiration", "strike", "right")
STOCK_COLUMNS = tuple(name for name in COLUMNS if name not in CONTRACT)
EXTENDED = tuple(f"ext_condition{number}" for number in range(1, 5))
"""The further conditions of a stock's trade. OPRA sends none for options."""
_QUOTE = ("bid", "ask", "bid_size", "ask_size", "quote_ts")
_LATER = "quotes stamped after their trade, taken for unknown"
_SAME = "quotes stamped at their trade's own instant, kept"
_NAMED = [
    Field("ts", "trade_timestamp", pl.col("#ts"), "trade_timestamp is not a time"),
    common.text("root", "symbol"),
]
_CONTRACT = [common.expiry("expiration"), common.strike("strike"), common.right("right")]
_TRADED = [
    common.price("price"),
    common.quote("bid", "bid"),
    common.quote("ask", "ask"),
    Field(
        "quote_ts", "quote_timestamp", pl.col("#quote_ts"), "quote_timestamp is not a time", required=False
    ),
    Field("condition", "condition", pl.col("#condition"), "condition is not a number"),
    Field("#condition_id", "condition", pl.col("condition"), "", required=False),
    common.text("venue", "exchange"),
    common.number("seq", "sequence"),
]


def matches(path: Path, start: bytes) -> bool:
    """Return whether the header is that of a ThetaData trade_quote file."""
    names = set(common.header_of(start))
    return set(COLUMNS) <= names or _is_of_stocks(names)


def _is_of_stocks(names: set[str]) -> bool:
    # ThetaData's file of one stock has no `symbol`. It is recognised without it, so that the error can say so.
    return {*STOCK_COLUMNS, *EXTENDED} - {"symbol"} <= names and names.isdisjoint(CONTRACT)


def read(files: Sequence[Path], options: Options) -> list[Tape]:
    """Return a tape for each ThetaData trade_quote file.

    Raises:
        TapeError: a file has another format, or does not name its stock.
    """
    return [_open(path, options) for path in files]


def _open(path: Path, options: Options) -> Tape:
    names = set(common.header_of(common.head(path)))
    stocks = _is_of_stocks(names)
    if "symbol" in names:
        common.check_unnamed(path, options.symbol)
    elif stocks and options.symbol is None:
        raise TapeError(
            f"{path.name}: a ThetaData stock trade_quote CSV without a column symbol: the file does not say "
            f"which stock it is of; name it with --symbol, or add the column"
        )
    needed = [name for name in STOCK_COLUMNS if name in names or name != "symbol"] if stocks else COLUMNS
    table = Csv(path, f"a ThetaData {'stock' if stocks else 'option'} trade_quote CSV", needed)
    rejects, notes = Rejects(options.strict), Counter[str]()
    batches = _batches(table, options, rejects, notes, stocks=stocks)
    return Tape(options.source or SOURCE, "thetadata", (path,), batches, rejects, notes)


def _batches(
    table: Csv, options: Options, rejects: Rejects, notes: Counter[str], *, stocks: bool
) -> Iterator[Batch]:
    columns = (*STOCK_COLUMNS, *EXTENDED) if stocks else COLUMNS
    fields = [*_NAMED, *([] if stocks else _CONTRACT), *_TRADED, *_sizes("stock" if stocks else "option")]
    if stocks:
        several = pl.concat_str(("condition", *EXTENDED), separator=",", ignore_nulls=True)
        fields.append(Field("#conditions", "condition", several, "", required=False))
    condition = common.condition("condition", "nanex")
    for chunk in table.chunks(columns, rejects, notes, options.batch_rows):
        named = [] if options.symbol is None else [pl.lit(options.symbol).alias("symbol")]
        raw = chunk.frame.with_columns(
            *named,
            common.instants(chunk.frame["trade_timestamp"], notes).alias("#ts"),
            common.instants(chunk.frame["quote_timestamp"], notes).alias("#quote_ts"),
            condition.alias("#condition"),
        )
        prints = common.parse(raw, fields, rejects, table.path.name)
        if stocks:
            told = stock_conditions(prints["#conditions"], prints["ts"], notes, "nanex")
            prints = prints.with_columns(told.get_columns())
        else:
            common.note_unknown(prints["condition"], prints["#condition_id"], notes)
        prints = _without_later_quotes(prints, notes)
        symbol = prints["root"].alias("symbol") if stocks else underlyings(prints["root"])
        prints = prints.with_columns(symbol, asset=pl.lit("stock" if stocks else "option"))
        yield Batch(common.completed(prints, common.noting(notes)), chunk.rows, chunk.done)


def _sizes(asset: str) -> list[Field]:
    quoted = [common.quote_size(name, name, asset) for name in ("bid_size", "ask_size")]
    return [*common.size(asset), *quoted]


def _without_later_quotes(prints: pl.DataFrame, notes: Counter[str]) -> pl.DataFrame:
    """Return prints without quotes that are later than their trade. A quote of the same instant is kept."""
    later = (prints["quote_ts"] > prints["ts"]).fill_null(False)
    same = (prints["quote_ts"] == prints["ts"]).fill_null(False)
    for what, rows in ((_LATER, later), (_SAME, same)):
        if rows.any():
            notes[what] += rows.filter(rows).len()
    return prints.with_columns(pl.when(~later).then(pl.col(name)).alias(name) for name in _QUOTE)
