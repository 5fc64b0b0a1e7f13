"""Massive's live feed."""
