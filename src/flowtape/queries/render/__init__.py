"""Columns of an answer as JSON, tables and text."""
