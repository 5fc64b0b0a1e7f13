"""What a client made for Python says; the base URL is the one of the document."""

import json
import os
from datetime import UTC, datetime

import flowclient

configuration = flowclient.Configuration(api_key={"header": os.environ["KEY"]})
at = datetime(2026, 3, 6, 21, 18, tzinfo=UTC)
with flowclient.ApiClient(configuration) as client:
    options, account = flowclient.OptionsApi(client), flowclient.AccountApi(client)
    line = options.flow_options_cumulative("SPY", minutes=30, at=at)
    recent = options.flow_options_recent("SPY", limit=1, at=at)
    board = options.flow_options_leaderboard(right="C", at=at)
    nobody = options.flow_options_cumulative("ES=F")
    me, symbols = account.account(), account.symbols()
    try:
        options.flow_options_cumulative("SPY", expiry="soon")
        refused = 0
    except flowclient.ApiException as error:
        refused = error.status
print(
    json.dumps(
        {
            "cumulative": line.points[-1].cumulative,
            "instrument": recent.trades[0].instrument_id,
            "buyer": board.buyers[0].symbol,
            "nobody": nobody.count,
            "email": me.email,
            "symbols": symbols.symbols,
            "refused": refused,
        }
    )
)
