"""See `flowtape.readers.ahead`."""

from flowtape.readers.ahead import ahead

__all__ = ["ahead"]
