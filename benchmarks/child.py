"""`python -m benchmarks.child module:function ARGUMENT…`: one measured run; its result is a line of JSON."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path


def peak_resident() -> int:
    """Peak resident bytes of this process. Not `getrusage`, which also counts what forked it."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    started = time.perf_counter()
    told = function(*sys.argv[2:])
    seconds = time.perf_counter() - started
    told = told if isinstance(told, dict) else {}
    print(json.dumps({"seconds": seconds, "peak": peak_resident(), "told": told}))


if __name__ == "__main__":
    main()
