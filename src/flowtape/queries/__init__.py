"""The bodies of the API's answers, computed from minute bars and prints. No module here knows HTTP or reads the clock.

The function of a route takes a `FlowData` (the store's numbers at an instant) and a `Query`, and returns a `Made`.
`encode` turns a body into bytes, `table` turns it into a frame.
"""

from flowtape.queries.bars import RESOLUTIONS, Bars, bars
from flowtape.queries.cumulative import (
    CUMULATIVE,
    Cumulative,
    CumulativePoint,
    cumulative,
    cumulative_columns,
)
from flowtape.queries.dealer_premium import DealerPremium, dealer_premium
from flowtape.queries.drift import Drifts, drift_answer
from flowtape.queries.history import History, history
from flowtape.queries.leaders import Leaderboard, Outliers, leaderboard, outliers
from flowtape.queries.prints import BLOCK_SIZE, Blocks, Recent, Summary, blocks, recent, summary
from flowtape.queries.render.bodies import JSON, Answer, Made, encode, encode_json
from flowtape.queries.render.numbers import instant, instants, past_minutes, stamp, vwap, window_minutes
from flowtape.queries.render.tables import table
from flowtape.queries.signals import (
    Divergence,
    Sessions,
    TurningPoints,
    divergence_answer,
    sessions_answer,
    turning_points_answer,
)

__all__ = [
    "BLOCK_SIZE",
    "CUMULATIVE",
    "JSON",
    "RESOLUTIONS",
    "Answer",
    "Bars",
    "Blocks",
    "Cumulative",
    "CumulativePoint",
    "DealerPremium",
    "Divergence",
    "Drifts",
    "History",
    "Leaderboard",
    "Made",
    "Outliers",
    "Recent",
    "Sessions",
    "Summary",
    "TurningPoints",
    "bars",
    "blocks",
    "cumulative",
    "cumulative_columns",
    "dealer_premium",
    "divergence_answer",
    "drift_answer",
    "encode",
    "encode_json",
    "history",
    "instant",
    "instants",
    "leaderboard",
    "outliers",
    "past_minutes",
    "recent",
    "sessions_answer",
    "stamp",
    "summary",
    "table",
    "turning_points_answer",
    "vwap",
    "window_minutes",
]
