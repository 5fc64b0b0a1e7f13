"""Steps from files to a line, on frames: the path that the server takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from flowtape import queries
from flowtape.cache.view import Totals, View
from flowtape.errors import NothingRead, UsageError
from flowtape.library import arguments
from flowtape.model import columns
from flowtape.model.conditions import is_cancel, price_flags
from flowtape.model.prints import EARLIEST, LATEST, OUT_OF_RANGE, PRICE_SCALE, Asset, Side, Timestamp, conform
from flowtape.model.symbols import asked, meant
from flowtape.orderflow.batched_bars import BATCHED_ROWS, BatchedBars
from flowtape.orderflow.classify import in_force
from flowtape.orderflow.classify import sign as _sign
from flowtape.orderflow.identity import Copies
from flowtape.orderflow.minute_bars import BY, NS_PER_MINUTE, check_by, from_schema
from flowtape.orderflow.minute_bars import SCHEMA as BARS
from flowtape.orderflow.minute_bars import minutes as _minutes
from flowtape.orderflow.quotes import NO_QUOTE_OF, few_quotes
from flowtape.readers import Options, Tape, open_tapes

Frame = Any
"""A Polars frame or LazyFrame, a pandas frame, or one with the Arrow C stream interface."""


def read(
    path: str | Path | Iterable[str | Path],
    format: str | None = None,
    *,
    strict: bool = False,
    mapping: str | Path | None = None,
    symbol: str | None = None,
) -> pl.DataFrame:
    """Read one or more files as one frame of prints.

    Args:
        path: a file, a folder, a pattern such as `tape/*.csv.gz`, or several of these. Give trades together with the
            quotes or definitions that belong to them.
        format: a name of `flowtape.readers.FORMATS`; without it, each file's format is guessed from its content.
        strict: raise `RowError` at the first bad row. Without it, bad rows are left out, and a warning counts them.
        mapping: a TOML file that names the columns of a table.
        symbol: what files without a symbol are of, such as a CSV of one stock.

    Returns:
        One row a print, with the columns of `flowtape.model.prints.SCHEMA`. Prices, quotes and strikes are integers of
        1/10,000 USD; sizes are contracts, or integers of 1/10,000 share; times are UTC, in nanoseconds. A warning tells
        where quotes were given and many prints have no quote in force.

    Raises:
        UsageError: for an argument that cannot be used, and where no file is named.
        TapeError: for a file that is missing or has no known format.
        NothingRead: where every row of a file is bad.
    """
    paths = arguments.paths(path)
    options = Options(strict=strict, mapping=None if mapping is None else Path(mapping), symbol=symbol)
    return prints_of(open_tapes(paths, format, options))


def prints_of(tapes: Iterable[Tape]) -> pl.DataFrame:
    """All prints of some tapes; warns of rows left out."""
    told: list[str] = []
    prints = pl.concat([prints for tape in tapes for prints in _batches(tape, told)])
    _warn(told)
    return prints


def _warn(told: Iterable[str]) -> None:
    for text in told:
        warnings.warn(text, stacklevel=4)


def _batches(tape: Tape, told: list[str]) -> Iterator[pl.DataFrame]:
    """The prints of a tape, batch by batch; adds to `told` what to warn of: rows left out, and quotes that are
    missing."""
    quoted = counted = unquoted = 0
    for batch in tape.batches:
        yield batch.prints
        kept = ~is_cancel()
        without = kept & ~in_force(batch.prints, None).fill_null(value=False)
        found = batch.prints.select(pl.col("ask").count(), counted=kept.sum(), unquoted=without.sum()).row(0)
        quoted, counted, unquoted = quoted + found[0], counted + found[1], unquoted + found[2]
    if tape.nothing_read is not None:
        raise NothingRead(tape.nothing_read)
    if tape.rejects.count:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in tape.rejects.reasons.most_common(3))
        first = tape.rejects.earliest
        shown = f"; {first.shown}" if first else ""
        told.append(f"{tape.name}: {tape.rejects.count} rows left out: {reasons}{shown}")
    notes = [note for note in tape.notes if note.startswith(NO_QUOTE_OF)]
    few = few_quotes(unquoted, counted) if notes or quoted else None
    told += [f"{tape.name}: {text}" for text in (*notes, few) if text]


def read_minutes(
    path: str | Path | Iterable[str | Path],
    format: str | None = None,
    *,
    rule: str | Sequence[str] = "quote",
    max_quote_age: timedelta | None = None,
    by: Sequence[str] = BY,
    strict: bool = False,
    mapping: str | Path | None = None,
    symbol: str | None = None,
) -> pl.DataFrame:
    """Read one or more files as minute bars.

    The bars are those of `minutes(sign(read(path), rule, max_quote_age), by)`. Where the rule looks at each print alone
    and the sequence numbers of the files only rise, the files are read batch by batch, which takes less memory than
    their prints do. See `read`, `sign` and `minutes` for the arguments, warnings and errors.
    """
    paths = arguments.paths(path)
    check_by(by)
    given = None if mapping is None else Path(mapping)
    options = Options(strict=strict, mapping=given, symbol=symbol, batch_rows=BATCHED_ROWS)
    return bars_of(lambda: open_tapes(paths, format, options), rule, max_quote_age, by)


def bars_of(
    opened: Callable[[], Iterable[Tape]],
    rule: str | Sequence[str],
    max_quote_age: timedelta | None = None,
    by: Sequence[str] = BY,
    before: datetime | None = None,
) -> pl.DataFrame:
    """The minute bars of tapes, or of their prints before an instant; warns of rows left out.

    `opened` opens the tapes. It is called again where bars cannot be made batch by batch.
    """
    batched, told = BatchedBars(rule, max_quote_age, by), list[str]()
    batches = (prints for tape in opened() for prints in _batches(tape, told))
    if all(batched.add(_before(prints, before)) for prints in batches):
        _warn(told)
        return batched.bars()
    del batched
    return _minutes(_sign(_before(prints_of(opened()), before), rule, max_quote_age), by)


def _before(prints: pl.DataFrame, instant: datetime | None) -> pl.DataFrame:
    return prints if instant is None else prints.filter(pl.col("ts") < instant)


def classify(
    prints: Frame, rule: str | Sequence[str] = "quote", max_quote_age: timedelta | None = None
) -> pl.DataFrame:
    """Add the aggressor side of each print, inferred from its prevailing quote.

    Args:
        prints: a frame with at least `ts`, `symbol`, `price` and `size`; of options also `expiry`, `right` and
            `strike`. `bid` and `ask` are the prevailing quote. Times have a zone. Floats and decimals are USD, integers
            1/10,000 USD; see `flowtape.model.prints.conform` for all columns and types.
        rule: a rule, or several that are tried in turn: `quote`, `depth`, `tick`, `lr` (Lee and Ready, 1991), `emo`
            (Ellis, Michaely and O'Hara, 2000), and the others of the page on trade classification.
        max_quote_age: quotes older than this at the time of the print are not used.

    Returns:
        The prints with `side` (`buy`, `sell` or `mid`) and `decided_by` (the rule that decided).

    Raises:
        UsageError: for a column, a value or a rule that cannot be used.
    """
    return _sign(_prints(prints), rule, max_quote_age)


def sign(
    prints: Frame, rule: str | Sequence[str] = "quote", max_quote_age: timedelta | None = None
) -> pl.DataFrame:
    """Add the aggressor side of each print: the earlier name of `classify`, with the same arguments."""
    return classify(prints, rule, max_quote_age)


def minutes(signed: Frame, by: Sequence[str] = BY) -> pl.DataFrame:
    """Sum classified prints to minute bars.

    Args:
        signed: prints with `side`, as `classify` gives them.
        by: the columns that bars are kept apart by; `asset` and `symbol` are among them.

    Returns:
        One row a minute and key: volumes and notionals by side, the number of prints, high, low and the largest size.
        Duplicates count once; cancels and the prints they remove are left out. Notionals are price times size in
        1/10,000 USD, without the contract multiplier of 100.

    Raises:
        UsageError: for a column or a value that cannot be used.
    """
    frame = columns.polars_of(signed)
    if "side" not in frame.columns:
        raise UsageError("prints carry no column side; call classify(prints) first")
    made = columns.chosen(frame["side"], Side, {side.upper(): side for side in Side.categories}, "is no side")
    columns.refuse(made, made.is_null(), "a signed print needs it")
    return _minutes(_prints(frame).with_columns(made), by)


def cumulative(
    bars: Frame,
    symbol: str,
    minutes: int = 240,
    *,
    expiry: date | str | None = None,
    at: datetime | str | None = None,
    asset: str = "option",
) -> pl.DataFrame:
    """Return net volume a minute and its running sum over a window, as the server answers it.

    Args:
        bars: minute bars, as `minutes` gives them.
        symbol: the underlying, such as `SPY`.
        minutes: length of the window.
        expiry: one expiration, a date or a text as `2026-05-15`.
        at: the window holds the whole minutes that end by this instant: a date-time with a time zone, or a text as
            `2026-05-12T20:00:00Z`. Without it, the window ends with the newest minute of `bars`.
        asset: `"option"` or `"stock"`.

    Returns:
        `ts` (start of the minute), `net_volume` and `cumulative` (contracts or shares), `vwap` (USD a share) and
        `trade_count`, oldest first. Minutes without a print are left out.

    Raises:
        UsageError: for an argument or a column that cannot be used.
    """
    if not isinstance(minutes, int) or minutes < 1:
        raise UsageError(f"minutes: {minutes!r} is not a whole number from 1 up")
    if asset not in Asset.categories:
        raise UsageError(f"asset: {asset!r} is neither option nor stock")
    if not isinstance(symbol, str):
        raise UsageError(f"symbol: expected a text, not {type(symbol).__name__} {symbol!r}")
    ends, day = arguments.nanoseconds("at", at), arguments.day("expiry", expiry)
    frame = _bars(bars)
    start, end = _bounds(frame, minutes, ends)
    name = symbol_in(frame, symbol, asset)
    chosen = frame.filter(
        pl.col("asset").cast(pl.String) == asset,
        pl.col("symbol").cast(pl.String) == name,
        pl.lit(True) if day is None else pl.col("expiry") == day,
    )
    chosen = from_schema(chosen, asset).with_columns(
        pl.lit(0, pl.Int64).alias(name) for name in ("symbol_id", "right")
    )
    view = View.of([chosen], edges=asset == "stock")
    return line(view.line(0, start, end, queries.CUMULATIVE), asset)


def symbol_in(frame: pl.DataFrame, symbol: str, asset: str) -> str:
    """The symbol of bars or prints that a text means; see `flowtape.model.symbols`."""
    named = frame.filter(pl.col("asset").cast(pl.String) == asset)["symbol"].unique().cast(pl.String)
    return meant(asked(symbol, asset), set(named))


def line(of: Totals, asset: str) -> pl.DataFrame:
    """The points of a cumulative answer as a frame."""
    numbers = queries.cumulative_columns(of, asset)
    ts = pl.Series("ts", of.minute * NS_PER_MINUTE).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC")
    return pl.DataFrame(
        {
            "ts": ts,
            "net_volume": numbers["net_volume"],
            "cumulative": numbers["cumulative"],
            "vwap": numbers["vwap"] / PRICE_SCALE,
            "trade_count": numbers["trade_count"],
        }
    )


def _bounds(bars: pl.DataFrame, minutes: int, at: int | None) -> tuple[int, int]:
    if at is not None:
        return queries.past_minutes(at, minutes)
    newest: Any = bars["minute"].to_physical().max()
    return queries.window_minutes(newest or 0, minutes)


def _prints(frame: Frame) -> pl.DataFrame:
    """A caller's frame as prints, with any further columns at the end."""
    given = columns.polars_of(frame)
    told = conform(frame)
    if "price_flags" not in given.columns:
        told = told.with_columns(price_flags())
    if "copy" not in given.columns:
        told = Copies().number(told)
    return told.hstack([column for column in given if column.name not in told.columns])


def _bars(frame: Frame) -> pl.DataFrame:
    """A caller's frame as minute bars, in `minutes.SCHEMA`."""
    given = columns.polars_of(frame)
    if missing := [name for name in BARS if name not in given.columns]:
        raise UsageError(f"bars lack the column {', '.join(missing)}; minutes(signed) makes them")
    whole = [columns.whole(given[name]) for name, dtype in BARS.items() if dtype == pl.Int64]
    times = [given[name] for name, dtype in BARS.items() if dtype == Timestamp]
    times = [columns.instants(values, EARLIEST, LATEST, OUT_OF_RANGE) for values in times]
    try:
        return given.with_columns(*whole, *times).select(
            pl.col(name).cast(dtype) for name, dtype in BARS.items()
        )
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"bars have a column of the wrong type: {str(error).splitlines()[0]}") from None
