"""Stores of older format versions, made of the statements that made them then."""

import json

import duckdb
import polars as pl

from flowtape.model.prints import CONDITION_NAMES, QUOTE_CLASSES, Side

TABLES = """
CREATE TABLE meta (name VARCHAR PRIMARY KEY, value VARCHAR);
CREATE TABLE venues (venue USMALLINT, name VARCHAR);
CREATE TABLE sources (asset VARCHAR, symbol VARCHAR, day DATE, source VARCHAR);
CREATE TABLE cursors (source VARCHAR PRIMARY KEY, position VARCHAR);
CREATE TABLE standing_quotes (source VARCHAR, instrument VARCHAR, ts BIGINT, seq BIGINT, bid BIGINT, ask BIGINT,
    bid_size BIGINT, ask_size BIGINT);
"""
SERIES = """CREATE TABLE series (series INTEGER, asset VARCHAR, symbol VARCHAR, root VARCHAR, expiry DATE,
    "right" VARCHAR{});"""
VERSION_2 = (
    TABLES
    + SERIES.format("")
    + """
CREATE TABLE print_rows (ts TIMESTAMP_NS NOT NULL, series INTEGER NOT NULL, strike INTEGER NOT NULL,
    price BIGINT NOT NULL, size INTEGER NOT NULL, bid BIGINT, ask BIGINT, bid_size INTEGER, ask_size INTEGER,
    quote_ts TIMESTAMP_NS, condition UTINYINT NOT NULL, venue USMALLINT NOT NULL, seq BIGINT NOT NULL,
    underlying BIGINT);
CREATE TABLE bar_rows (series INTEGER, family UTINYINT, minute INTEGER, buy_volume BIGINT, buy_notional BIGINT);
CREATE TABLE removed_rows (ts TIMESTAMP_NS NOT NULL, seq BIGINT NOT NULL, series INTEGER NOT NULL,
    strike INTEGER NOT NULL, venue USMALLINT NOT NULL, size INTEGER NOT NULL, price BIGINT NOT NULL,
    removed_at TIMESTAMP_NS NOT NULL);
"""
)
_VERSION_3 = """
CREATE TABLE print_rows (ts TIMESTAMP_NS NOT NULL, series INTEGER NOT NULL, strike INTEGER NOT NULL,
    price BIGINT NOT NULL, size BIGINT NOT NULL, bid BIGINT, ask BIGINT, bid_size BIGINT, ask_size BIGINT,
    quote_ts TIMESTAMP_NS, quote_seq BIGINT, quote_class UTINYINT NOT NULL, condition UTINYINT NOT NULL,
    venue USMALLINT NOT NULL, seq BIGINT NOT NULL, copy BIGINT NOT NULL, corrects UTINYINT NOT NULL,
    underlying BIGINT, price_flags UTINYINT NOT NULL{});
CREATE TABLE bar_rows (series INTEGER, family UTINYINT, minute INTEGER, buy_volume BIGINT,
    buy_notional_upper BIGINT, buy_notional_lower BIGINT);
CREATE TABLE removed_rows (ts TIMESTAMP_NS NOT NULL, seq BIGINT NOT NULL, series INTEGER NOT NULL,
    strike INTEGER NOT NULL, venue USMALLINT NOT NULL, price BIGINT NOT NULL, size BIGINT NOT NULL,
    condition UTINYINT NOT NULL, copy BIGINT NOT NULL, removed_at TIMESTAMP_NS NOT NULL);
"""
VERSION_3_WITHOUT_SIDE = TABLES + SERIES.format("") + _VERSION_3.format("")
VERSION_3 = (
    TABLES
    + SERIES.format(", symbol_id INTEGER")
    + _VERSION_3.format(", symbol_id INTEGER NOT NULL, family UTINYINT NOT NULL, side UTINYINT NOT NULL")
    + "CREATE TABLE classified (day DATE, classification VARCHAR, PRIMARY KEY (day, classification));"
)
DDL = {"2": VERSION_2, "3 without side": VERSION_3_WITHOUT_SIDE, "3": VERSION_3}
TIMES = ("ts", "quote_ts")
NUMBERS = {"condition": CONDITION_NAMES, "quote_class": QUOTE_CLASSES, "side": tuple(Side.categories)}


def make_old(path, shape, prints, source):
    """Write prints (`prints.SCHEMA`) as a store of an older shape, with a cursor and a standing quote."""
    key = ("asset", "symbol", "root", "expiry", "right")
    series = {
        one: place for place, one in enumerate(prints.select(key).unique(maintain_order=True).iter_rows())
    }
    venues = {one: place for place, one in enumerate(prints["venue"].unique(maintain_order=True))}
    with duckdb.connect(str(path)) as db:
        db.execute(f"BEGIN; {DDL[shape]}")
        db.execute("INSERT INTO meta VALUES ('version', ?)", [shape[0]])
        many = db.execute("SELECT count(*) FROM duckdb_columns() WHERE table_name = 'series'").fetchone()[0]
        for one, place in series.items():
            values = [place, *one, 0][:many]
            db.execute(f"INSERT INTO series VALUES ({', '.join('?' * many)})", values)
        for name, place in venues.items():
            db.execute("INSERT INTO venues VALUES (?, ?)", [place, name])
        names = [name for (name,) in db.execute(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = 'print_rows' ORDER BY column_index"
        ).fetchall()]  # fmt: skip
        days = set()
        for one in prints.with_columns(pl.col(TIMES).to_physical()).iter_rows(named=True):
            days.add((one["asset"], one["symbol"]))
            values = one | {"series": series[tuple(one[name] for name in key)], "venue": venues[one["venue"]],
                            "strike": one["strike"] or 0, "symbol_id": 0, "family": 0, "side": "mid"}  # fmt: skip
            row = [NUMBERS[name].index(values[name]) if name in NUMBERS else values[name] for name in names]
            marks = ("make_timestamp_ns(?)" if name in TIMES else "?" for name in names)
            db.execute(f"INSERT INTO print_rows VALUES ({', '.join(marks)})", row)
        for asset, symbol in days:
            db.execute(
                "INSERT INTO sources VALUES (?, ?, ?, ?)", [asset, symbol, prints["ts"][0].date(), source]
            )
        db.execute("INSERT INTO cursors VALUES ('feed', ?)", [json.dumps({"at": 1})])
        db.execute("INSERT INTO standing_quotes VALUES ('feed', 'A', 1, 2, 3, 4, 5, 6)")
        db.execute("COMMIT")
