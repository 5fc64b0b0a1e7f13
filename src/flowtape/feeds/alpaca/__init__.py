"""Alpaca's live feed."""
