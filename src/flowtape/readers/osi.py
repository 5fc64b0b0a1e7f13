"""OSI symbols: an option's contract as one name, padded or not, with or without Massive's `O:`.

`AAPL  250221C00250000` is the root, the expiry (YYMMDD), the right and the strike in thousandths of a USD. Source: the
Options Symbology Initiative's symbol format, as OCC and OPRA use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from flowtape.model.prints import LIKE_OPTION, MAX_STRIKE, OSI, Right

PARTS = ("root", "expiry", "right", "strike")


def contracts(names: pl.Series) -> pl.DataFrame | None:
    """Return the contract that each name means, or None where no name looks like an option's symbol.

    Args:
        names: texts in upper case.

    Returns:
        `root` (Categorical), `expiry` (Date), `right`, `strike` (1/10,000 USD) and `like`, one row for each name.
        `like` is true where the name looks like an option's symbol. Its date or strike is null where the name is not a
        valid OSI symbol.
    """
    distinct = names.unique().drop_nulls().cast(pl.String)
    found = distinct.filter(distinct.str.contains(LIKE_OPTION)).to_frame("name")
    found = found.with_columns(
        pl.col("name").str.extract_groups(OSI).struct.rename_fields(PARTS).struct.unnest()
    )
    if found.is_empty():
        return None
    strike = pl.col("strike").cast(pl.Int64) * 10
    table = found.select(
        "name",
        pl.col("root").cast(pl.Categorical),
        ("20" + pl.col("expiry")).str.to_date("%Y%m%d", strict=False).alias("expiry"),
        pl.col("right").cast(Right),
        pl.when(strike.is_between(10, MAX_STRIKE)).then(strike).alias("strike"),
        like=pl.lit(value=True),
    )
    joined = names.cast(pl.String).to_frame("name").join(table, on="name", how="left", maintain_order="left")
    return joined.drop("name").with_columns(pl.col("like").fill_null(value=False))


Reject = Callable[[pl.DataFrame, str, str], None]
"""A function that receives bad rows, the column of prints at fault, and the reason."""


def taken_out(
    prints: pl.DataFrame, columns: Mapping[str, str], names: Sequence[str], reject: Reject
) -> tuple[pl.DataFrame, pl.Series | None]:
    """Return rows with the columns of the contract where their symbol or root is an OSI symbol.

    Args:
        prints: rows of a table, parsed so far.
        columns: the table's name for each column of a print that it has.
        names: those of `symbol` and `root` in which a text looks like an OSI symbol.
        reject: is called for rows whose contract is invalid, differs from their own columns, or is a stock's.

    Returns:
        The good rows, and a mask of those that had an OSI symbol; None if none had.
    """
    had: pl.Series | None = None
    for name in names:
        found = contracts(prints[name])
        if found is None:
            continue
        if had is not None:
            found = found.with_columns(like=found["like"] & ~had)
        good = _checked(prints, found, name, columns, reject)
        prints, found = prints.filter(good), found.filter(good)
        had = found["like"] if had is None else had.filter(good) | found["like"]
        prints = _with_parts(prints, found, (name, "root", *(() if "symbol" in columns else ("symbol",))))
    return prints, had


def _checked(
    prints: pl.DataFrame, found: pl.DataFrame, name: str, columns: Mapping[str, str], reject: Reject
) -> pl.Series:
    """Return a mask of the good rows. The others are rejected."""
    like = found["like"]
    none = like & (found["expiry"].is_null() | found["strike"].is_null())
    differs = like & False
    for part in (one for one in PARTS[1:] if one in columns):
        told = prints[part].cast(found.schema[part])
        differs |= like & (told != found[part]).fill_null(value=False)
    stock = like & (prints["asset"] == "stock") if "asset" in columns else like & False
    good = pl.repeat(True, prints.height, eager=True)
    for bad, what in (
        (none, "is an option's symbol, but no OSI symbol with a date and a strike"),
        (differs, "is an OSI symbol of another contract than expiry, right, strike"),
        (stock, "is an option's contract, and the asset is stock"),
    ):
        reject(prints.filter(bad & good), name, f"{columns[name]} {what}")
        good &= ~bad
    return good


def _with_parts(prints: pl.DataFrame, found: pl.DataFrame, named: tuple[str, ...]) -> pl.DataFrame:
    like, table = found["like"], found.with_columns(symbol="root")
    return prints.with_columns(
        pl.when(like).then(table[part]).otherwise(part if part in prints.columns else None).alias(part)
        for part in dict.fromkeys((*PARTS[1:], *named))
    )
