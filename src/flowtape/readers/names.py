"""Names in prints (`symbol`, `root`, `venue`): convert them, and find texts that are not names."""

from __future__ import annotations

import re
from typing import cast

import polars as pl

from flowtape.model.categories import TextRanks
from flowtape.model.prints import (
    LIKE_OPTION,
    MAX_NAMES,
    NAME_LENGTH,
    NAME_PATTERN,
    OSI,
    SYMBOL_LENGTH,
    SYMBOL_PATTERN,
    check_distinct,
    is_name,
    is_symbol,
)

_OSI = re.compile(OSI)
_NO_SYMBOL = f"is blank or no symbol of at most {SYMBOL_LENGTH} characters"
NO_NAME = {
    "symbol": _NO_SYMBOL,
    "root": _NO_SYMBOL,
    "venue": f"is blank or no name of at most {NAME_LENGTH} printable characters",
}
_PLAIN, _OTHER = 1, 2
"""The kinds of texts: a name that needs no change; any other text, such as a contract or a name in lower case."""
_RANKS = {(name, blank): TextRanks() for name in MAX_NAMES for blank in (False, True)}


def names(values: pl.Series, file: str, *, blank: bool = False) -> tuple[pl.Series, bool]:
    """Return names of a column of prints in upper case, without surrounding blanks, and symbols without a leading `^`.

    Args:
        values: text or categories; the series has the name of the column of prints.
        file: the file's name, for the error.
        blank: whether an empty text is a valid name.

    Returns:
        The names (Categorical, null where a text is not a name), and whether any looks like an option's contract.

    Raises:
        TapeError: there are more distinct names than `MAX_NAMES` allows.
    """
    name = values.name
    if not isinstance(values.dtype, pl.Categorical) and _may_exceed(values):
        # Checked first, because Polars keeps every text of a Categorical.
        check_distinct(values.unique().drop_nulls().cast(pl.String), name, file)
    values, ranks = values.cast(pl.Categorical), _RANKS[name, blank]

    def rank(texts: pl.Series) -> pl.Series:
        check_distinct(texts, name, file)
        pattern = NAME_PATTERN if name == "venue" else SYMBOL_PATTERN
        plain = (texts == _in_form(texts, name)) & texts.str.contains(pattern) & ((texts != "") | blank)
        return _OTHER - (plain & ~texts.str.contains(LIKE_OPTION)).cast(pl.UInt8)

    if ranks.seen > MAX_NAMES[name]:
        check_distinct(values.unique().drop_nulls().cast(pl.String), name, file)
    if ranks.greatest(values, rank) <= _PLAIN:
        return values, False
    found = values.unique().drop_nulls().cast(pl.String)
    good = is_name if name == "venue" else _is_symbol_or_contract
    right = [text if good(text) and (text or blank) else None for text in _in_form(found, name)]
    made = pl.Series(right, dtype=pl.String)
    contracts = name != "venue" and bool(made.str.contains(LIKE_OPTION).any())
    if (found == made).all(ignore_nulls=False):
        return values, contracts
    return values.cast(pl.String).replace_strict(found, made, default=None).cast(pl.Categorical), contracts


def _may_exceed(values: pl.Series) -> bool:
    """Return whether there may be more distinct texts than `MAX_NAMES`. Their number is estimated within a few
    percent."""
    return cast(int, values.approx_n_unique()) > MAX_NAMES[values.name] // 2


def _in_form(texts: pl.Series, name: str) -> pl.Series:
    """Return texts in upper case, without surrounding blanks or a symbol's prefix."""
    return (
        texts.str.strip_chars(" ").str.to_uppercase().str.strip_chars_start("^" if name == "symbol" else "")
    )


def _is_symbol_or_contract(text: str) -> bool:
    return is_symbol(text) or _OSI.match(text) is not None
