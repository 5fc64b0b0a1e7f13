"""The contract's bodies, made of minutes and prints. No HTTP and no clock: a `Desk` knows the instant and the numbers.

Each route's function takes a desk and a query and gives `Made`; `encode` makes bytes of it, `table` a frame.
"""

from flowtape.answers.boards import Leaderboard, Outliers, leaderboard, outliers
from flowtape.answers.bodies import JSON, Answer, Made, encode, encode_json
from flowtape.answers.buckets import History, history
from flowtape.answers.drift import Drifts, drift_answer
from flowtape.answers.numbers import instant, instants, past_minutes, stamp, vwap, window_minutes
from flowtape.answers.premium import DealerPremium, dealer_premium
from flowtape.answers.readings import (
    Divergence,
    Sessions,
    TurningPoints,
    divergence_answer,
    sessions_answer,
    turning_points_answer,
)
from flowtape.answers.resolutions import RESOLUTIONS, Bars, bars
from flowtape.answers.running import CUMULATIVE, Cumulative, CumulativePoint, cumulative, cumulative_columns
from flowtape.answers.tables import table
from flowtape.answers.tape import BLOCK_SIZE, Blocks, Recent, Summary, blocks, recent, summary

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
