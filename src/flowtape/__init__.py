"""Order flow from an options or stock tape: trade classification, minute bars, and the answers of the HTTP API.

Start with `open`, which gives the answers of a store as frames, or with `read`, which reads a file of a vendor.
"""

from flowtape.errors import (
    FeedError,
    FlowtapeError,
    Loading,
    NothingRead,
    RowError,
    SourceConflict,
    StoreBusy,
    StoreError,
    TakenOver,
    TapeError,
    UsageError,
)
from flowtape.library import (
    FlowStore,
    classify,
    cumulative,
    minutes,
    open,  # noqa: A004
    plot,
    read,
    read_minutes,
    sign,
)
from flowtape.storage import open_store
from flowtape.version import __version__

__all__ = [
    "FeedError",
    "FlowStore",
    "FlowtapeError",
    "Loading",
    "NothingRead",
    "RowError",
    "SourceConflict",
    "StoreBusy",
    "StoreError",
    "TakenOver",
    "TapeError",
    "UsageError",
    "__version__",
    "classify",
    "cumulative",
    "minutes",
    "open",
    "open_store",
    "plot",
    "read",
    "read_minutes",
    "sign",
]
