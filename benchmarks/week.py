"""A store of one full week: five simulated days, made once and ingested with the command a user would use."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec

from benchmarks.measure import say
from benchmarks.scale import ROOT, Scale

DAYS = tuple(date(2026, 5, day) for day in range(11, 16))
END = int(datetime(2026, 5, 18, 13, 30, 5, tzinfo=UTC).timestamp()) * 10**9
"""Where the clock of servers and answers begins: five seconds after the next session's open (ns UTC)."""
CLOSE = int(datetime(2026, 5, 15, 20, 0, 5, tzinfo=UTC).timestamp()) * 10**9
"""Five seconds after the week's last close: the instant of answers made in one process (ns UTC)."""
SYMBOL = "SPY"


class Week(msgspec.Struct):
    """The store, and what making it took: seconds to simulate and to ingest, peak resident bytes of the ingest, bytes
    of the file, prints and minute bars."""

    path: str
    simulated: float
    ingested: float
    peak: int
    size: int
    prints: int
    bars: int

    @property
    def note(self) -> str:
        """The sentence that a section says of it."""
        return (
            f"A store of {self.prints:,} prints and {self.bars:,} minute bars over five days: "
            f"{self.size / 1e9:.2f} GB, simulated in {self.simulated:.0f} s and ingested in {self.ingested:.0f} s "
            f"({self.peak / 2**30:.2f} GiB at its peak), once."
        )


def week_of(scale: Scale) -> Week:
    """Return the week of a scale; make it where there is none."""
    mark, store = scale.folder / "week.json", scale.folder / "week.duckdb"
    if mark.exists() and store.exists():
        return msgspec.json.decode(mark.read_bytes(), type=Week)
    for old in store.parent.glob(f"{store.name}*"):
        old.unlink()
    began = time.perf_counter()
    tapes = [_tape(scale, day) for day in DAYS]
    simulated = time.perf_counter() - began
    say("  ingesting the week")
    began = time.perf_counter()
    command = [Path(sys.executable).with_name("flowtape"), "ingest", *tapes, "--store", store]
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident(process.pid, "VmHWM"))
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"flowtape ingest ended with {process.returncode}")
    prints, bars = _counts(store)
    made = Week(str(store), simulated, time.perf_counter() - began, peak, store.stat().st_size, prints, bars)
    mark.write_bytes(msgspec.json.encode(made))
    return made


def _tape(scale: Scale, day: date) -> Path:
    from flowtape.simulation.tape import Market, write_tape

    path = scale.folder / f"{day}.parquet"
    if not path.exists():
        say(f"  simulating {day}")
        write_tape(Market(seed=day.day, underlyings=scale.underlyings), day, path, rows=scale.prints)
    return path


def _counts(store: Path) -> tuple[int, int]:
    import duckdb

    with duckdb.connect(str(store), read_only=True) as db:
        sql = "SELECT (SELECT count(*) FROM print_rows), (SELECT count(*) FROM bar_rows)"
        (counts,) = db.execute(sql).fetchall()
    return counts


def resident(pid: int, what: str = "VmRSS") -> int:
    """Return resident bytes of a process: now (`VmRSS`) or at its peak (`VmHWM`); 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(what)), 0)


def busiest(store: Path, many: int) -> list[str]:
    """Return the option symbols with most prints, most first."""
    import duckdb

    with duckdb.connect(str(store), read_only=True) as db:
        sql = f"SELECT symbol FROM minute_bars GROUP BY symbol ORDER BY sum(trades) DESC, symbol LIMIT {many}"
        return [symbol for (symbol,) in db.execute(sql).fetchall()]
