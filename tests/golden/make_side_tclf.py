"""Make `side_tclf.json`: seeded random trades and the sides that the public package `tclf` gives them.

`tclf` wants an environment of its own (version 0.4.0 pins numpy below 2). To remake the file, at the root of
the repository:

    python3.11 -m venv /tmp/tclf && /tmp/tclf/bin/pip install tclf==0.4.0
    /tmp/tclf/bin/python tests/golden/make_side_tclf.py

It writes the same bytes every time. Prices are given to `tclf` in units of 1/10,000 USD, so that its floats
hold them exactly; its random fill is off (`strategy="const"`). The last and next different prices it asks
for are found here by a plain loop, so that `tick` and `rtick` are checked too.
"""

from __future__ import annotations

import json
import random
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tclf.classical_classifier import ClassicalClassifier

ROWS = 2000
CONTRACTS = 12
SEED = 20260302
STACKS = {
    "quote": ["quote"],
    "tick": ["tick"],
    "rtick": ["rev_tick"],
    "lr": ["lr"],
    "emo": ["emo"],
    "clnv": ["clnv"],
    "depth": ["depth"],
    "tsize": ["trade_size"],
    "tsize+quote+depth+tick": ["trade_size", "quote", "depth", "tick"],
}
FEATURES = {
    "trade_price": "price",
    "trade_size": "size",
    "bid_ex": "bid",
    "ask_ex": "ask",
    "bid_size_ex": "bid_size",
    "ask_size_ex": "ask_size",
    "price_ex_lag": "last_different",
    "price_ex_lead": "next_different",
}
INPUTS = ("ms", "seq", "contract", "price", "size", "bid", "ask", "bid_size", "ask_size")
Row = dict[str, "int | None"]


def quote(rng: random.Random) -> tuple[int | None, int | None]:
    """A bid and an ask: mostly sound, and of every unsound kind some."""
    # The dear ones, from 10 USD on, are where tclf's relative tolerance is wider than one unit.
    bid = rng.choice([rng.randrange(1, 80) * 100, rng.randrange(1000, 30_000) * 100, rng.randrange(1, 90)])
    wide = rng.choice([1, 2, 5, 10, 10, 30, 100, 1000])
    kind = rng.choices(
        ["sound", "locked", "crossed", "no bid", "no ask", "neither", "zero bid", "zeros", "negative"],
        [70, 6, 6, 4, 4, 3, 4, 2, 1],
    )[0]
    return {
        "sound": (bid, bid + wide * 10),
        "locked": (bid, bid),
        "crossed": (bid + wide, bid),
        "no bid": (None, bid),
        "no ask": (bid, None),
        "neither": (None, None),
        "zero bid": (0, wide * 10),
        "zeros": (0, 0),
        "negative": (-wide, bid),
    }[kind]


def price(rng: random.Random, bid: int | None, ask: int | None, last: int) -> int:
    """A price at, near, between or outside the quotes, on an edge of a CLNV band, or the last one again."""
    if rng.random() < 0.15:
        return last
    low, high = sorted((bid or ask or last, ask or bid or last))
    places = [
        low,
        high,
        (low + high) // 2,
        (low + high) // 2 + 1,
        (3 * low + 7 * high) // 10,
        (7 * low + 3 * high) // 10,
        rng.randint(low, high),
        low - rng.choice([1, 2, 100]),
        high + rng.choice([1, 2, 100]),
        low + 1,
        high - 1,
    ]
    return max(1, rng.choice(places))


def sizes(rng: random.Random) -> tuple[int, int | None, int | None]:
    """A trade size and two quote sizes: often equal, some unknown, some beyond tclf's relative tolerance."""
    base = rng.choice([1, 5, 10, 250, 300_000])
    trade, bid, ask = (base + rng.choice([0, 0, 1, 2]) for _ in range(3))
    return trade, None if rng.random() < 0.03 else bid, None if rng.random() < 0.03 else ask


def different(rows: list[Row], name: str) -> None:
    """Write into each row the price before it, in the order given, that differs from its own."""
    run: dict[int | None, tuple[int | None, int | None]] = {}
    for row in rows:
        now, before = run.get(row["contract"], (None, None))
        if row["price"] != now:
            now, before = row["price"], now
        run[row["contract"]] = (now, before)
        row[name] = before


def trades() -> list[Row]:
    """All trades, in the order of a file that is sorted by nothing."""
    rng = random.Random(SEED)
    rows: list[Row] = []
    last = dict.fromkeys(range(CONTRACTS), 500)
    for seq in range(ROWS):
        contract = rng.randrange(CONTRACTS)
        bid, ask = quote(rng)
        last[contract] = price(rng, bid, ask, last[contract])
        size, bid_size, ask_size = sizes(rng)
        values = (seq // 3, seq, contract, last[contract], size, bid, ask, bid_size, ask_size)
        rows.append(dict(zip(INPUTS, values, strict=True)))
    different(rows, "last_different")
    different(rows[::-1], "next_different")
    rng.shuffle(rows)
    return rows


def answers(rows: list[Row]) -> dict[str, list[int]]:
    """tclf's side of each trade under each rule: 1, −1, or 0 where it decides nothing."""
    table = np.array([[row[name] for name in FEATURES.values()] for row in rows], dtype=float)
    made = {}
    for name, layers in STACKS.items():
        classifier = ClassicalClassifier(
            [(layer, "ex") for layer in layers], features=list(FEATURES), strategy="const"
        )
        made[name] = classifier.fit(table).predict(table).astype(int).tolist()
    return made


def block(columns: dict[str, list[int | None]]) -> str:
    """Columns as JSON, one line each."""
    lines = [f'"{name}": {json.dumps(column, separators=(",", ":"))}' for name, column in columns.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def main() -> None:
    """Write the file beside this script."""
    rows = trades()
    given = block({name: [row[name] for row in rows] for name in INPUTS})
    text = f'{{\n"tclf": "{version("tclf")}",\n"trades": {given},\n"sides": {block(answers(rows))}\n}}\n'
    Path(__file__).with_name("side_tclf.json").write_text(text)


if __name__ == "__main__":
    main()
