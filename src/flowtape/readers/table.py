"""Any table of prints: Parquet, CSV, or Arrow IPC (file or stream), by the column names of `prints.SCHEMA`.

A TOML file can map other names, units of prices, time zones or vocabularies of conditions:

    time_zone = "America/New_York"
    price_unit = 0.0001
    condition_vocabulary = "nanex"
    source = "mine"
    [columns]
    price = "last_px"
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import polars as pl

from flowtape.errors import TapeError
from flowtape.model.conditions import OPTION_NAMES, from_numbers, from_text, stock_conditions
from flowtape.model.prices import MAX_NANOS, NANOS, nanos, shortest_floats, whole_units
from flowtape.model.prints import LIMITS as UNITS
from flowtape.model.prints import (
    MAX_NAMES,
    PARTS,
    PRICE_SCALE,
    SCHEMA,
    SIZE_SCALE,
    SIZES,
    Asset,
    Condition,
    Timestamp,
    strike_units,
    underlyings,
)
from flowtape.readers import Batch, Options, Rejects, Tape, common, frames, osi
from flowtape.readers.columns import TEXT, check, without_words
from flowtape.readers.common import LIMITS, Field
from flowtape.readers.frames import READ, Mapping
from flowtape.readers.times import NO_DATE

SOURCE = "table"
NEEDED = ("ts", "price", "size")
NAMES = ("symbol", "root", "ticker")
TAPE = "tape"
"""The column with the tape of a stock's print, which defines its condition codes: A and B are CTA's, C is UTP's."""
_OWN = {"copy", "corrects", "quote_class"}
"""Columns that only the library's own frames of prints and the store's views have."""
_MONEY = ("strike", "price", "bid", "ask", "underlying")
_REQUIRED = ("ts", "symbol", "root", "asset", "price", "size")
_FAULTS = {
    "symbol": common.NO_NAME["symbol"],
    "root": common.NO_NAME["root"],
    "asset": "is neither option nor stock",
    "right": "is neither call nor put",
    "expiry": NO_DATE,
    "seq": "is not a whole number",
    "condition": "is not a condition of OPRA's",
    "venue": common.NO_NAME["venue"],
}
_ALPACA = Mapping(
    columns={"ts": "timestamp", "venue": "exchange", "condition": "conditions", "seq": "id"}, source="alpaca"
)
"""The columns of Alpaca's trades as a frame (`alpaca-py`, `TradeSet.df`)."""
_CHOICES = {
    "asset": {"option": "option", "stock": "stock"},
    "right": {"c": "C", "call": "C", "p": "P", "put": "P"},
}


def matches(path: Path, start: bytes) -> bool:
    """Return whether a file is Parquet or Arrow, or a CSV file with the columns that a print needs."""
    names = common.header_of(start)
    known = set(NEEDED) <= set(names) and not set(names).isdisjoint(NAMES)
    return frames.is_columnar(start) or known or _is_alpaca(names)


def _is_alpaca(names: Iterable[str]) -> bool:
    """Return whether columns are those of a frame of trades from Alpaca's own package."""
    return {"symbol", "timestamp", "exchange", "price", "size", "conditions"} <= set(
        names
    ) and "ts" not in names


def read(files: Sequence[Path], options: Options) -> list[Tape]:
    """Return a tape for each table.

    Raises:
        TapeError: a file lacks columns of a print.
        UsageError: the mapping is invalid.
    """
    mapping = frames.load_mapping(options.mapping)
    tapes = []
    for path in files:
        table = frames.open_table(path)
        meant = _ALPACA if options.mapping is None and _is_alpaca(table.schema) else mapping
        table = frames.named(table, options.symbol, {*meant.columns, *table.schema})
        columns = _columns(path, meant, table.schema)
        if mapping.price_unit is None and table.price_unit == 1:
            _check_unit(path, columns, table.schema)
        reading = _Reading(table, columns, meant, options)
        tapes.append(
            Tape(reading.source, "table", (path,), reading.batches(), reading.rejects, reading.notes)
        )
    return tapes


def _columns(path: Path, mapping: Mapping, schema: dict[str, pl.DataType]) -> dict[str, str]:
    """Return the file's name of each column of a print that the file has.

    A column that the mapping names is read as the mapping says, and not under its own name as well: a file may call its
    symbols `underlying`, which is a price of a print.
    """
    mapped = set(mapping.columns.values())
    names = [name for name in (*READ, "source", TAPE) if name in mapping.columns or name not in mapped]
    found = {name: mapping.columns.get(name, name) for name in names}
    if {"symbol", "root"}.isdisjoint(mapping.columns) and {"symbol", "root"}.isdisjoint(schema):
        found["symbol"] = "ticker"
    optional = ("seq",) if mapping is _ALPACA else ()
    lost = [found[name] for name in mapping.columns if found[name] not in schema and name not in optional]
    if lost:
        raise TapeError(f"{path.name}: no column {', '.join(lost)}, which the mapping names")
    columns = {name: column for name, column in found.items() if column in schema}
    missing = [name for name in NEEDED if name not in columns]
    if columns.keys().isdisjoint(("symbol", "root")):
        missing.append("symbol (or root)")
    if not columns.keys().isdisjoint(PARTS):
        missing += [name for name in PARTS if name not in columns]
    if missing:
        there = ", ".join(schema)[:200]
        hint = "; --symbol names the symbol of all rows" if missing == ["symbol (or root)"] else ""
        raise TapeError(
            f"{path.name}: expected a table of prints; no column {', '.join(missing)} in {there}{hint}"
        )
    check(path.name, columns, schema)
    # A `seq` column with no values counts as absent.
    return {name: column for name, column in columns.items() if name != "seq" or schema[column] != pl.Null}


def _check_unit(path: Path, columns: dict[str, str], schema: dict[str, pl.DataType]) -> None:
    """Refuse a saved frame of the library's own prints, whose integers are units and not USD or shares."""
    if schema.keys() >= _OWN and schema[columns["price"]].is_integer():
        raise TapeError(
            f"{path.name}: a frame that flowtape.read gave: its prices are integers of 1/10,000 USD, and a table's are"
            " USD; ingest the file that it was read from, or export the store's view prints"
        )


class _Reading:
    """The read of one table: how each of its columns becomes a column of prints."""

    def __init__(
        self, table: frames.Table, columns: dict[str, str], mapping: Mapping, options: Options
    ) -> None:
        self._table, self._columns, self._mapping, self._options = table, columns, mapping, options
        self.rejects, self.notes = Rejects(options.strict), Counter[str]()
        self._named = options.source or mapping.source
        self.source = self._named or (self._first_source() if "source" in columns else SOURCE)
        self._contracts_in: list[str] = []
        self._contracts_alone = False
        used = Counter(columns.values())
        self._numbers = {
            column: pl.Float64() if name in _MONEY else pl.Int64()
            for name, column in columns.items()
            if name in (*_MONEY, *SIZES, "seq") and used[column] == 1
        }
        self._fields: dict[tuple[object, ...], list[Field]] = {}

    def batches(self) -> Iterator[Batch]:
        """Yield the prints, a batch for each piece of the table."""
        wanted = list(dict.fromkeys(self._columns.values()))
        for chunk in self._table.chunks(wanted, self.rejects, self.notes, self._options.batch_rows):
            self._check_source(chunk.frame)
            source = self._prepared(chunk.frame)
            raw = self._with_numbers(source)
            meaning = _Meaning(raw.schema, self._table, self._columns, self._mapping)
            money = meaning.money_of_floats()
            whole = whole_units(raw, list(money.values())) if money else None
            if whole is not None:
                raw = raw.with_columns(whole[column].alias(f"#{name}") for name, column in money.items())
            fields, unit = self._fields_of(meaning, raw, whole is not None), NANOS if whole is None else 1
            prints = common.parse(raw, fields, self.rejects, self._table.path.name, unit, source)
            prints = common.completed(self._completed(prints), common.noting(self.notes), unit)
            yield Batch(prints, chunk.rows, chunk.done)

    def _with_numbers(self, raw: pl.DataFrame) -> pl.DataFrame:
        """Return the rows, with text columns of plain numbers converted to numbers."""
        made = []
        for column, dtype in self._numbers.items():
            if raw.schema[column] == pl.String:
                numbers = raw[column].cast(dtype, strict=False)
                if numbers.null_count() == raw[column].null_count():
                    made.append(numbers)
        return raw.with_columns(made)

    def _fields_of(self, meaning: _Meaning, raw: pl.DataFrame, units: bool) -> list[Field]:
        """Return the fields for a piece of the table, with amounts in price `units` or in nanos."""
        asset = raw.get_column("#asset", default=None)
        options = asset is not None and bool((asset == "option").all()) and not asset.has_nulls()
        self._contracts_alone = options and meaning.whole_sizes
        key = (units, self._contracts_alone, *(raw.schema[column] for column in self._numbers))
        if key not in self._fields:
            self._fields[key] = [
                field
                for name in self._columns
                if name != "source"
                for field in meaning.fields(name, units, self._contracts_alone)
            ]
        return self._fields[key]

    def _first_source(self) -> str:
        column = self._columns["source"]
        first = next(self._table.chunks([column], Rejects(), Counter(), 1)).frame[column]
        return str(first.item()) if first.len() and first.item() else SOURCE

    def _check_source(self, raw: pl.DataFrame) -> None:
        if self._named is not None or "source" not in self._columns or raw.is_empty():
            return
        names = raw[self._columns["source"]].cast(pl.Categorical)
        if names.has_nulls():
            names = names.fill_null(SOURCE)
        numbers = names.to_physical()
        if names[0] != self.source or numbers.min() != numbers.max():
            found = ", ".join(sorted({self.source, *names.unique()}))
            raise TapeError(f"{self._table.path.name}: prints of more than one source ({found}); name one")

    def _prepared(self, raw: pl.DataFrame) -> pl.DataFrame:
        """Return the rows with converted columns that need more than an expression, named `#` and the print's
        column."""
        numbers = [column for name, column in self._columns.items() if name in (*_MONEY, *SIZES, "seq")]
        coded = [column for column in numbers if isinstance(raw.schema[column], (pl.Categorical, pl.Enum))]
        self._contracts_in.clear()
        raw = self._without_parts_of_stocks(raw)
        raw = shortest_floats(raw).with_columns(pl.col(coded).cast(pl.String))
        made = []
        for name, column in self._columns.items():
            if name in ("ts", "quote_ts"):
                made.append(self._times(raw[column]).alias(f"#{name}"))
            elif name in MAX_NAMES and isinstance(raw.schema[column], (*TEXT, pl.Null)):
                texts = raw[column].alias(name)
                names, contracts = common.names(texts, self._table.path.name, blank=name == "venue")
                made.append(names.alias(f"#{name}"))
                if contracts:
                    self._contracts_in.append(name)
            elif name in _CHOICES:
                made.append(_chosen(raw[column], name).alias(f"#{name}"))
            elif name == "expiry":
                made.append(common.dates(raw[column]).alias("#expiry"))
        return raw.with_columns(made)

    def _without_parts_of_stocks(self, raw: pl.DataFrame) -> pl.DataFrame:
        """Return the rows with null expiry, right and strike where the asset is a stock."""
        parts = [self._columns[name] for name in PARTS if name in self._columns]
        if not parts or "asset" not in self._columns:
            return raw
        stock = _chosen(raw[self._columns["asset"]], "asset") == "stock"
        if not stock.any():
            return raw
        stock = stock.fill_null(value=False)
        return raw.with_columns(pl.when(~stock).then(name).alias(name) for name in parts)

    def _times(self, values: pl.Series) -> pl.Series:
        zone, dtype = self._mapping.time_zone, values.dtype
        if isinstance(dtype, pl.Datetime):
            values = common.in_nanoseconds(values)
            return values.cast(Timestamp) if dtype.time_zone else common.from_wall(values, self.notes, zone)
        if dtype == pl.Null:
            return values.cast(Timestamp)
        values = values if dtype.is_integer() else values.cast(pl.String)
        numbers = values.to_frame("#").select(common.nanoseconds(pl.col("#"))).to_series()
        if dtype.is_integer():
            return numbers
        times = common.instants(values, self.notes, zone)
        return times if times.null_count() == 0 else times.zip_with(times.is_not_null(), numbers)

    def _completed(self, prints: pl.DataFrame) -> pl.DataFrame:
        """Return prints with the columns that the table lacks."""
        has = self._columns
        prints, named = osi.taken_out(prints, has, self._contracts_in, self._reject)
        if "asset" in has:
            prints = self._contracts(prints)
        elif named is None or "expiry" in has:
            prints = prints.with_columns(asset=pl.lit("option" if "expiry" in has else "stock", Asset))
        else:
            option = pl.when(named).then(pl.lit("option", Asset)).otherwise(pl.lit("stock", Asset))
            prints = prints.with_columns(asset=option)
        prints = self._with_conditions(self._sized(prints))
        absent = {
            "seq": pl.lit(0, pl.Int64),
            "venue": pl.lit(""),
        }
        prints = prints.with_columns(value.alias(name) for name, value in absent.items() if name not in has)
        prints = self._with_names(prints)
        filled = {
            "venue": pl.col("venue").cast(pl.Categorical).fill_null(""),
            "seq": pl.col("seq").fill_null(0),
        }
        return prints.with_columns(value for name, value in filled.items() if prints[name].has_nulls())

    def _sized(self, prints: pl.DataFrame) -> pl.DataFrame:
        """Return prints with option sizes in contracts. Sizes are read as those of stocks until the asset is known."""
        option = prints["asset"] == "option"
        if self._contracts_alone or options_alone(self._columns) or not option.any():
            return prints
        names, unit = [name for name in SIZES if name in prints.columns], SIZE_SCALE["stock"]
        for name in names:
            bad = option & (prints[name] % unit != 0).fill_null(value=False)
            if name == "size" and common.FINER in prints.columns:
                bad |= option & prints[common.FINER]
            if bad.any():
                shown = prints.filter(bad).with_columns(pl.col(name) / unit)
                self._reject(shown, name, f"{self._columns[name]} is not a whole number of contracts")
                prints, option = prints.filter(~bad), option.filter(~bad)
        contracts = [pl.when(option).then(pl.col(name) // unit).otherwise(name).alias(name) for name in names]
        return prints.with_columns(contracts)

    def _reject(self, rows: pl.DataFrame, name: str, what: str) -> None:
        """Report rows of the file as bad, with their value of a column of prints."""
        self.rejects.add(
            self._table.path.name, rows[common.ROW].to_list(), what, _texts(rows[name]).to_list()
        )

    def _contracts(self, prints: pl.DataFrame) -> pl.DataFrame:
        """Return prints without options that lack a part of their contract, which are rejected."""
        parts = [name for name in PARTS if name in prints.columns]
        if parts and (prints["asset"] == "option").all() and not any(prints[parts].null_count().row(0)):
            return prints
        option = pl.col("asset") == "option"
        half = option & pl.any_horizontal(pl.col(parts).is_null()) if parts else option
        rows = prints.filter(half)[common.ROW].to_list()
        self.rejects.add(self._table.path.name, rows, "an option without expiry, right or strike")
        prints = prints.filter(~half)
        return prints.with_columns(pl.when(option).then(pl.col(name)).alias(name) for name in parts)

    def _with_conditions(self, prints: pl.DataFrame) -> pl.DataFrame:
        """Return prints with their conditions, by OPRA's vocabulary for options and the tapes' for stocks. Options with
        an invalid condition are rejected."""
        if "condition" not in prints.columns or prints["condition"].dtype == pl.Null:
            return prints.with_columns(condition=pl.lit("unknown", Condition))
        vocabulary = self._mapping.condition_vocabulary
        prints = prints.with_columns(without_words(prints["condition"]))
        stock = prints["asset"] == "stock"
        if not stock.any():
            return self._known(prints, _option_conditions(prints["condition"], vocabulary))
        stocks = prints.filter(stock)
        tape = stocks[TAPE] if TAPE in stocks.columns else None
        texts = _texts(stocks["condition"])
        told = stock_conditions(texts, stocks["ts"], self.notes, vocabulary or "codes", tape)
        stocks = stocks.with_columns(told.get_columns())
        if stock.all():
            return stocks
        options = prints.filter(~stock)
        options = self._known(options, _option_conditions(options["condition"], vocabulary))
        return pl.concat([stocks, options], how="diagonal").sort(common.ROW)

    def _known(self, prints: pl.DataFrame, conditions: pl.Series) -> pl.DataFrame:
        """Return prints with these conditions. Prints whose condition is null are rejected."""
        if conditions.null_count():
            bad = conditions.is_null()
            values = _texts(prints["condition"]).filter(bad).to_list()
            what = f"{self._columns['condition']} {_FAULTS['condition']}"
            rows = prints[common.ROW].filter(bad).to_list()
            self.rejects.add(self._table.path.name, rows, what, values)
            prints, conditions = prints.filter(~bad), conditions.drop_nulls()
        return prints.with_columns(conditions.alias("condition"))

    def _with_names(self, prints: pl.DataFrame) -> pl.DataFrame:
        """Return prints with symbol and root. An option's symbol follows from its root; a stock's are equal."""
        has = self._columns
        if "root" not in prints.columns:
            return prints.with_columns(root=pl.col("symbol"))
        if "root" not in has:
            return prints.with_columns(root=pl.coalesce("root", "symbol"))
        if "symbol" not in prints.columns:
            prints = prints.with_columns(underlyings(prints["root"]))
        elif "symbol" not in has:
            prints = prints.with_columns(pl.coalesce("symbol", underlyings(prints["root"])).alias("symbol"))
        if (prints["asset"] == "option").all():
            return prints
        ticker = pl.when(pl.col("asset") == "stock").then(pl.col("symbol" if "symbol" in has else "root"))
        return prints.with_columns(ticker.otherwise(pl.col(name)).alias(name) for name in ("symbol", "root"))


def options_alone(columns: dict[str, str]) -> bool:
    """Return whether every row of a table with these columns of a print is an option."""
    return "asset" not in columns and "expiry" in columns


class _Meaning:
    """The fields of each column of prints, by the type of the file's column or of its converted numbers."""

    def __init__(
        self, schema: pl.Schema, table: frames.Table, columns: dict[str, str], mapping: Mapping
    ) -> None:
        self._columns, self._schema, self._file = columns, schema, table.path.name
        unit = table.price_unit if mapping.price_unit is None else mapping.price_unit
        self._unit = unit
        self._vocabulary = mapping.condition_vocabulary
        sizes = [columns[name] for name in SIZES if name in columns]
        self.whole_sizes = all(self._schema[column].is_integer() for column in sizes)

    def fields(self, name: str, units: bool, contracts: bool) -> list[Field]:
        """Return the fields that make one column of prints.

        Args:
            name: the column of prints.
            units: whether amounts are in price units, not in nanos.
            contracts: whether all rows are options and all sizes integers.
        """
        column = self._columns[name]
        dtype = self._schema[column]
        if name in SIZES:
            fields = self._sizes(name, column, integer=dtype.is_integer())
            return [_in_contracts(field) for field in fields] if contracts else fields
        value, what = self._value(name, column, dtype, units)
        low, high = (UNITS if units and name in _MONEY else LIMITS).get(name, (None, None))
        required = name in _REQUIRED or (name in PARTS and "asset" not in self._columns)
        return [Field(name, column, value, f"{column} {what}", low, high, required)]

    def _sizes(self, name: str, column: str, *, integer: bool) -> list[Field]:
        asset = "option" if options_alone(self._columns) else "stock"
        if name == "size":
            what = "is neither contracts (whole, from 1 up) nor shares (from 1/10,000 up)"
            return common.size(asset, column, integer=integer, what=what)
        return [common.quote_size(name, column, asset, integer=integer)]

    def _value(self, name: str, column: str, dtype: pl.DataType, units: bool) -> tuple[pl.Expr, str]:
        """Return the expression for the column, null where a value is invalid, and the message for that."""
        here, text = pl.col(column), isinstance(dtype, TEXT)
        value, what = pl.col(f"#{name}"), _FAULTS.get(name, "is not a time")
        if name in _MONEY:
            value, what = (
                value if units else self._money(column, dtype),
                "is not a price in USD within bounds",
            )
            value = strike_units(value, 1 if units else NANOS) if name == "strike" else value
        elif name == "seq":
            value = here.cast(pl.Int64, strict=False) if dtype.is_integer() else common.whole(column)
            value = common.integer(column) if text else value
        elif name == "condition":
            self._check_vocabulary(column, dtype)
            value = here
        elif name == "venue" and not text:
            value = common.whole(column).cast(pl.String)
        elif name == TAPE:
            value = here if text else common.whole(column).cast(pl.String)
        return value, what

    def _check_vocabulary(self, column: str, dtype: pl.DataType) -> None:
        held = dtype.inner if isinstance(dtype, pl.List) else dtype
        if self._vocabulary is None and not isinstance(held, (*TEXT, pl.Null)):
            raise TapeError(
                f"{self._file}: {column} holds numbers; a mapping must tell whose, by condition_vocabulary"
            )

    def money_of_floats(self) -> dict[str, str]:
        """Return the columns of the file that hold a print's amounts, if all are 64-bit floats in USD; otherwise {}."""
        money = {name: column for name, column in self._columns.items() if name in _MONEY}
        floats = all(self._schema[column] == pl.Float64 for column in money.values())
        return money if floats and self._unit == 1 else {}

    def _money(self, column: str, dtype: pl.DataType) -> pl.Expr:
        """Return an amount in nanos. An integer of a unit that is a whole number of nanos stays exact."""
        factor = Fraction(str(self._unit)) * PRICE_SCALE * NANOS
        if not dtype.is_integer() or factor.denominator != 1:
            return nanos(pl.col(column), self._unit)
        value = pl.col(column).cast(pl.Int64, strict=False)
        return pl.when(value.abs() <= MAX_NANOS // int(factor)).then(value * int(factor))


def _in_contracts(field: Field) -> Field:
    """Return the field of an integer size of options, which is read as shares where the asset is not known."""
    assert field.high is not None  # noqa: S101 - for the type checker
    value = pl.col(field.column).cast(pl.Int64, strict=False)
    return replace(field, value=value, high=field.high // SIZE_SCALE["stock"], scale=1)


def _chosen(values: pl.Series, name: str) -> pl.Series:
    """Return an asset or a right; null where it is invalid."""
    exact = values.cast(SCHEMA[name], strict=False)
    if exact.null_count() == values.null_count():
        return exact
    text = values.cast(pl.String).str.to_lowercase()
    return text.replace_strict(_CHOICES[name], default=None, return_dtype=SCHEMA[name])


def _option_conditions(values: pl.Series, vocabulary: str | None) -> pl.Series:
    """Return the conditions of options in our vocabulary, a blank as `unknown`; null where a value is invalid."""
    if vocabulary is not None:
        text = isinstance(values.dtype, TEXT)
        made = common.condition("#", vocabulary) if text else from_numbers(pl.col("#"), vocabulary)
        return values.to_frame("#").select(made).to_series()
    exact = values.cast(Condition, strict=False) if isinstance(values.dtype, TEXT) else None
    # The conditions of stocks are the last ones in `Condition`.
    last = None if exact is None else cast("int | None", exact.to_physical().max())
    if exact is not None and exact.null_count() == values.null_count() and (last or 0) < len(OPTION_NAMES):
        return exact.fill_null("unknown")
    # A list of one item as programs write it to CSV: ['I'].
    texts = _texts(values).str.replace(r"^\[\s*['\"]?(.*?)['\"]?\s*\]$", "$1")
    return texts.to_frame("#").select(from_text(pl.col("#"))).to_series()


def _texts(values: pl.Series) -> pl.Series:
    """Return values as text, the items of a list separated by commas."""
    if isinstance(values.dtype, pl.List):
        return values.list.eval(pl.element().cast(pl.String)).list.join(",")
    return values.cast(pl.String)
