"""Sale conditions: one vocabulary for every source, their families, and what each family does.

Codes and mnemonics are OPRA's (OPRA Pillar Output Specification, message types); the numbers are those by
which Massive (its conditions reference) and Nanex (as used by Cboe DataShop and ThetaData) name the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from flowtape.prints import CONDITION_NAMES, Condition


class SaleCondition(NamedTuple):
    """One sale condition and its names in each vocabulary; None where a vendor has no known number."""

    code: str
    name: str
    family: str
    massive: int | None
    nanex: int | None


FAMILIES = (
    "unknown", "regular", "auction", "multileg", "cross", "floor", "late", "compression", "extended", "cancel",
)  # fmt: skip
"""The place of a family is its number in a store: families are only ever added at the end."""
Family = pl.Enum(FAMILIES)
UNSIDED = ("cross", "floor", "late", "compression")
"""Families whose quote says nothing of the aggressor: counted, side `mid`."""
CANCEL = "cancel"

CONDITIONS = tuple(
    SaleCondition(*row)
    for row in (
        (" ", "REGULAR", "regular", None, 0),
        ("A", "CANC", "cancel", 201, 40),
        ("B", "OSEQ", "late", 202, 2),
        ("C", "CNCL", "cancel", 203, 41),
        ("D", "LATE", "late", 204, 13),
        ("E", "CNCO", "cancel", 205, 42),
        ("F", "OPEN", "late", 206, 6),
        ("G", "CNOL", "cancel", 207, 43),
        ("H", "OPNL", "late", 208, None),
        ("I", "AUTO", "regular", 209, 18),
        ("J", "REOP", "regular", 210, 21),
        ("K", "AJST", "regular", 211, 34),
        ("L", "SPRD", "multileg", 212, 35),
        ("M", "STDL", "multileg", 213, 36),
        ("N", "STPD", "regular", 214, 39),
        ("O", "CSTP", "cancel", 215, 44),
        ("P", "BWRT", "multileg", 216, 37),
        ("Q", "CMBO", "multileg", 217, 38),
        ("R", "SPIM", "regular", 218, 106),
        ("S", "ISOI", "regular", 219, 95),
        ("T", "BNMT", "regular", 220, 107),
        ("X", "XMPT", "regular", 224, 108),
        ("a", "SLAN", "auction", 227, 125),
        ("b", "SLAI", "auction", 228, 126),
        ("c", "SLCN", "cross", 229, 127),
        ("d", "SLCI", "cross", 230, 128),
        ("e", "SLFT", "floor", 231, 129),
        ("f", "MLET", "multileg", 232, 130),
        ("g", "MLAT", "multileg", 233, 131),
        ("h", "MLCT", "cross", 234, 132),
        ("i", "MLFT", "floor", 235, 133),
        ("j", "MESL", "multileg", 236, 134),
        ("k", "TLAT", "multileg", 237, 135),
        ("l", "MASL", "multileg", 238, 136),
        ("m", "MFSL", "floor", 239, 137),
        ("n", "TLET", "multileg", 240, 138),
        ("o", "TLCT", "cross", 241, 139),
        ("p", "TLFT", "floor", 242, 140),
        ("q", "TESL", "multileg", 243, 141),
        ("r", "TASL", "multileg", 244, 142),
        ("s", "TFSL", "floor", 245, 143),
        ("t", "CBMO", "floor", 246, 144),
        ("u", "MCTP", "compression", 247, 147),
        ("v", "EXHT", "extended", 248, 148),
    )
)

CONSEQUENCE = (
    "cancel", "compression", "cross", "floor", "late", "multileg", "auction", "extended", "regular",
    "unknown",
)  # fmt: skip
"""Where a trade has several conditions, the one whose family comes first here stands for it."""

BY_NAME = {condition.name: condition for condition in CONDITIONS}
BY_CODE = {condition.code: condition.name for condition in CONDITIONS}
BY_MASSIVE = {c.massive: c.name for c in CONDITIONS if c.massive is not None}
BY_NANEX = {c.nanex: c.name for c in CONDITIONS if c.nanex is not None}
FAMILY_OF = {name: BY_NAME[name].family if name in BY_NAME else "unknown" for name in CONDITION_NAMES}
_FAMILY_NUMBERS = pl.Series([FAMILIES.index(FAMILY_OF[name]) for name in CONDITION_NAMES], dtype=pl.UInt8)
_CANCELS = pl.Series([FAMILY_OF[name] == CANCEL for name in CONDITION_NAMES])


def family(condition: str = "condition") -> pl.Expr:
    """The family of each print's sale condition, type `Family`."""
    numbers = pl.lit(_FAMILY_NUMBERS).gather(pl.col(condition).to_physical().cast(pl.UInt32))
    return numbers.cat.to(Family).alias("family")


def is_cancel(condition: str = "condition") -> pl.Expr:
    """True where a row cancels an earlier print and is itself none."""
    return pl.lit(_CANCELS).gather(pl.col(condition).to_physical().cast(pl.UInt32)).alias("cancel")


def from_numbers(numbers: pl.Expr, vendor: str) -> pl.Expr:
    """A vendor's condition numbers (`massive` or `nanex`) as the one vocabulary; a number without a name,
    or none, is `unknown`."""
    table = BY_MASSIVE if vendor == "massive" else BY_NANEX
    names = numbers.cast(pl.Int64, strict=False).replace_strict(
        table, default="unknown", return_dtype=Condition
    )
    return names.fill_null("unknown").alias("condition")


def of_most_consequence(columns: Sequence[str], vendor: str) -> pl.Expr:
    """The condition that stands for a trade with several, in columns of a vendor's numbers; a number without a
    name does not count, and where none has one it is `unknown`."""
    order = sorted(CONDITION_NAMES, key=lambda name: CONSEQUENCE.index(FAMILY_OF[name]))
    numbers = BY_MASSIVE if vendor == "massive" else BY_NANEX
    places = {number: order.index(name) for number, name in numbers.items()}
    found = pl.min_horizontal(
        pl.col(name).cast(pl.Int64, strict=False).replace_strict(places, default=None, return_dtype=pl.Int64)
        for name in columns
    )
    names = found.replace_strict(dict(enumerate(order)), default="unknown", return_dtype=Condition)
    return names.fill_null("unknown").alias("condition")


def from_text(text: pl.Expr) -> pl.Expr:
    """OPRA's one-letter codes or mnemonics as the one vocabulary; null or empty is `unknown`, and a text
    that is neither stays null, for the reader to report."""
    table = {**BY_CODE, **{name: name for name in CONDITION_NAMES}, "": "unknown"}
    names = text.fill_null("").replace_strict(table, default=None, return_dtype=Condition)
    return names.alias("condition")
