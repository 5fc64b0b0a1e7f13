"""The contract worked out in plain Python, one row at a time, sharing no code with the program.

A row is a dict of `prints` columns with plain values: ts in ns, prices in 1/10,000 USD, condition by name.
"""

from datetime import UTC, datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

CANCELS = {"CANC", "CNCL", "CNCO", "CNOL", "CSTP"}
UNSIDED = {
    "SLCN", "SLCI", "MLCT", "TLCT",
    "SLFT", "MLFT", "MFSL", "TLFT", "TFSL", "CBMO",
    "OSEQ", "LATE", "OPEN", "OPNL",
    "MCTP",
}  # fmt: skip
MINUTE = 60 * 10**9
NEW_YORK = ZoneInfo("America/New_York")


def day(ts):
    return datetime.fromtimestamp(ts // 10**9, UTC).astimezone(NEW_YORK).date()


def contract(row):
    return tuple(row[name] for name in ("asset", "symbol", "root", "expiry", "right", "strike"))


def distinct(rows):
    seen = {}
    for row in rows:
        seen.setdefault((row["venue"], contract(row), row["ts"], row["seq"]), row)
    return list(seen.values())


def standing(rows):
    """Rows that count: a cancel takes the latest earlier one of its contract, size, price and day away."""
    rows = sorted(distinct(rows), key=lambda row: (row["ts"], row["seq"], row["venue"]))
    left = []
    for row in rows:
        if row["condition"] not in CANCELS:
            left.append(row)
            continue
        for place in range(len(left) - 1, -1, -1):
            other = left[place]
            if (
                contract(other) == contract(row)
                and (other["size"], other["price"]) == (row["size"], row["price"])
                and day(other["ts"]) == day(row["ts"])
            ):
                del left[place]
                break
    return left


def side(row):
    bid, ask, quote_ts = row["bid"], row["ask"], row["quote_ts"]
    if row["condition"] in UNSIDED or bid is None or ask is None:
        return 0
    if ask <= 0 or bid < 0 or ask < bid:
        return 0
    if quote_ts is not None and (quote_ts > row["ts"] or day(quote_ts) < day(row["ts"])):
        return 0
    middle = Fraction(bid + ask, 2)
    return (row["price"] > middle) - (row["price"] < middle)


def cumulative(rows, symbol, start, end, expiry=None, asset="option"):
    """The points of minutes [start, end), as the contract writes them."""
    minutes = {}
    for row in standing(rows):
        if row["symbol"] != symbol or row["asset"] != asset or (expiry and row["expiry"] != expiry):
            continue
        minute = row["ts"] // MINUTE
        if start <= minute < end:
            minutes.setdefault(minute, []).append(row)
    points, running = [], 0
    for minute in sorted(minutes):
        prints = minutes[minute]
        net = sum(side(row) * row["size"] for row in prints)
        running += net
        price = Fraction(
            sum(row["price"] * row["size"] for row in prints), sum(row["size"] for row in prints)
        )
        points.append(
            {
                "ts": datetime.fromtimestamp(minute * 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "netVolume": net,
                "cumulative": running,
                "vwap": round(price) / 10_000,
                "tradeCount": len(prints),
            }
        )
    return points
