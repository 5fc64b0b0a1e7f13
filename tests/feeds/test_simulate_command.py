from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from flowtape.cli import commands


@pytest.mark.parametrize(
    ("words", "assets"),
    [([], ["option"]), (["--asset", "stock"], ["stock"]), (["--asset", "both"], ["option", "stock"])],
)
def test_the_command_writes_the_requested_asset(tmp_path: Path, words: list[str], assets: list[str]) -> None:
    path = tmp_path / "tape.parquet"
    done = CliRunner().invoke(
        commands, ["simulate", str(path), "--prints", "500", "--day", "2026-06-03", *words]
    )
    assert (done.exit_code, "500 simulated prints" in done.output) == (0, True)
    counts = pl.read_parquet(path)["asset"].value_counts().sort("asset")
    assert counts.rows() == [(asset, 500 // len(assets)) for asset in assets]
