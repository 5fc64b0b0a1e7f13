"""The counts of the rows of a tape or a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from flowtape.pipeline.provenance import Refusal


@dataclass(slots=True)
class Report:
    """The counts of the rows of a tape.

    `rows` = `added` + `duplicates` + `replaced_quotes` + `corrections` + `official` + `rejected` + `refused`.
    """

    source: str
    rows: int = 0
    added: int = 0
    duplicates: int = 0
    """Rows of prints that are stored already, with no better quote."""
    replaced_quotes: int = 0
    """Rows of prints that are stored already, whose quote replaced the stored one."""
    corrections: int = 0
    """Rows that correct another row by their source's mark, and rows that another row corrects."""
    official: int = 0
    """Rows that repeat a print as an official open or close."""
    rejected: int = 0
    refused: int = 0
    cancels: int = 0
    removed: int = 0
    counted: int = 0
    """Distinct prints among the rows, stored before or not."""
    unquoted: int = 0
    """Of `counted`: prints without a quote in force in this tape."""
    refusals: set[Refusal] = field(default_factory=set)
    notes: Counter[str] = field(default_factory=Counter)
    volumes: dict[tuple[str, str], float] = field(default_factory=dict)
    """Contracts or shares of the new counted prints, by asset and side."""


Progress = Callable[[Report, float], None]
"""Called after each batch with the report so far and the share of the tape that is done, from 0 to 1."""
