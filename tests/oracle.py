"""The contract worked out in plain Python, one row at a time, sharing no code with the program but the order
of its conditions.

A row is a dict of `prints` columns with plain values: ts in ns, prices in 1/10,000 USD, sizes in contracts or shares (a
stock's may be a Fraction), condition by name.
"""

import csv
from datetime import UTC, date, datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

from flowtape.model.prints import CONDITION_NAMES

FAMILIES = {
    "regular": "REGULAR AUTO REOP AJST STPD SPIM ISOI BNMT XMPT STK_REGULAR STK_SWEEP STK_SPLIT",
    "auction": "SLAN SLAI STK_OPENING",
    "multileg": "MLET MLAT MESL TLAT MASL TLET TESL TASL SPRD STDL BWRT CMBO",
    "cross": "SLCN SLCI MLCT TLCT",
    "floor": "SLFT MLFT MFSL TLFT TFSL CBMO",
    "late": "OSEQ LATE OPEN OPNL STK_SOLD STK_SOLD_LAST",
    "compression": "MCTP",
    "elsewhere": "STK_ACQUISITION",
    "extended": "EXHT",
    "cancel": "CANC CNCL CNCO CNOL CSTP",
    "unknown": "unknown",
}
FAMILY = {name: family for family, names in FAMILIES.items() for name in names.split()}
NUMBERS = {name: number for number, name in enumerate(CONDITION_NAMES)}
CANCELS = set(FAMILIES["cancel"].split())
UNSIDED = {
    name for name, of in FAMILY.items() if of in ("cross", "floor", "late", "compression", "elsewhere")
}
UNSIDED.add("STK_OPENING")
MINUTE = 60 * 10**9
NEW_YORK = ZoneInfo("America/New_York")


def day(ts):
    return datetime.fromtimestamp(ts // 10**9, UTC).astimezone(NEW_YORK).date()


def contract(row):
    return tuple(row[name] for name in ("asset", "symbol", "root", "expiry", "right", "strike"))


def distinct(rows):
    """Each row once; rows without a sequence are all kept, since the tapes here bring each of these once."""
    seen = {}
    for place, row in enumerate(rows):
        what = (row["price"], row["size"], row["condition"])
        key = (row["venue"], contract(row), row["ts"], row["seq"] or ("none", place), *what)
        seen.setdefault(key, row)
    return list(seen.values())


def event(row):
    """The contract's order of events, as far as it matters to rows of one contract."""
    return row["ts"], row["seq"], row["venue"], row["price"], row["size"], NUMBERS[row["condition"]]


def standing(rows):
    """Rows that count: a cancel takes the latest earlier one of its contract, size, price and day away."""
    rows = sorted(distinct(rows), key=event)
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


def valid_nbbo(row):
    """Whether the print's quote is one that may tell its side."""
    bid, ask, quote_ts = row["bid"], row["ask"], row["quote_ts"]
    if bid is None or ask is None or ask <= 0 or bid < 0 or ask < bid:
        return False
    return quote_ts is None or (quote_ts <= row["ts"] and day(quote_ts) >= day(row["ts"]))


def side(row):
    if row["condition"] in UNSIDED or not valid_nbbo(row):
        return 0
    middle = Fraction(row["bid"] + row["ask"], 2)
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
        volume = Fraction(sum(row["size"] for row in prints))
        price = sum(row["price"] * row["size"] for row in prints) / volume
        points.append(
            {
                "ts": datetime.fromtimestamp(minute * 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "netVolume": round(net),
                "cumulative": round(running),
                "vwap": round(price) / 10_000,
                "tradeCount": len(prints),
            }
        )
    return points


def read_cboe(path):
    """The rows of a Cboe trades file, by csv and datetime alone."""
    names = {
        "0": "REGULAR",
        "2": "OSEQ",
        "13": "LATE",
        "35": "SPRD",
        "40": "CANC",
        "95": "ISOI",
        "106": "SPIM",
    }
    made = []
    with path.open(newline="") as file:
        for one in csv.DictReader(file):
            wall = datetime.strptime(one["quote_datetime"], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=NEW_YORK)
            utc = wall.astimezone(UTC)
            ts = int(utc.timestamp()) * 10**9 + utc.microsecond * 1000
            made.append(
                {
                    "ts": ts, "asset": "option", "symbol": "VIX", "root": one["root"],
                    "expiry": date.fromisoformat(one["expiration"]), "right": one["option_type"],
                    "strike": round(float(one["strike"]) * 10_000), "price": round(float(one["trade_price"]) * 10_000),
                    "size": int(one["trade_size"]), "bid": round(float(one["best_bid"]) * 10_000),
                    "ask": round(float(one["best_ask"]) * 10_000), "quote_ts": None,
                    "condition": names[one["trade_condition_id"]], "venue": one["exchange_id"],
                    "seq": int(one["sequence_number"]),
                }
            )  # fmt: skip
    return made
