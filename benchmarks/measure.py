"""Runs contestants in turn, each in a process of its own, and compares them pair by pair."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


def child(function: str, *arguments: object, core: bool = False) -> Run:
    """Run `module:function` of this package with text arguments in a fresh process, on one `core` if so asked."""
    one = ["--core"] if core else []
    command = [sys.executable, "-m", "benchmarks.child", *one, function, *map(str, arguments)]
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


@contextmanager
def processor(told: dict[str, float], name: str = "cpu") -> Iterator[None]:
    """Tell the seconds of processor that a block takes: what else runs on the machine is not in them."""
    began = time.process_time()
    yield
    told[name] = told.get(name, 0.0) + time.process_time() - began


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of one round each."""
    return median(a / b for a, b in zip(above, below, strict=True))


def say(text: str) -> None:
    """Tell how far the run is, apart from its results."""
    print(text, file=sys.stderr, flush=True)
