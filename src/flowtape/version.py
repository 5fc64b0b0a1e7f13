"""The version, where both the package and its parts can take it from."""

__version__ = "0.2.0"
