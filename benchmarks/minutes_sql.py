"""The same minute bars in SQL: DuckDB over the Parquet file, nothing but one statement."""

from __future__ import annotations

import duckdb
import polars as pl

from benchmarks.minutes_ways import CANCELS, COLUMNS, GROUP, KEYS, MIDNIGHT, SILENT
from flowtape.model.conditions import FAMILY_OF


def _texts(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


_FAMILIES = ", ".join(f"('{name}', '{family}')" for name, family in FAMILY_OF.items())
_GROUP = ", ".join(f'"{name}"' for name in GROUP)
_EVENT = f"(PARTITION BY {_GROUP} ORDER BY ts, seq, venue)"

_SQL = f"""
WITH raw AS (
    SELECT {", ".join(f'"{name}"' for name in COLUMNS)}, file_row_number AS row,
        condition IN ({_texts(CANCELS)}) AS cancel
    FROM read_parquet($path, file_row_number = true)
),
-- A cancel removes the latest earlier print of its group that still stands: brackets, matched by depth.
involved AS (SELECT * FROM raw SEMI JOIN (SELECT DISTINCT {_GROUP} FROM raw WHERE cancel) USING ({_GROUP})),
heights AS (SELECT *, sum(if(cancel, -1, 1)) OVER {_EVENT} AS height FROM involved),
floors AS (SELECT *, least(min(height) OVER {_EVENT}, 0) AS floor FROM heights),
heard AS (SELECT *, cancel AND floor < lag(floor, 1, 0) OVER {_EVENT} AS idle FROM floors),
levels AS (SELECT *, height - floor + cancel::INTEGER AS level FROM heard WHERE NOT idle),
fates AS (
    SELECT row, cancel, lead(cancel) OVER (PARTITION BY {_GROUP}, level ORDER BY ts, seq, venue) AS gone
    FROM levels
),
told AS (
    SELECT *, round(price * 10000)::BIGINT AS cents, round(bid * 10000) + round(ask * 10000) AS spread,
        coalesce(bid >= 0 AND ask > 0 AND ask >= bid AND condition NOT IN ({_texts(SILENT)})
            AND (quote_ts IS NULL OR (quote_ts <= ts AND quote_ts >= $midnight::TIMESTAMPTZ_NS)), false) AS quoted
    FROM raw ANTI JOIN (SELECT row FROM fates WHERE gone AND NOT cancel) USING (row)
    WHERE NOT cancel
),
signed AS (
    SELECT *, cents * size AS notional, quoted AND 2 * cents > spread AS buy, quoted AND 2 * cents < spread AS sell
    FROM told JOIN (VALUES {_FAMILIES}) AS families(condition, family) USING (condition)
)
SELECT {{by}}, epoch_ns(ts) // 60000000000 AS minute,
    coalesce(sum(size) FILTER (buy), 0)::BIGINT AS buy_volume,
    coalesce(sum(size) FILTER (sell), 0)::BIGINT AS sell_volume,
    coalesce(sum(size) FILTER (NOT buy AND NOT sell), 0)::BIGINT AS mid_volume,
    coalesce(sum(notional) FILTER (buy), 0)::BIGINT AS buy_notional,
    coalesce(sum(notional) FILTER (sell), 0)::BIGINT AS sell_notional,
    coalesce(sum(notional) FILTER (NOT buy AND NOT sell), 0)::BIGINT AS mid_notional,
    count(*) AS trades, max(cents) AS high, min(cents) AS low, max(size) AS biggest, max(ts) AS last_ts
FROM signed GROUP BY ALL
"""


def by_duckdb(path: str, key: str) -> pl.DataFrame:
    by = ", ".join(f'"{name}"' for name in KEYS[key])
    with duckdb.connect() as db:
        db.execute("SET preserve_insertion_order = false")
        bars = db.sql(_SQL.replace("{by}", by), params={"path": path, "midnight": MIDNIGHT})
        return pl.DataFrame(bars.to_arrow_table())
