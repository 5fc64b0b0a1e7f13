"""Runs contestants in turn, each in a process of its own, and compares them pair by pair."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from benchmarks.scale import ROOT

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Run:
    """One function run once in a fresh process: wall seconds without imports, peak resident bytes of the whole
    process, and what the function told."""

    seconds: float
    peak: int
    told: dict[str, float]


def child(function: str, *arguments: object) -> Run:
    """Run `module:function` of this package with text arguments in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.child", function, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def in_turn(rounds: int, contestants: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Results by name: A B C, A B C, …, so that what slows the machine for a while slows all of them."""
    results: dict[str, list[T]] = {name: [] for name in contestants}
    for number in range(1, rounds + 1):
        for name, run in contestants.items():
            say(f"  round {number} of {rounds}: {name}")
            results[name].append(run())
    return results


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of one round each."""
    return median(a / b for a, b in zip(above, below, strict=True))


def say(text: str) -> None:
    """Tell how far the run is, apart from its results."""
    print(text, file=sys.stderr, flush=True)
