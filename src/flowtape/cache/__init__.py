"""Minute bars in memory."""
