"""Writes the reference of the library as static pages, made from its docstrings by pdoc.

Run as `make docs`; the pages are in `build/docs`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pdoc

MODULES = (
    "flowtape",
    "flowtape.errors",
    "flowtape.model.calendar",
    "flowtape.model.prints",
    "flowtape.orderflow.classify",
    "flowtape.simulation.tape",
)
"""The modules that a user of the library imports from."""


def public(of: pdoc.doc.Module | pdoc.doc.Class) -> Iterator[pdoc.doc.Doc]:
    """Return the public members of a module or class, with those of its classes; not what a class overrides."""
    bases = of.obj.__mro__[1:-1] if isinstance(of, pdoc.doc.Class) else ()
    for member in of.own_members:
        if member.name.startswith("_") or isinstance(member, pdoc.doc.Module):
            continue
        if any(member.name in vars(base) for base in bases):
            continue
        yield member
        if isinstance(member, pdoc.doc.Class):
            yield from public(member)


def undocumented(module: str) -> list[str]:
    """Return the full names of a module's public members that have no docstring."""
    found = pdoc.doc.Module.from_name(module)
    return [member.fullname for member in (found, *public(found)) if not member.docstring.strip()]


def write(folder: Path) -> None:
    """Write one page for each module of `MODULES`, and an index, into a folder."""
    pdoc.render.configure(docformat="google", show_source=False, footer_text="flowtape")
    with warnings.catch_warnings():
        # pdoc cannot resolve types that are imported for type checking alone; it shows their names.
        warnings.filterwarnings("ignore", "Error parsing type annotation")
        pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
