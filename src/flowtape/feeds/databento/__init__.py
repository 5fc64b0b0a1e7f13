"""Databento's live feed."""
