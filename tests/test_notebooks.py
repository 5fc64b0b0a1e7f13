"""The notebooks run from a vendor's file to a plot."""

import json
import warnings
from pathlib import Path

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


def run(notebook):
    """Run the code of a notebook; return its names and the value of its last expression."""
    *cells, last = code(notebook)
    names = {"__name__": "notebook"}
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        for number, source in enumerate(cells):
            exec(compile(source, f"{notebook.name}, code cell {number}", "exec"), names)
        return names, eval(last, names)


def test_every_vendor_has_a_notebook():
    assert {notebook.stem for notebook in NOTEBOOKS} == OF_VENDORS | {"massive", "csv"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_output(notebook):
    assert [cell for cell in cells(notebook, "code") if cell["outputs"] or cell["execution_count"]] == []
    ids = [cell["id"] for kind in ("code", "markdown") for cell in cells(notebook, kind)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_from_file_to_plot(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if notebook.stem in OF_VENDORS:
        if not SAMPLES.is_dir():
            pytest.skip("the vendors' samples are not here")
        for sample in (SAMPLES / notebook.stem).iterdir():
            Path(sample.name).symlink_to(sample)
    names, picture = run(notebook)
    drawn = [list(map(float, line.get_ydata())) for axes in picture.axes for line in axes.lines]
    line = names["line"]["cumulative"].cast(float).to_list()
    assert any(set(line) <= set(values) for values in drawn)
    assert set(names["signed"]["side"]) - {"mid"}
