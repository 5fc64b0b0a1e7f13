"""One symbol for a stock, whatever convention its ticker follows.

Three conventions write the suffix after a company's own letters (preferred, class, warrant, …): CTA's (`TpC`, `X.WS`),
the CMS convention of an NYSE feed (`T PRC`, `X WS`) and Nasdaq's (`T-C`, `X+`). Source: Nasdaq Trader, "Ticker Symbol
Convention".
"""

from __future__ import annotations

import re

import polars as pl

from flowtape.model.prints import LIKE_OPTION, check_distinct, is_symbol

_SUFFIXES = str.maketrans(
    {
        "p": "PR", "r": "RT", "w": "WI",
        "-": "PR", "^": "RT", "#": "WI", "+": "WS", "=": "U", "$": "WD", "*": "CL", "%": "CV", "!": "EC", "@": "PP",
        "~": "TEST", " ": "", ".": "", "/": "",
    }
)  # fmt: skip
_OPTION = re.compile(LIKE_OPTION)
_TICKER = re.compile(r"([A-Z][A-Z0-9]*)(?:([-^#+=$*%!@~prw]|[ ./](?=.))([-^#+=$*%!@~prwA-Z./]{0,8}))?")


def symbol_of(ticker: str) -> str | None:
    """Return the symbol of a stock: its company's letters, a dot and its CMS suffix. None for an invalid ticker.

    `TpC`, `T PRC` and `T-C` become `T.PRC`; `BRK.B` and `BRK B` become `BRK.B`. An option's symbol
    (`AAPL240419C00162500`) is not a ticker. Case matters: `TPC` is another company than `T`, whose preferred share is
    `TpC`.
    """
    found = _TICKER.fullmatch(ticker)
    if found is None or _OPTION.match(ticker):
        return None
    own, mark, rest = found.groups()
    name = own if mark is None else f"{own}.{(mark + rest).translate(_SUFFIXES)}"
    return name if is_symbol(name) else None


def symbols_of(tickers: pl.Series) -> pl.Series:
    """Return the symbols of a column of tickers (Categorical). `symbol_of` is called once for each distinct ticker."""
    distinct = tickers.unique().drop_nulls()
    check_distinct(distinct, "symbol")
    table = {ticker: symbol_of(ticker) for ticker in distinct}
    symbols = tickers.replace_strict(table, default=None, return_dtype=pl.String)
    return symbols.cast(pl.Categorical).alias("symbol")
