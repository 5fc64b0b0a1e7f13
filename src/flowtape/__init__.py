"""flowtape: signed options flow from your own tape."""

from flowtape.library import cumulative, minutes, read, read_minutes, sign
from flowtape.storage import open_store
from flowtape.version import __version__

__all__ = ["__version__", "cumulative", "minutes", "open_store", "read", "read_minutes", "sign"]
