"""Every route of the contract's raw-flow family, one print at a time, over `oracle`'s rows.

A route takes a `Tape` and the query's arguments as they stand in the URL, and gives the JSON body as Python values,
keys in the contract's order. Whole numbers are ints; a number that may have a fraction is a float.
"""

from datetime import UTC, date, datetime
from fractions import Fraction
from statistics import median

import oracle
from oracle import MINUTE
from oracle_compare import Ties

FILTERS = ("expiry", "right", "dte", "strike", "exclude", "side")
SIDES = {1: "buy", -1: "sell", 0: "mid"}
SECONDS = {"1s": 1, "1m": 60, "5m": 300, "15m": 900, "30m": 1800, "1h": 3600, "4h": 14_400}
BLOCK = {"option": 100, "stock": 10_000}
MULTIPLIER = {"option": 100, "stock": 1}


class Tape:
    """Rows, and what of them counts as known at an instant."""

    def __init__(self, rows):
        self.rows = rows
        self._known = {}

    def known(self, at):
        if at not in self._known:
            rows = [row for row in self.rows if at is None or row["ts"] < at]
            self._known[at] = [row | {"sign": oracle.side(row)} for row in oracle.standing(rows)]
        return self._known[at]

    def of(self, asset, symbol, at=None, asked=None):
        """Counted prints of a symbol that pass the filters."""
        return [
            row
            for row in self.known(at)
            if (row["asset"], row["symbol"]) == (asset, symbol) and passes(row, asked or {})
        ]


def passes(row, asked):
    """Whether a print passes the filters, given as text."""
    if "expiry" in asked and not any(_in_dates(row["expiry"], part) for part in asked["expiry"].split(",")):
        return False
    if "right" in asked and row["right"] != asked["right"]:
        return False
    if "dte" in asked:
        low, high = _ends(asked["dte"])
        if not int(low) <= (row["expiry"] - oracle.day(row["ts"])).days <= int(high):
            return False
    if "strike" in asked:
        low, high = _ends(asked["strike"])
        if not Fraction(low) * 10_000 <= row["strike"] <= Fraction(high) * 10_000:
            return False
    if "exclude" in asked and oracle.FAMILY[row["condition"]] in asked["exclude"].split(","):
        return False
    return "side" not in asked or SIDES[row["sign"]] == asked["side"]


def _ends(text):
    low, _, high = text.partition("..")
    return low, high or low


def _in_dates(expiry, text):
    low, high = _ends(text)
    return date.fromisoformat(low) <= expiry <= date.fromisoformat(high)


def usd(units, times=1):
    """1/10,000 USD as USD: the float nearest to the exact number."""
    return float(Fraction(units) * times / 10_000)


def vwap(rows):
    notional = sum(row["price"] * row["size"] for row in rows)
    return usd(round(Fraction(notional) / Fraction(sum(row["size"] for row in rows))))


def instant(ts):
    return datetime.fromtimestamp(ts // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def instant_ms(ts):
    return f"{instant(ts)[:-1]}.{ts // 10**6 % 1000:03}Z"


def volume(rows, sign=None):
    return sum(row["size"] for row in rows if sign is None or row["sign"] == sign)


def notional(rows, sign=None):
    """price x size, 1/10,000 USD, without the contract's multiplier."""
    return sum(row["price"] * row["size"] for row in rows if sign is None or row["sign"] == sign)


def net(measure, rows):
    return measure(rows, 1) - measure(rows, -1)


def newest(rows):
    return max(row["ts"] for row in rows)


def head(symbol, asked):
    return {"symbol": symbol} | {name: asked[name] for name in FILTERS if name in asked}


def span(minutes, now, at):
    """Minutes [start, end) of a window asked now, or of whole minutes that end by `at`."""
    last = (now if at is None else at) // MINUTE
    return (last - minutes + 1, last + 1) if at is None else (last - minutes, last)


def minutes_of(rows, start, end):
    """Minute → its prints, oldest first; only minutes with prints."""
    found = {}
    for row in rows:
        if start <= row["ts"] // MINUTE < end:
            found.setdefault(row["ts"] // MINUTE, []).append(row)
    return dict(sorted(found.items()))


def todays(tape, asset, symbol, at, asked):
    """The prints that pass of the trading day of the symbol's newest print."""
    rows = tape.of(asset, symbol, at)
    if not rows:
        return []
    day = oracle.day(newest(rows))
    return [row for row in tape.of(asset, symbol, at, asked) if oracle.day(row["ts"]) == day]


def _quote(row):
    unknown = row["bid"] is None or row["ask"] is None
    return {"bid": 0.0, "ask": 0.0} if unknown else {"bid": usd(row["bid"]), "ask": usd(row["ask"])}


def _contract(row):
    if row["asset"] == "stock":
        return {}
    return {"expiry": row["expiry"].isoformat(), "strike": usd(row["strike"]), "right": row["right"]}


def _trade(row):
    return {"price": usd(row["price"]), "size": round(row["size"]), "side": SIDES[row["sign"]]}


def _recent_row(row):
    made = {"ts": instant_ms(row["ts"])}
    if row["asset"] == "option":
        made["instrumentId"] = oracle.contract(row)
    return made | _contract(row) | _trade(row) | {"isBlock": row["size"] >= BLOCK[row["asset"]]} | _quote(row)


def _block_row(row):
    quote = _quote(row) if row["asset"] == "stock" else {}
    return {"ts": instant_ms(row["ts"])} | _contract(row) | _trade(row) | quote


def recent(tape, asset, symbol, *, at=None, limit=50, **asked):
    rows = todays(tape, asset, symbol, at, asked)
    trades = Ties(rows, _recent_row, limit)
    return head(symbol, asked) | {"count": trades.shown, "totalAvailable": len(rows), "trades": trades}


def blocks(tape, asset, symbol, *, at=None, minSize=None, **asked):  # noqa: N803
    least = BLOCK[asset] if minSize is None else minSize
    rows = [row for row in todays(tape, asset, symbol, at, asked) if row["size"] >= least]
    shown = Ties(rows, _block_row, 500)
    return head(symbol, asked) | {"minSize": least, "count": shown.shown, "blocks": shown}


def _volumes(rows):
    return {
        "buyVolume": round(volume(rows, 1)),
        "sellVolume": round(volume(rows, -1)),
        "midVolume": round(volume(rows, 0)),
        "netVolume": round(net(volume, rows)),
    }


def summary(tape, asset, symbol, *, at=None, **asked):
    rows = todays(tape, asset, symbol, at, asked)
    body = head(symbol, asked)
    if asset == "option":
        body["contractsWithTrades"] = len({oracle.contract(row) for row in rows})
    return (
        body
        | {"totalTrades": len(rows)}
        | _volumes(rows)
        | {
            "biggestSingleTrade": round(_biggest(rows)) if rows else 0,
            "lastTradeUtc": instant_ms(newest(rows)) if rows else None,
        }
    )


def opening(rows):
    """The price of the first print in event order, of those that may set it."""
    return min(allowed(rows, 2), key=_event)["price"]


def closing(rows):
    """The price of the last print in event order, of those that may set it."""
    return max(allowed(rows, 2), key=_event)["price"]


def _event(row):
    return row["ts"], row["seq"], row["venue"], row["price"]


def allowed(rows, flag):
    """Of stocks the prints that may set a price, if there are any; else all."""
    some = [row for row in rows if row.get("price_flags", 3) & flag]
    return some if some and rows[0]["asset"] == "stock" else rows


def _extremes(rows):
    prices = [row["price"] for row in allowed(rows, 1)]
    return {"high": usd(max(prices)), "low": usd(min(prices))}


def _biggest(rows):
    return max(row["size"] for row in rows)


def quality(rows):
    """How far the side of a point's prints can be known."""
    total = volume(rows)

    def share(some):
        return round(Fraction(volume(some)) / total * 10_000) / 10_000

    families = {oracle.FAMILY[row["condition"]] for row in rows}
    ages = [
        row["ts"] - row["quote_ts"] for row in rows if oracle.valid_nbbo(row) and row["quote_ts"] is not None
    ]
    return {
        "nbboShare": share([row for row in rows if oracle.valid_nbbo(row)]),
        "sidedShare": share([row for row in rows if row["sign"]]),
        "families": {
            family: share([row for row in rows if oracle.FAMILY[row["condition"]] == family])
            for family in sorted(families)
        },
    } | ({"medianQuoteAgeMs": float(median(map(Fraction, ages)) / 10**6)} if ages else {})


def _history_row(asset, minute, rows, with_quality):
    body = {"ts": instant(minute * MINUTE)} | _volumes(rows)
    body |= {"tradeCount": len(rows), "biggestTrade": round(_biggest(rows)), "vwap": vwap(rows)}
    if asset == "stock":
        body |= {"open": usd(opening(rows)), "close": usd(closing(rows))}
    return body | _extremes(rows) | (quality(rows) if with_quality else {})


def history(tape, asset, symbol, *, now=None, at=None, minutes=60, include=None, bounds=None, **asked):
    """`bounds` are the first minute and the one after the last, in place of `minutes`."""
    found = minutes_of(tape.of(asset, symbol, at, asked), *(bounds or span(minutes, now, at)))
    rows = [_history_row(asset, minute, prints, include) for minute, prints in found.items()][::-1]
    return head(symbol, asked) | {"minutes": minutes, "count": len(rows), "buckets": rows}


def points(asset, found, *, measure="volume", include=None, opens=None):
    """Points of minutes with their running sum; with `opens`, (ns, session) in order, begun anew at each."""
    made, running, session = [], 0, None
    for minute, rows in found.items():
        if opens:
            current = [name for opened, name in opens if opened // MINUTE <= minute][-1]
            running, session = (running if current == session else 0), current
        step = net(volume, rows) if measure == "volume" else net(notional, rows) * MULTIPLIER[asset]
        running += step
        if measure == "volume":
            numbers = {"netVolume": round(step), "cumulative": round(running)}
        else:
            numbers = {"netPremium": usd(step), "cumulative": usd(running)}
        point = {"ts": instant(minute * MINUTE)} | ({"session": session} if opens else {}) | numbers
        point |= {"vwap": vwap(rows), "tradeCount": len(rows)}
        made.append(point | (quality(rows) if include else {}))
    return made


def cumulative(
    tape,
    asset,
    symbol,
    *,
    now=None,
    at=None,
    minutes=240,
    measure="volume",
    include=None,
    opens=None,
    bounds=None,
    **asked,
):
    start, end = bounds or span(minutes, now, at)
    rows = tape.of(asset, symbol, at, asked)
    # A session's sum begins at its open, before the window where need be.
    first = (
        max((opened // MINUTE for opened, _ in opens if opened // MINUTE <= start), default=start)
        if opens
        else start
    )
    found = minutes_of(rows, first, end)
    made = points(asset, found, measure=measure, include=include, opens=opens)
    made = [point for point, minute in zip(made, found, strict=True) if minute >= start]
    body = head(symbol, asked)
    if measure != "volume":
        body["measure"] = measure
    if opens:
        body["anchor"] = "session"
    return body | {"minutes": minutes, "count": len(made), "points": made}


def dealer_premium(tape, symbol, *, now=None, at=None, windowMinutes=240, **asked):  # noqa: N803
    found = minutes_of(tape.of("option", symbol, at, asked), *span(windowMinutes, now, at))
    rows = [row for prints in found.values() for row in prints]
    buy, write = notional(rows, -1), notional(rows, 1)
    return {
        "symbol": symbol,
        "as_of": instant(now if at is None else at),
        "window_minutes": windowMinutes,
        "expiry": asked.get("expiry"),
        "dealer_buy_premium": usd(buy, 100),
        "dealer_write_premium": usd(write, 100),
        "net_dealer_premium": usd(buy - write, 100),
        "total_premium": usd(buy + write, 100),
        "trade_count": len(rows),
        "bucket_count": len(found),
    }


def bars(tape, symbol, *, now, resolution, minutes=60):
    long = SECONDS[resolution] * 10**9
    start, end = (minute * MINUTE for minute in span(minutes, now, None))
    start -= start % long
    all_of_it = tape.of("stock", symbol)
    found = {}
    for row in all_of_it:
        if start <= row["ts"] < end:
            found.setdefault(row["ts"] - row["ts"] % long, []).append(row)
    made = []
    for begun, rows in sorted(found.items()):
        bar = {"ts": instant(begun), "closed": now >= begun + long, "open": usd(opening(rows))}
        bar |= _extremes(rows) | {"close": usd(closing(rows)), "vwap": vwap(rows)} | _volumes(rows)
        made.append(bar | {"tradeCount": len(rows), "biggestTrade": round(_biggest(rows))})
    oldest = instant(min(row["ts"] for row in all_of_it)) if all_of_it else None
    return {
        "symbol": symbol, "resolution": resolution, "minutes": minutes, "count": len(made),
        "dataStartUtc": oldest, "bars": made,
    }  # fmt: skip


def by_symbol(tape, asset, now, minutes):
    """Symbol → its prints in the window, for all with any."""
    start, end = span(minutes, now, None)
    found = {}
    for row in tape.known(None):
        if row["asset"] == asset and start <= row["ts"] // MINUTE < end:
            found.setdefault(row["symbol"], []).append(row)
    return found


def leaderboard(tape, asset, *, now, n=10, windowMinutes=240):  # noqa: N803
    rows = []
    for symbol, prints in by_symbol(tape, asset, now, windowMinutes).items():
        row = {"symbol": symbol, "netVolume": round(net(volume, prints))}
        row |= {"netNotional": usd(net(notional, prints), MULTIPLIER[asset])}
        row |= {"buyVolume": round(volume(prints, 1)), "sellVolume": round(volume(prints, -1))}
        row |= {"avgPremium" if asset == "option" else "vwap": vwap(prints), "tradeCount": len(prints)}
        rows.append((net(notional, prints), row | {"lastTradeUtc": instant(newest(prints))}))
    buyers = sorted((one for one in rows if one[0] > 0), key=lambda one: (-one[0], one[1]["symbol"]))
    sellers = sorted((one for one in rows if one[0] < 0), key=lambda one: (one[0], one[1]["symbol"]))
    return {
        "generatedUtc": instant(now), "n": n, "windowMinutes": windowMinutes,
        "buyers": [row for _, row in buyers[:n]], "sellers": [row for _, row in sellers[:n]],
    }  # fmt: skip


def skew(imbalance):
    for least, name in ((60, "STRONG_"), (30, ""), (10, "MILD_")):
        if abs(imbalance) >= least:
            return name + ("BUY" if imbalance > 0 else "SELL")
    return "FLAT"


def _outlier(asset, symbol, prints, now):
    buy, sell = volume(prints, 1), volume(prints, -1)
    imbalance = (
        Fraction(round(Fraction(10_000 * abs(buy - sell)) / (buy + sell)), 100) if buy + sell else Fraction()
    )
    biggest = min(row["ts"] for row in prints if row["size"] == _biggest(prints))
    last_minute = max(row["ts"] // MINUTE for row in prints)
    return (
        {"symbol": symbol, "tradeCount": len(prints)}
        | _volumes(prints)
        | {
            "imbalancePct": float(imbalance),
            "skew": skew(imbalance if buy > sell else -imbalance),
            "notional": usd(notional(prints), MULTIPLIER[asset]),
            "netNotional": usd(net(notional, prints), MULTIPLIER[asset]),
            "biggestTrade": round(_biggest(prints)),
            "biggestTradeUtc": instant(biggest),
            "biggestAgeSec": (now - biggest) // 10**9,
            "lastVwap": vwap([row for row in prints if row["ts"] // MINUTE == last_minute]),
            "lastTradeUtc": instant(newest(prints)),
            "lastTradeAgeSec": (now - newest(prints)) // 10**9,
        }
    )


def outliers(tape, asset, *, now, limit=20, minTrades=20, windowMinutes=240):  # noqa: N803
    found = by_symbol(tape, asset, now, windowMinutes)
    kept = [(abs(net(notional, rows)), s, rows) for s, rows in found.items() if len(rows) >= minTrades]
    kept.sort(key=lambda one: (-one[0], one[1]))
    return {
        "generatedUtc": instant(now), "windowMinutes": windowMinutes, "tracked": len(found),
        "qualified": len(kept), "limit": limit,
        "outliers": [_outlier(asset, symbol, rows, now) for _, symbol, rows in kept[:limit]],
    }  # fmt: skip
