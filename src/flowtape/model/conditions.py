"""Sale conditions of options and stocks: one table with the family and the effect of each condition.

Codes and mnemonics of options are OPRA's (OPRA Pillar Output Specification, message types). Codes of stocks are those
of the tapes (CTA: CTS Output Specification, sale conditions; UTP: UTDF Specification, sale conditions); these also
define which conditions may set the high, low and last price. The numbers are those of Massive (its conditions
reference) and of Nanex (as ThetaData and Cboe DataShop use them). A code can differ by asset: `O` cancels an option's
print and marks a stock's opening cross.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import polars as pl

from flowtape.model.calendar import in_regular_session
from flowtape.model.prints import CONDITION_NAMES, SETS_ENDS, SETS_RANGE, Condition


class SaleCondition(NamedTuple):
    """One sale condition of one asset: its code, name and family, and the vendors' numbers for it.

    `code` is empty where only vendors have a number for it. `price_flags` says whether a print may set the high and low
    (`SETS_RANGE`) and the open and close (`SETS_ENDS`) of its minute. An extended-hours print may set them only outside
    the regular session.
    """

    asset: Literal["option", "stock"]
    code: str
    name: str
    family: str
    massive: tuple[int, ...] = ()
    nanex: tuple[int, ...] = ()
    price_flags: int = SETS_RANGE | SETS_ENDS


FAMILIES = (
    "unknown", "regular", "auction", "multileg", "cross", "floor", "late", "compression", "extended", "cancel",
    "elsewhere", "official",
)  # fmt: skip
"""The position of a family is its number in a store. Add new families only at the end."""
Family = pl.Enum(FAMILIES)
CANCEL, OFFICIAL = "cancel", "official"
_MID = {
    "option": ("cross", "floor", "late", "compression"),
    "stock": ("auction", "elsewhere", "late"),
}
"""Families whose prints count with side `mid`, because their quote does not tell the aggressor. An auction of stocks is
an exchange's cross and belongs here; an auction of options improves a price inside the quote and does not."""
_BOTH = SETS_RANGE | SETS_ENDS


def _option(code: str, name: str, family: str, massive: int | None, nanex: int | None) -> SaleCondition:
    massives, nanexes = (() if number is None else (number,) for number in (massive, nanex))
    return SaleCondition("option", code, name, family, massives, nanexes)


def _stock(
    code: str, name: str, family: str, sets: int, massive: tuple[int, ...], nanex: tuple[int, ...]
) -> SaleCondition:
    return SaleCondition("stock", code, name, family, massive, nanex, sets)


CONDITIONS = (
    _option(" ", "REGULAR", "regular", None, 0),
    _option("A", "CANC", "cancel", 201, 40),
    _option("B", "OSEQ", "late", 202, 2),
    _option("C", "CNCL", "cancel", 203, 41),
    _option("D", "LATE", "late", 204, 13),
    _option("E", "CNCO", "cancel", 205, 42),
    _option("F", "OPEN", "late", 206, 6),
    _option("G", "CNOL", "cancel", 207, 43),
    _option("H", "OPNL", "late", 208, None),
    _option("I", "AUTO", "regular", 209, 18),
    _option("J", "REOP", "regular", 210, 21),
    _option("K", "AJST", "regular", 211, 34),
    _option("L", "SPRD", "multileg", 212, 35),
    _option("M", "STDL", "multileg", 213, 36),
    _option("N", "STPD", "regular", 214, 39),
    _option("O", "CSTP", "cancel", 215, 44),
    _option("P", "BWRT", "multileg", 216, 37),
    _option("Q", "CMBO", "multileg", 217, 38),
    _option("R", "SPIM", "regular", 218, 106),
    _option("S", "ISOI", "regular", 219, 95),
    _option("T", "BNMT", "regular", 220, 107),
    _option("X", "XMPT", "regular", 224, 108),
    _option("a", "SLAN", "auction", 227, 125),
    _option("b", "SLAI", "auction", 228, 126),
    _option("c", "SLCN", "cross", 229, 127),
    _option("d", "SLCI", "cross", 230, 128),
    _option("e", "SLFT", "floor", 231, 129),
    _option("f", "MLET", "multileg", 232, 130),
    _option("g", "MLAT", "multileg", 233, 131),
    _option("h", "MLCT", "cross", 234, 132),
    _option("i", "MLFT", "floor", 235, 133),
    _option("j", "MESL", "multileg", 236, 134),
    _option("k", "TLAT", "multileg", 237, 135),
    _option("l", "MASL", "multileg", 238, 136),
    _option("m", "MFSL", "floor", 239, 137),
    _option("n", "TLET", "multileg", 240, 138),
    _option("o", "TLCT", "cross", 241, 139),
    _option("p", "TLFT", "floor", 242, 140),
    _option("q", "TESL", "multileg", 243, 141),
    _option("r", "TASL", "multileg", 244, 142),
    _option("s", "TFSL", "floor", 245, 143),
    _option("t", "CBMO", "floor", 246, 144),
    _option("u", "MCTP", "compression", 247, 147),
    _option("v", "EXHT", "extended", 248, 148),
    _stock("F", "STK_SWEEP", "regular", _BOTH, (14,), (95,)),
    _stock("T", "STK_EXTENDED", "regular", _BOTH, (12,), (1,)),
    _stock("I", "STK_ODD_LOT", "regular", 0, (37,), (115,)),
    _stock("K", "STK_BLOCK", "regular", _BOTH, (23, 24), (14, 29)),
    _stock("Y", "STK_YELLOW", "regular", _BOTH, (36,), (79,)),
    _stock("S", "STK_SPLIT", "regular", _BOTH, (34,), (31,)),
    _stock("E", "STK_AUTO", "regular", _BOTH, (3,), (18,)),
    _stock("", "STK_EXEMPT", "regular", _BOTH, (41,), (107, 108)),
    _stock("@", "STK_REGULAR", "regular", _BOTH, (0,), (0, 32)),
    _stock("O", "STK_OPENING", "auction", _BOTH, (17, 25), (7, 62)),
    _stock("5", "STK_REOPENING", "auction", _BOTH, (18, 28), (21, 97)),
    _stock("6", "STK_CLOSING", "auction", _BOTH, (8, 19), (98,)),
    _stock("W", "STK_AVERAGE", "elsewhere", 0, (2,), (3, 4)),
    _stock("B", "STK_BUNCHED", "elsewhere", _BOTH, (4,), (10,)),
    _stock("A", "STK_ACQUISITION", "elsewhere", _BOTH, (1,), (22,)),
    _stock("D", "STK_DISTRIBUTION", "elsewhere", _BOTH, (11,), (30,)),
    _stock("H", "STK_VARIATION", "elsewhere", 0, (21,), (104,)),
    _stock("P", "STK_PRIOR", "elsewhere", SETS_RANGE, (22,), (8,)),
    _stock("4", "STK_DERIVED", "elsewhere", SETS_RANGE, (10,), (96,)),
    _stock("7", "STK_QCT", "elsewhere", 0, (53,), (124,)),
    _stock("V", "STK_CONTINGENT", "elsewhere", 0, (35, 52), (105, 114)),
    _stock("C", "STK_CASH", "elsewhere", 0, (7,), (11,)),
    _stock("N", "STK_NEXT_DAY", "elsewhere", 0, (20,), (9,)),
    _stock("R", "STK_SELLER", "elsewhere", 0, (29,), (12,)),
    _stock("1", "STK_STOPPED", "elsewhere", _BOTH, (27,), (55,)),
    _stock("X", "STK_CROSS", "elsewhere", _BOTH, (9,), (45,)),
    _stock("L", "STK_SOLD_LAST", "late", _BOTH, (30,), (13,)),
    _stock("Z", "STK_SOLD", "late", SETS_RANGE, (32,), (2, 5, 6)),
    _stock("G", "STK_BUNCHED_SOLD", "late", SETS_RANGE, (5,), (15,)),
    _stock("U", "STK_EXTENDED_SOLD", "late", 0, (13,), (65,)),
    _stock("2", "STK_STOPPED_LAST", "late", _BOTH, (31,), (56,)),
    _stock("3", "STK_STOPPED_SOLD", "late", SETS_RANGE, (33,), (57,)),
    _stock("M", "STK_OFFICIAL_CLOSE", "official", 0, (15,), (51,)),
    _stock("Q", "STK_OFFICIAL_OPEN", "official", 0, (16,), (66,)),
    _stock("9", "STK_CORRECTED_CLOSE", "official", 0, (38,), (117,)),
    _stock("", "STK_DETAIL", "official", 0, (55,), (26, 27)),
)
"""Where several conditions of a stock's print have the same effect, the print gets the one listed first."""

CONSEQUENCE = {
    "option": (
        "cancel", "compression", "cross", "floor", "late", "multileg", "auction", "extended", "regular", "unknown",
    ),
    "stock": ("official", "cancel", "late", "auction", "elsewhere", "regular", "unknown"),
}  # fmt: skip
"""Priority of families where a trade has several conditions: first those that are left out, then those with side
`mid`, then those that the rule classifies."""

BY_NAME = {condition.name: condition for condition in CONDITIONS}
OPTION_NAMES = ("unknown", *(one.name for one in CONDITIONS if one.asset == "option"))
STOCK_NAMES = (
    "unknown", *(one.name for one in CONDITIONS if one.asset == "stock" or one.family == CANCEL)
)  # fmt: skip
"""The conditions that a stock's print may have. Cancels have the same name for both assets, and no code of stocks."""
_OPTIONS = {name: BY_NAME[name] for name in OPTION_NAMES[1:]}
BY_CODE = {condition.code: name for name, condition in _OPTIONS.items()}
BY_MASSIVE = {number: name for name, condition in _OPTIONS.items() for number in condition.massive}
BY_NANEX = {number: name for name, condition in _OPTIONS.items() for number in condition.nanex}
_STOCKS = {name: BY_NAME[name] for name in STOCK_NAMES[1:]}
STOCK_BY_CODE = {one.code: name for name, one in _STOCKS.items() if one.code and one.asset == "stock"}
STOCK_BY_MASSIVE = {
    number: name for name, one in _STOCKS.items() if one.asset == "stock" for number in one.massive
}
STOCK_BY_NANEX = {number: name for name, one in _STOCKS.items() for number in one.nanex}

FAMILY_OF = {name: BY_NAME[name].family if name in BY_NAME else "unknown" for name in CONDITION_NAMES}
UNSIDED = tuple(
    one.name for one in CONDITIONS if one.family in (*_MID[one.asset], CANCEL, OFFICIAL)
)  # fmt: skip
"""Conditions whose prints are always `mid`."""
TABLE_DIGEST = hashlib.sha256(
    ";".join(f"{name}={family}{'!' * (name in UNSIDED)}" for name, family in FAMILY_OF.items()).encode()
).hexdigest()[:16]
"""A digest of the families and sides in the table. Versions with equal digests classify every print alike."""


def _families_of(asset: str) -> tuple[str, ...]:
    found = {"unknown", *(one.family for one in CONDITIONS if one.asset == asset)} - {CANCEL, OFFICIAL}
    return tuple(name for name in FAMILIES if name in found)


FAMILIES_OF = {asset: _families_of(asset) for asset in ("option", "stock")}
"""The families that occur in prints of an asset."""


def _flags_of(name: str) -> int:
    return BY_NAME[name].price_flags if name in BY_NAME else _BOTH


def _of_each_name(value: Callable[[str], object], dtype: pl.DataType | type[pl.DataType]) -> pl.Series:
    return pl.Series([value(name) for name in CONDITION_NAMES], dtype=dtype)


_FAMILY_NUMBERS = _of_each_name(lambda name: FAMILIES.index(FAMILY_OF[name]), pl.UInt8)
_NUMBERS = {
    family: pl.Series(
        [number for number, name in enumerate(CONDITION_NAMES) if FAMILY_OF[name] == family], dtype=pl.UInt8
    )
    for family in (CANCEL, OFFICIAL)
}
_FLAGS = _of_each_name(_flags_of, pl.UInt8)


def _looked_up(table: pl.Series, condition: str) -> pl.Expr:
    return pl.lit(table).gather(pl.col(condition).to_physical().cast(pl.UInt32))


def _is_of(family: str, condition: str) -> pl.Expr:
    return pl.col(condition).to_physical().cast(pl.UInt8).is_in(_NUMBERS[family].implode())


def family(condition: str = "condition") -> pl.Expr:
    """Return the family of each print's sale condition, type `Family`."""
    return _looked_up(_FAMILY_NUMBERS, condition).cat.to(Family).alias("family")


def is_cancel(condition: str = "condition") -> pl.Expr:
    """Return true where a row cancels an earlier print. Such a row is not a print."""
    return _is_of(CANCEL, condition).alias("cancel")


def is_official(condition: str = "condition") -> pl.Expr:
    """Return true where a row repeats a stock's print (an official open or close). Such a row is not a print."""
    return _is_of(OFFICIAL, condition).alias("official")


def price_flags(condition: str = "condition") -> pl.Expr:
    """Return the `price_flags` of prints that have one condition. An extended-hours print gets those that hold outside
    the regular session."""
    return _looked_up(_FLAGS, condition).alias("price_flags")


def without_official(prints: pl.DataFrame, notes: Counter[str]) -> pl.DataFrame:
    """Return prints without the rows that repeat a print. `notes` counts the omitted rows of each condition."""
    official = prints.select(is_official()).to_series()
    if not official.any():
        return prints
    for name, count in prints.filter(official)["condition"].value_counts().iter_rows():
        code = BY_NAME[name].code
        notes[f"rows of condition {name}{f' ({code})' * bool(code)}, left out: each repeats a print"] += count
    return prints.filter(~official)


def from_numbers(numbers: pl.Expr, vendor: str) -> pl.Expr:
    """Return the names of a vendor's numbers (`massive` or `nanex`) for conditions of options. A null, or a number
    without a name, becomes `unknown`."""
    table = BY_MASSIVE if vendor == "massive" else BY_NANEX
    names = numbers.cast(pl.Int64, strict=False).replace_strict(
        table, default="unknown", return_dtype=Condition
    )
    return names.fill_null("unknown").alias("condition")


def from_text(text: pl.Expr) -> pl.Expr:
    """Return the names of OPRA's one-letter codes or mnemonics. Null or empty becomes `unknown`. Any other text becomes
    null, and the reader reports it."""
    table = {**BY_CODE, **{name: name for name in OPTION_NAMES}, "": "unknown"}
    names = text.fill_null("").replace_strict(table, default=None, return_dtype=Condition)
    return names.alias("condition")


def weightiest(names: Iterable[str], asset: Literal["option", "stock"]) -> str:
    """Return the condition that a print with several conditions gets; `unknown` where it has none."""
    order = CONSEQUENCE[asset]
    return min(names, key=lambda name: (order.index(FAMILY_OF[name]), _PLACE[name]), default="unknown")


_PLACE = {"unknown": len(CONDITIONS)} | {one.name: place for place, one in enumerate(CONDITIONS)}

Vocabulary = Literal["codes", "massive", "nanex"]
_TOKEN = re.compile(r"[^\s,;|\[\](){}'\"]+")
_NANEX_NONE = "255"
_UTP = ("C", "3")
_MOST_UNKNOWN = 100
"""The largest number of unknown codes that are noted one by one. Further codes share one note."""


class _Stock(NamedTuple):
    """The meaning of a text of codes: the condition, the price flags in the regular session and outside it, and the
    unknown codes."""

    condition: str
    regular: int
    outside: int
    unknown: tuple[str, ...]


def stock_conditions(
    texts: pl.Series,
    ts: pl.Series,
    notes: Counter[str],
    vocabulary: Vocabulary = "codes",
    tape: pl.Series | None = None,
) -> pl.DataFrame:
    """Return the `condition` and `price_flags` of stock prints.

    `price_flags` are those that every code of the print grants.

    Args:
        texts: one or more codes or numbers for each print. Codes may stand together (`@FTI`) or apart (`@ F I`,
            `['@', 'I']`); numbers stand apart. A blank text is a regular sale.
        ts: the instants of the prints.
        notes: counts unknown codes, by code.
        vocabulary: the vocabulary of the texts.
        tape: `C` or `3` for UTP's letters, anything else for CTA's. They differ in `B`, which is a bunched trade in UTP
            and an average price in CTA. Without a tape, CTA's letters are used.
    """
    if texts.is_empty():
        return pl.DataFrame(schema={"condition": Condition, "price_flags": pl.UInt8})
    keys = texts.cast(pl.String).fill_null("")
    if tape is not None:
        utp = tape.cast(pl.String).is_in(_UTP).fill_null(False)
        keys = pl.select(pl.when(utp).then(pl.lit("\0") + keys).otherwise(keys)).to_series()
    distinct = keys.unique()
    found = [_stock_of(text, vocabulary) for text in distinct]
    place = keys.replace_strict(
        distinct, pl.Series(range(len(found)), dtype=pl.UInt32), return_dtype=pl.UInt32
    )
    if any(one.unknown for one in found):
        _note_unknown(found, place, vocabulary, notes)
    conditions = pl.Series([one.condition for one in found], dtype=Condition)
    regular, outside = (pl.Series([one[at] for one in found], dtype=pl.UInt8).gather(place) for at in (1, 2))
    if (regular != outside).any():
        inside = pl.Series(in_regular_session(ts.to_physical().fill_null(0).to_numpy()))
        outside = regular.zip_with(inside, outside)
    return pl.DataFrame({"condition": conditions.gather(place), "price_flags": outside})


def _stock_of(text: str, vocabulary: Vocabulary) -> _Stock:
    """Return the meaning of one text. A UTP text begins with a NUL."""
    names, unknown = [], []
    for code in _codes(text.removeprefix("\0"), vocabulary):
        name = _name_of(code, vocabulary, utp=text.startswith("\0"))
        if name is None:
            unknown.append(code)
        else:
            names.append(name)
    if not names and not unknown:
        names = ["STK_REGULAR"]
    flags = _BOTH
    for name in names:
        flags &= _flags_of(name)
    regular = 0 if "STK_EXTENDED" in names else flags
    return _Stock(weightiest(names, "stock"), regular, flags, tuple(dict.fromkeys(unknown)))


def _codes(text: str, vocabulary: Vocabulary) -> list[str]:
    tokens: list[str] = _TOKEN.findall(text)
    if vocabulary == "nanex":
        return [token for token in tokens if token != _NANEX_NONE]
    if vocabulary == "massive":
        return tokens
    # The tapes write up to four letters together. Two digits together are one number of a vendor.
    return [
        code
        for token in tokens
        for code in ([token] if token in BY_NAME or len(token) > 4 or token.isdigit() else token)
    ]


def _name_of(code: str, vocabulary: Vocabulary, *, utp: bool) -> str | None:
    if vocabulary == "codes":
        if code == "B" and not utp:
            return "STK_AVERAGE"
        return STOCK_BY_CODE.get(code) or (code if code in STOCK_NAMES else None)
    numbers = STOCK_BY_MASSIVE if vocabulary == "massive" else STOCK_BY_NANEX
    return numbers.get(int(code)) if code.isascii() and code.isdigit() and len(code) < 10 else None


def _note_unknown(found: list[_Stock], place: pl.Series, vocabulary: Vocabulary, notes: Counter[str]) -> None:
    counts = place.value_counts()
    what = {"codes": "sale condition", "massive": "Massive condition", "nanex": "Nanex condition"}[vocabulary]
    for at, count in counts.iter_rows():
        for code in found[at].unknown:
            text = f"{what} {code[:20]!r} of stocks is not known: counted, side by rule"
            if text not in notes and sum(key.startswith(what) for key in notes) >= _MOST_UNKNOWN:
                text = f"{what}s of stocks that are not known, others: counted, side by rule"
            notes[text] += count
