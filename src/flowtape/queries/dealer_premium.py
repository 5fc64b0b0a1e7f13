"""`…/dealer-premium`: premium paid and received by option dealers, if they were the counterparty of every print."""

from __future__ import annotations

import msgspec

from flowtape.model.exact import total
from flowtape.model.query import Query
from flowtape.orderflow.minute_bars import NOTIONALS, of_side
from flowtape.queries.flow_data import FlowData
from flowtape.queries.render.bodies import Made
from flowtape.queries.render.numbers import NOTIONAL_SCALE, stamp
from flowtape.queries.spans import minutes_of

_SUMS = (*NOTIONALS["buy"], *NOTIONALS["sell"], "trades")


class DealerPremium(msgspec.Struct, kw_only=True):
    """Premiums in USD, price × size × 100. `dealer_buy_premium` is over sell prints, `dealer_write_premium` over buy
    prints. `trade_count` counts all prints, `bucket_count` the minutes with a print."""

    symbol: str
    as_of: str
    window_minutes: int
    expiry: str | None
    dealer_buy_premium: float
    dealer_write_premium: float
    net_dealer_premium: float
    total_premium: float
    trade_count: int
    bucket_count: int


def dealer_premium(data: FlowData, query: Query) -> Made:
    """Return the body of `…/dealer-premium`."""
    totals = data.totals(query, *minutes_of(data, query), _SUMS)
    write, buy = (total(of_side(totals.values, side, "notional")) for side in ("buy", "sell"))
    scale = NOTIONAL_SCALE["option"]
    body = DealerPremium(
        symbol=query.symbol,
        as_of=stamp(data.now if query.at is None else query.at, "s"),
        window_minutes=query.minutes,
        expiry=dict(query.echo).get("expiry"),
        dealer_buy_premium=buy / scale,
        dealer_write_premium=write / scale,
        net_dealer_premium=(buy - write) / scale,
        total_premium=(buy + write) / scale,
        trade_count=int(totals.values["trades"].sum()),
        bucket_count=len(totals.minute),
    )
    return Made(body, totals.as_of)
