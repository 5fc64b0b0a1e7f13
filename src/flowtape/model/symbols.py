"""Which symbol is meant by a text: OPRA roots of options, classes of shares of both assets.

A stock's symbol is never changed: `M1`, `NDXP` and `VIXW` are stocks of their own. A class of shares is written in four
ways (`BRK.B`, `BRK-B`, `BRK/B`, `BRKB`); they are one symbol only where no other has prints by the text itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from flowtape.errors import UsageError
from flowtape.model.prints import OSI, underlying_of

_OSI = re.compile(OSI)
_MARKS = str.maketrans("", "", "-./ ")
_CLASS = re.compile(r"[A-Z]+[./-][A-Z]")


def asked(symbol: str, asset: str) -> str:
    """The symbol that a text names, by the text alone: in upper case, without `^`, and for options the underlying of a
    root (`SPXW` → `SPX`).

    Raises `UsageError` for an OSI symbol: it names one contract of an underlying.
    """
    if found := _OSI.match(symbol.strip().upper()):
        raise UsageError(
            f"symbol: {symbol.strip()!r} is one contract; ask for {underlying_of(found[1])}, with filters"
        )
    return underlying_of(symbol) if asset == "option" else symbol.strip().upper().lstrip("^")


def meant(symbol: str, known: Collection[str]) -> str:
    """The symbol of `known` (those with prints) that `symbol`, as `asked` gives it, stands for.

    It is itself where it is known. Else it is the one known symbol that differs in the marks of a class alone (`BRK-B`,
    `BRK/B` and `BRKB` stand for `BRK.B`); where none or several do, it is itself again.
    """
    if symbol in known:
        return symbol
    bare = symbol.translate(_MARKS)
    if not bare.isalpha() or len(bare) < 2:
        return symbol
    found = [
        name
        for name in known
        if name.translate(_MARKS) == bare and (_CLASS.fullmatch(name) or _CLASS.fullmatch(symbol))
    ]
    return found[0] if len(found) == 1 else symbol
