"""The notebooks run from a vendor's file to a plot."""

import json
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from documentation import DOCS, ROOT

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
SAMPLES = ROOT.parent / "shared" / "data"
OF_VENDORS = {"cboe", "databento", "thetadata"}
"""Notebooks that read a vendor's sample; the samples are no part of the repository."""


def cells(notebook, kind):
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def code(notebook):
    return ["".join(cell["source"]) for cell in cells(notebook, "code")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to run in, with matplotlib drawing to memory."""
    plt.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    plt.close("all")


def run(notebook):
    """Run the code of a notebook; return its names."""
    names = {"__name__": "notebook"}
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        for number, source in enumerate(code(notebook)):
            exec(compile(source, f"{notebook.name}, code cell {number}", "exec"), names)
    return names


def test_every_vendor_has_a_notebook():
    assert {notebook.stem for notebook in NOTEBOOKS} == OF_VENDORS | {"massive", "csv"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_output(notebook):
    assert [cell for cell in cells(notebook, "code") if cell["outputs"] or cell["execution_count"]] == []
    ids = [cell["id"] for kind in ("code", "markdown") for cell in cells(notebook, kind)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_from_file_to_plot(notebook, folder):
    if notebook.stem in OF_VENDORS:
        if not SAMPLES.is_dir():
            pytest.skip("the vendors' samples are not here")
        for sample in (SAMPLES / notebook.stem).iterdir():
            Path(sample.name).symlink_to(sample)
    names = run(notebook)
    (axes,) = plt.gcf().axes
    drawn = [list(map(float, line.get_ydata())) for line in axes.lines]
    assert names["line"]["cumulative"].cast(float).to_list() in drawn
    sides = set(names["signed"]["side"])
    assert len(sides - {"mid"}) > 0
