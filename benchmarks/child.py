"""`python -m benchmarks.child [--core] module:function ARGUMENT…`: one measured run; its result is a line of JSON.

With `--core` it has one core to itself, and libraries start as many threads as that.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path


def peak_resident() -> int:
    """Peak resident bytes of this process. Not `getrusage`, which also counts what forked it."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[0] == "--core":
        # Before anything is imported that counts the cores.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        arguments = arguments[1:]
    module, _, name = arguments[0].partition(":")
    function = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    started = time.perf_counter()
    told = function(*arguments[1:])
    seconds = time.perf_counter() - started
    told = told if isinstance(told, dict) else {}
    print(json.dumps({"seconds": seconds, "peak": peak_resident(), "told": told}))


if __name__ == "__main__":
    main()
