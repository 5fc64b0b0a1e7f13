"""Reports and the terminal's chart, as a user runs them."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html import escape
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from flowtape.cli import commands
from flowtape.errors import FlowtapeError
from serving import kept
from test_commands import AT, DAY, flowtape, served

MATPLOTLIB = pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("report")
    flowtape(
        "simulate",
        "d.parquet",
        "--asset",
        "both",
        "--day",
        DAY,
        "--prints",
        20_000,
        "--underlyings",
        3,
        cwd=made,
    )
    assert flowtape("ingest", "d.parquet", "--store", "x.duckdb", cwd=made).returncode == 0
    return made


class Said(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def report(folder, monkeypatch):
    """Return a function that runs the command in this process, which saves seconds of start-up."""
    monkeypatch.chdir(folder)

    def run(out, *more):
        words = ["report", "SPY", "--day", str(DAY), "-o", out, "--store", "x.duckdb", *more]
        found = CliRunner().invoke(commands, words, standalone_mode=False)
        error = found.exception
        assert error is None or isinstance(error, FlowtapeError), error
        return Said(0 if error is None else error.exit_code, found.stdout, str(error))

    return run


def test_a_report_has_the_server_s_figures(report, folder, tmp_path):
    said = report("day.html")
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(f"day.html: SPY options on {DAY} (simulated), ")
    text = (folder / "day.html").read_text("utf-8")
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!#)', text)
    assert "The tape is simulated" in text
    with kept(tmp_path, int(1e9)) as world:
        world.take_file(folder / "d.parquet", "table")
        end = {"at": "2026-05-13T04:00:00Z"}
        summary, sessions = world.ask(
            ("/v1/flow/options/SPY/summary", end), ("/v1/flow/options/SPY/sessions", end | {"days": 1})
        )
    cells = re.findall(r"<td>(.*?)</td>", text)
    found = json.loads(summary.content)
    assert cells[1] == f"{found['totalTrades']:,}"
    assert cells[cells.index("Net volume") + 1] == f"{found['netVolume']:+,}"
    for part in json.loads(sessions.content)["sessions"][0]["parts"]:
        assert cells[cells.index(part["part"]) + 2] == f"{part['netVolume']:+,}"
        assert cells[cells.index(part["part"]) + 4] == f"{part['meanCumulative']:+,.2f}"


@pytest.mark.parametrize("name", ["day.png", "day.svg", "day.html"])
def test_a_report_is_reproducible_byte_for_byte(report, folder, name):
    assert report(name).returncode == 0
    first = (folder / name).read_bytes()
    assert report(name).returncode == 0
    assert (folder / name).read_bytes() == first
    if name.endswith("png"):
        assert first.startswith(b"\x89PNG")
    if name.endswith("svg"):
        assert ET.fromstring(first).tag.endswith("svg")


def test_a_report_asks_the_server_that_holds_the_store(report, folder):
    assert report("alone.html").returncode == 0
    with served("--store", "x.duckdb", cwd=folder):
        said = report("beside.html")
        unknown = report("beside.html", "--day", "2026-05-13")
    assert said.returncode == 0, said.stderr
    assert (folder / "beside.html").read_bytes() == (folder / "alone.html").read_bytes()
    assert unknown.returncode == 2
    assert "2026-05-13 is not kept" in unknown.stderr


def test_stocks_have_reports_too(report, folder):
    said = report("stock.html", "--asset", "stock")
    assert said.returncode == 0, said.stderr
    assert "shares" in (folder / "stock.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--day", "2026-05-13"), "of SPY (option) 2026-05-13 is not kept; newest are 2026-05-12"),
        (("-o", "day.gif"), "'day.gif' ends in none of .png, .svg, .html"),
        (("-o", "nowhere/day.png"), "cannot be written"),
        (("--store", "none.duckdb"), "there is no file none.duckdb"),
    ],
)
def test_invalid_reports_are_refused(report, folder, words, why):
    said = report("x.png", *words)
    assert said.returncode == 2
    assert why in said.stderr
    assert not (folder / "none.duckdb").exists()


def test_a_missing_matplotlib_is_named(folder):
    hide = "import sys; sys.modules['matplotlib'] = None; from flowtape.cli import main; main()"
    words = ["report", "SPY", "--day", str(DAY), "-o", "x.png", "--store", "x.duckdb"]
    said = subprocess.run(
        [sys.executable, "-c", hide, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert said.returncode == 2
    assert "pip install 'flowtape[plot]'" in said.stderr


def test_the_terminal_shows_the_line(folder):
    words = ("cumulative", "SPY", "--at", AT, "--minutes", 390, "--store", "x.duckdb")
    points = json.loads(flowtape(*words, "--as", "json", cwd=folder).stdout)["points"]
    drawn = flowtape(*words, "--plot", cwd=folder)
    assert drawn.returncode == 0, drawn.stderr
    assert "\x1b" not in drawn.stdout
    assert "(simulated)" in drawn.stdout
    line = [point["cumulative"] for point in points]
    assert f"last {line[-1]:+,} at " in drawn.stdout
    assert f"high {max(line):+,} at " in drawn.stdout
    assert f"low {min(line):+,} at " in drawn.stdout
    early = "2026-05-12T04:00:00Z"
    nothing = flowtape("cumulative", "SPY", "--at", early, "--store", "x.duckdb", "--plot", cwd=folder)
    assert nothing.stdout == "SPY: 240 minutes (simulated): no minute with a print\n"
    both = flowtape(*words, "--plot", "--as", "csv", cwd=folder)
    assert both.returncode == 2
    assert "leave out --as" in both.stderr


@pytest.mark.parametrize("symbol", ["$$", "$A_B$", "&AMP"])
def test_a_report_shows_the_symbol_unchanged(symbol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        "ts,symbol,price,size",
        *(f"2026-05-12T14:{minute}:00Z,{symbol},1.0,3" for minute in range(10, 40)),
    ]
    (tmp_path / "x.csv").write_text("\n".join([*lines, ""]))
    assert flowtape("ingest", "x.csv", "--store", "x.duckdb", cwd=tmp_path).returncode == 0
    for out in ("x.svg", "x.html", "x.png"):
        words = ["report", symbol, "--asset", "stock", "--day", str(DAY), "-o", out, "--store", "x.duckdb"]
        assert CliRunner().invoke(commands, words, standalone_mode=False).exception is None
    texts = "".join(ET.parse(tmp_path / "x.svg").getroot().itertext())
    assert f"{symbol} stocks, {DAY}" in texts
    assert f"<title>{escape(symbol)} stocks" in (tmp_path / "x.html").read_text("utf-8")
