"""The symbol that a text means: OPRA roots of options, classes of shares of both assets.

A stock's symbol is never changed: `M1`, `NDXP` and `VIXW` are separate stocks. A class of shares has four spellings
(`BRK.B`, `BRK-B`, `BRK/B`, `BRKB`). They mean the same symbol unless prints exist under the spelling itself.
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
    """Return the symbol that a text names, without a look at the prints.

    The result is in upper case and without `^`. An option's root becomes its underlying (`SPXW` → `SPX`).

    Raises:
        UsageError: the text is an OSI symbol, which names one contract of an underlying.
    """
    if found := _OSI.match(symbol.strip().upper()):
        raise UsageError(
            f"symbol: {symbol.strip()!r} is one contract; ask for {underlying_of(found[1])}, with filters"
        )
    return underlying_of(symbol) if asset == "option" else symbol.strip().upper().lstrip("^")


def meant(symbol: str, known: Collection[str]) -> str:
    """Return the symbol of `known` (those with prints) that `symbol`, a result of `asked`, means.

    A known symbol means itself. Otherwise, if exactly one known symbol is another spelling of the same class of shares
    (`BRK-B`, `BRK/B` and `BRKB` for `BRK.B`), it means that one. Otherwise `symbol` is returned unchanged.
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
