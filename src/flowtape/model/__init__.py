"""Prints, sale conditions, the trading calendar, queries and filters."""
