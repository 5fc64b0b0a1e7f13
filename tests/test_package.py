"""The package as pip installs it: the wheel carries the page, and the build says what it does without Node.js."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import httpx
import pytest

from test_commands import served

ROOT = Path(__file__).resolve().parents[1]
PAGE = "src/flowtape/server/web"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what a build reads; with the built page, where there is one."""
    folder = tmp_path_factory.mktemp("checkout") / "flowtape"
    folder.mkdir()
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy2(ROOT / name, folder)
    left_out = shutil.ignore_patterns("node_modules", "__pycache__", "*.png")
    for name in ("src", "web", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    return folder


def built(folder, *words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check", *words, str(folder)],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(checkout):
    if not (checkout / PAGE / "index.html").is_file():
        pytest.skip("needs the built page: make page")
    for one in (checkout / PAGE).rglob("*"):
        one.touch()
    done = built(checkout)
    assert done.returncode == 0, done.stderr
    return next((checkout / "dist").glob("*.whl"))


def test_source_and_wheel_carry_the_page_and_the_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("flowtape/server/web/index.html", "flowtape/model/nyse.csv", "flowtape/py.typed"):
        assert needed in names
    assert any(re.fullmatch(r"flowtape/server/web/assets/.*\.js", name) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests", "web", "docs")) for name in names)
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as source:
        kept = {name.partition("/")[2] for name in source.getnames()}
    assert {f"{PAGE}/index.html", "hatch_build.py", "web/package-lock.json"} <= kept
    assert not any("node_modules" in name for name in kept)


def test_a_server_of_the_wheel_answers_with_the_page(wheel, tmp_path):
    target = tmp_path / "installed"
    words = ["install", "-q", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    simulated = ("--simulate", "--underlyings", 3, "--prints-per-day", 2000, "--stock-prints-per-day", 500)
    with served(*simulated, "--store", "x.duckdb", cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(target)}) as (
        _, url, _,
    ):  # fmt: skip
        page = httpx.get(url)
        assert page.status_code == 200
        assets = re.findall(r"/assets/[\w.-]+", page.text)
        assert len(assets) >= 2
        for asset in assets:
            assert httpx.get(url + asset).status_code == 200
    assert (target / "flowtape/server/web/index.html").is_file()


def test_a_build_that_cannot_make_the_page_says_why(checkout, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(checkout, bare, ignore=shutil.ignore_patterns("dist", "assets", "web"))
    shutil.copytree(checkout / "web", bare / "web")
    tools = tmp_path / "tools"
    tools.mkdir()
    failed = built(bare, "--wheel", PATH=str(tools))
    assert failed.returncode != 0
    assert "there is no Node.js 20.19 or newer on the PATH" in failed.stdout + failed.stderr
    assert "FLOWTAPE_SKIP_PAGE=1" in failed.stdout + failed.stderr
    left_out = built(bare, "--wheel", PATH=str(tools), FLOWTAPE_SKIP_PAGE="1")
    assert left_out.returncode == 0, left_out.stderr
    names = zipfile.ZipFile(next((bare / "dist").glob("*.whl"))).namelist()
    assert not any("server/web" in name for name in names)
