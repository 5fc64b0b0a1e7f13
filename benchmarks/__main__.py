"""`python -m benchmarks`: run what is named, or everything, and write the page."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

import msgspec

from benchmarks.measure import say
from benchmarks.report import Section, page, stamped
from benchmarks.scale import ROOT, Scale

NAMES = {
    "minutes": "tape_to_minutes",
    "store": "tape_to_store",
    "endpoint": "endpoint",
    "http": "servers",
    "startup": "startup",
    "routes": "routes",
    "live": "live",
    "nulls": "nulls",
    "page": "page",
    "shared": "shared",
    "backfill": "backfill",
    "stages": "stages",
    "quotes": "quotes",
    "tail": "tail",
}


def main() -> None:
    scale, only = _arguments()
    # Of a full run beside the page, so that a fresh clone can measure one thing anew and keep the rest.
    kept = (ROOT / "benchmarks" if scale.full else scale.folder) / "results.json"
    results = msgspec.json.decode(kept.read_bytes(), type=dict[str, list[Section]]) if kept.exists() else {}
    for name in only or NAMES:
        say(name)
        load = os.getloadavg()[0]
        results[name] = [
            stamped(one, load) for one in importlib.import_module(f"benchmarks.{NAMES[name]}").run(scale)
        ]
        # After each, so that an interrupted run keeps what it has.
        kept.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    sections = [section for name in NAMES for section in results.get(name, [])]
    # Only a run at full size may stand in the repository.
    out = ROOT / "benchmarks" / "RESULTS.md" if scale.full else scale.folder / "RESULTS.md"
    text = page(sections, _command(scale), scale.full)
    out.write_text(text)
    print(text)
    say(f"written to {out.relative_to(ROOT)}")


def _arguments() -> tuple[Scale, list[str]]:
    usual = Scale()
    parser = argparse.ArgumentParser("python -m benchmarks", description=sys.modules["benchmarks"].__doc__)
    parser.add_argument(
        "--prints", type=int, default=usual.prints, help="rows of the simulated day (%(default)s)"
    )
    parser.add_argument(
        "--underlyings", type=int, default=usual.underlyings, help="in that day (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=usual.rounds, help="of each comparison (%(default)s)")
    parser.add_argument("--seconds", type=int, default=usual.seconds, help="of load a round (%(default)s)")
    parser.add_argument("--only", choices=NAMES, action="append", default=[], metavar="NAME",
                        help=f"run just this, keep the other results: {', '.join(NAMES)}; may be repeated")  # fmt: skip
    given = parser.parse_args()
    return Scale(given.prints, given.underlyings, given.rounds, given.seconds), given.only


def _command(scale: Scale) -> str:
    usual = Scale()
    options = [
        f" --{name} {getattr(scale, name)}"
        for name in Scale.__dataclass_fields__
        if getattr(scale, name) != getattr(usual, name)
    ]
    return "python -m benchmarks" + "".join(options)


if __name__ == "__main__":
    main()
