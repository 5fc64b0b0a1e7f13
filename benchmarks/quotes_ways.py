"""Ways to give prints the quote before them, and to get quotes out of DBN files; each for a fresh process."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl

from benchmarks.measure import processor

BATCH = 100_000
SLACK = 5 * 10**9
"""What the reader of DBN files allows records to come late by."""
QUOTE = ("bid", "ask", "bid_size", "ask_size")
Joined = Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame]


def by_flowtape(trades: pl.DataFrame, quotes: pl.DataFrame) -> pl.DataFrame:
    """`QuoteJoin` over batches, as the readers use it: holds some of the quotes, expects them late and out of order."""
    from flowtape.orderflow.quotes import QuoteJoin

    join = QuoteJoin(quotes.iter_slices(BATCH), ["contract"], slack=SLACK)
    parts = [join.attach(part) for part in trades.iter_slices(BATCH)]
    join.finish()
    return pl.concat(parts)


def by_polars(trades: pl.DataFrame, quotes: pl.DataFrame) -> pl.DataFrame:
    """`join_asof` of whole frames that are known to be sorted."""
    return trades.join_asof(
        quotes.rename({"ts": "quote_ts"}),
        left_on="ts",
        right_on="quote_ts",
        by="contract",
        allow_exact_matches=False,
        coalesce=False,
        check_sortedness=False,
    )


def by_duckdb(trades: pl.DataFrame, quotes: pl.DataFrame) -> pl.DataFrame:
    """`ASOF JOIN` of the same frames."""
    import duckdb

    # As whole numbers: its time zones would need another library.
    whole = pl.col("ts").to_physical()
    with duckdb.connect() as db:
        db.register("trades", trades.with_columns(whole).to_arrow())
        db.register("quotes", quotes.with_columns(whole).to_arrow())
        columns = ", ".join(f"quotes.{name}" for name in QUOTE)
        found = db.sql(
            f"SELECT trades.*, {columns}, quotes.ts AS quote_ts FROM trades ASOF LEFT JOIN quotes"
            " ON trades.contract = quotes.contract AND trades.ts > quotes.ts"
        )
        return pl.DataFrame(found.to_arrow_table())


WAYS: dict[str, Joined] = {"flowtape": by_flowtape, "polars": by_polars, "duckdb": by_duckdb}


def join(way: str, trades: str, quotes: str) -> dict[str, float]:
    """One of `WAYS`, with both files in memory before."""
    frames = pl.read_parquet(trades), pl.read_parquet(quotes)
    told: dict[str, float] = {}
    with processor(told):
        WAYS[way](*frames)
    return told


def decode_flowtape(path: str) -> dict[str, float]:
    """Quotes as frames, with their contracts, as the reader makes them."""
    from flowtape.readers import databento as files
    from flowtape.readers.dbn import CMBP_1, SYMBOL_MAPPING, Contracts, read_chunks, read_header

    contracts, told, many, notes = Contracts(stocks=False), {}, 0, Counter[str]()
    contracts.add_metadata(read_header(Path(path)))
    with processor(told):
        for chunk in read_chunks(Path(path), (CMBP_1, SYMBOL_MAPPING), files.CHUNK_RECORDS):
            _, records = chunk.records[CMBP_1]
            many += files.quotes_of(
                "cmbp-1",
                "OPRA.PILLAR",
                records,
                contracts,
                ["contract"],
                lambda what, n: notes.update({what: n}),
            ).height
    return told | {"quotes": many}


def decode_frame(path: str) -> dict[str, float]:
    """The vendor's own way to a frame (pandas), without symbols."""
    import databento

    told: dict[str, float] = {}
    with warnings.catch_warnings():
        # What the vendor's client asks of pandas is not ours to mend.
        warnings.simplefilter("ignore")
        with processor(told):
            many = len(databento.DBNStore.from_file(path).to_df(map_symbols=False))
    return told | {"quotes": many}


def decode_records(path: str) -> dict[str, float]:
    """The vendor's records as one array, nothing made of them: the limit."""
    import databento

    told: dict[str, float] = {}
    with processor(told):
        many = len(databento.DBNStore.from_file(path).to_ndarray())
    return told | {"quotes": many}


def read(trades: str, quotes: str) -> dict[str, float]:
    """The whole reader: two files to prints with their quotes."""
    from flowtape.readers import open_tapes

    told: dict[str, float] = {}
    with processor(told):
        prints = pl.concat([batch.prints for tape in open_tapes([trades, quotes]) for batch in tape.batches])
    return told | {"prints": prints.height, "quoted": prints["bid"].count()}
