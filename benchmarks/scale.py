"""How large a run is, and where its files lie."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "var" / "bench"
DAY = date(2026, 5, 12)


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of everything that is measured. The defaults are the size the aims are stated for."""

    prints: int = 10_000_000
    underlyings: int = 5_000
    rounds: int = 3
    seconds: int = 10

    @property
    def full(self) -> bool:
        """Whether figures made at this scale may be held against the aims."""
        whole = Scale()
        return self.prints == whole.prints and self.underlyings == whole.underlyings and self.rounds >= 3

    @property
    def folder(self) -> Path:
        """Where tapes, stores and results of this scale are kept between runs."""
        path = WORK / f"{self.prints}x{self.underlyings}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def tape(self) -> Path:
        """The simulated day as Parquet, made once."""
        from flowtape.simulation.tape import Market, write_tape

        path = self.folder / "day.parquet"
        if not path.exists():
            write_tape(Market(seed=1, underlyings=self.underlyings), DAY, path, rows=self.prints)
        return path
