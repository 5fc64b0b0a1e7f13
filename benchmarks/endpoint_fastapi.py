"""The endpoint as one would write it with FastAPI and DuckDB: a table of sided prints, a query a request."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Annotated

import duckdb
from fastapi import FastAPI, Header, HTTPException

KEYS = {os.environ["PEER_KEY"]: "Alpha"}
NOW = datetime.fromisoformat(os.environ["PEER_NOW"])
QUERY = """
    SELECT strftime(minute, '%Y-%m-%dT%H:%M:%SZ') AS ts, net AS "netVolume",
        sum(net) OVER (ORDER BY minute)::BIGINT AS cumulative, vwap, trades AS "tradeCount"
    FROM (
        SELECT time_bucket(INTERVAL 1 MINUTE, ts) AS minute,
            (coalesce(sum(size) FILTER (side = 'buy'), 0) - coalesce(sum(size) FILTER (side = 'sell'), 0)) AS net,
            round(sum(price * size) / sum(size), 4) AS vwap, count(*) AS trades
        FROM prints WHERE symbol = ? AND ts >= ? AND ts < ? GROUP BY minute
    ) ORDER BY minute
"""
NAMES = ("ts", "netVolume", "cumulative", "vwap", "tradeCount")

app = FastAPI()
database = duckdb.connect(os.environ["PEER_STORE"], read_only=True)


@app.get("/v1/flow/options/{symbol}/cumulative")
def cumulative(symbol: str, x_api_key: Annotated[str, Header()], minutes: int = 240) -> dict[str, object]:
    if KEYS.get(x_api_key) != "Alpha":
        raise HTTPException(401, "Invalid API key.")
    end = NOW.astimezone(UTC).replace(tzinfo=None, second=0, microsecond=0) + timedelta(minutes=1)
    with database.cursor() as cursor:
        found = cursor.execute(QUERY, [symbol.upper(), end - timedelta(minutes=minutes), end]).fetchall()
    points = [dict(zip(NAMES, row, strict=True)) for row in found]
    return {"symbol": symbol.upper(), "minutes": minutes, "count": len(points), "points": points}
