"""The report of one symbol's day: its picture and tables, from a store."""

from flowtape.report.day import Day, read_day
from flowtape.report.page import page
from flowtape.report.picture import Drawing, drawn, picture

__all__ = ["Day", "Drawing", "drawn", "page", "picture", "read_day"]
