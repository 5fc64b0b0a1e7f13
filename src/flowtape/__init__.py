"""flowtape: signed options flow from your own tape."""

from flowtape.library import cumulative, minutes, read, sign
from flowtape.storage import open_store
from flowtape.version import __version__

__all__ = ["__version__", "cumulative", "minutes", "open_store", "read", "sign"]
