"""Check the types of a table's columns, and find missing values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from flowtape.errors import TapeError
from flowtape.model.prints import Condition

TEXT = (pl.String, pl.Categorical, pl.Enum)
_MISSING = ("", "nan", "na", "n/a", "null", "none", "<na>", "nat")
"""The spellings of a missing value in other programs, in lower case."""


class _Kind(NamedTuple):
    """The groups of types that a column is read from, and their name in an error."""

    groups: frozenset[str]
    words: str


_TIME = _Kind(frozenset({"text", "datetime", "integer"}), "a date-time, ISO 8601 text or whole nanoseconds")
_DATE = _Kind(frozenset({"text", "datetime", "date", "integer", "float"}), "a date, YYYY-MM-DD or YYYYMMDD")
_NAME = _Kind(frozenset({"text"}), "text")
_NUMBER = _Kind(frozenset({"text", "integer", "float", "decimal"}), "numbers, or text that holds numbers")
_CODE = _Kind(frozenset({"text", "integer", "float"}), "text or numbers")
_CODES = _Kind(_CODE.groups | {"list"}, "text, numbers or lists of them")
_KINDS = {
    "ts": _TIME, "quote_ts": _TIME, "expiry": _DATE, "symbol": _NAME, "root": _NAME, "asset": _NAME,
    "right": _NAME, "source": _NAME, "venue": _CODE, "tape": _CODE, "condition": _CODES,
}  # fmt: skip
_NEVER_NULL = ("ts", "price", "size", "symbol", "root", "asset")


def check(file: str, columns: Mapping[str, str], schema: Mapping[str, pl.DataType]) -> None:
    """Check that each column of a print has a type that it can be read from.

    A column with no values at all is valid where the column is optional.

    Args:
        file: the file's name.
        columns: each column of a print with the file's name for it.
        schema: the types of the file's columns.

    Raises:
        TapeError: a type is wrong. The message names the file's column and its type.
    """
    for name, column in columns.items():
        group, kind = _group(schema[column]), _KINDS.get(name, _NUMBER)
        inner = schema[column]
        if group == "list" and isinstance(inner, pl.List) and group in kind.groups:
            group = _group(inner.inner) if isinstance(inner.inner, pl.DataType) else "other"
            group = "list" if group in (*_CODE.groups, "null") else "other"
        if group not in kind.groups and (group != "null" or name in _NEVER_NULL):
            shown = str(schema[column])
            shown = shown if len(shown) <= 60 else shown[:60] + "…"
            raise TapeError(
                f"{file}: the column {column} is of the type {shown}; {name} is read from {kind.words}"
            )


def _group(dtype: pl.DataType) -> str:
    if isinstance(dtype, TEXT):
        return "text"
    if dtype.is_integer():
        return "integer"
    if dtype.is_float():
        return "float"
    if dtype.is_decimal():
        return "decimal"
    names = {pl.Datetime: "datetime", pl.Date: "date", pl.Null: "null", pl.List: "list"}
    return next((name for kind, name in names.items() if isinstance(dtype, kind)), "other")


def is_missing(values: pl.Series) -> pl.Series:
    """Return a mask of missing values: null, NaN, blanks, and words such as `NA` and `None` in any case."""
    if values.dtype.is_float():
        return values.is_null() | values.is_nan().fill_null(value=True)
    if isinstance(values.dtype, TEXT):
        texts = values.cast(pl.String).str.strip_chars().str.to_lowercase()
        return texts.is_null() | texts.is_in(_MISSING)
    return values.is_null()


def without_words(values: pl.Series) -> pl.Series:
    """Return texts with null in place of words for a missing value, such as `NA`. A blank is kept."""
    if not isinstance(values.dtype, TEXT) or values.dtype == Condition:
        return values
    distinct = values.unique().drop_nulls()
    words = distinct.filter(is_missing(distinct) & (distinct.cast(pl.String).str.strip_chars() != ""))
    if words.is_empty():
        return values
    texts, words = values.cast(pl.String), words.cast(pl.String)
    return texts.zip_with(~texts.is_in(words.implode()), pl.Series([None], dtype=pl.String))
