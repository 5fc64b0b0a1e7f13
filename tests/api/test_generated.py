"""Clients generated from the OpenAPI document, for Python, Go and TypeScript: compiled and run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from oracle import MINUTE
from serving import kept, serving
from tapes import T0

from .test_sdk import tape

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "tests/clients"
PLACES = os.pathsep.join(
    (str(Path(sys.executable).parent), str(ROOT / "web/node_modules/.bin"), os.environ["PATH"])
)
MADE = {
    "python": {"generatorName": "python", "additionalProperties": {"packageName": "flowclient"}},
    "go": {"generatorName": "go", "additionalProperties": {"packageName": "flowclient", "withGoMod": False}},
    "typescript": {
        "generatorName": "typescript-fetch",
        "additionalProperties": {"importFileExtension": ".js"},
    },
}
OMITTED = dict.fromkeys(("apiTests", "modelTests", "apiDocs", "modelDocs"), "false")


def tool(name: str) -> str:
    """Return the path of a program; skip the test without it."""
    found = shutil.which(name, path=PLACES)
    if found is None:
        pytest.skip(f"no {name} on this machine: `make clients` (and Java, Node) bring it")
    return found


def run(*command: str, folder: Path, **variables: str) -> str:
    made = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env=os.environ | {"PATH": PLACES} | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert made.returncode == 0, made.stdout[-4000:] + made.stderr[-4000:]
    return made.stdout


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with kept(tmp_path_factory.mktemp("generated"), T0 + 20 * MINUTE) as made:
        made.take(tape())
        with serving(made.app) as url:
            made.url = url
            yield made


@pytest.fixture(scope="module")
def generated(server, tmp_path_factory):
    """Return a folder with a client in each language."""
    generator, _ = tool("openapi-generator-cli"), tool("java")
    folder = tmp_path_factory.mktemp("clients")
    document = folder / "openapi.json"
    document.write_bytes(httpx.get(server.url + "/openapi.json").content)
    for name, configuration in MADE.items():
        places = {"inputSpec": str(document), "outputDir": str(folder / name / "client")}
        whole = configuration | places | {"globalProperties": OMITTED}
        (folder / f"{name}.json").write_text(json.dumps(whole))
    run(generator, "batch", "--fail-fast", *(f"{name}.json" for name in MADE), folder=folder)
    return folder


@pytest.fixture(scope="module")
def expected(server):
    def ask(path, **asked):
        return httpx.get(server.url + path, params=asked, headers={"X-Api-Key": server.keys["alpha"]}).json()

    at = "2026-03-06T21:18:00Z"
    flow = "/v1/flow/options"
    return {
        "cumulative": ask(f"{flow}/SPY/cumulative", minutes=30, at=at)["points"][-1]["cumulative"],
        "instrument": ask(f"{flow}/SPY/recent", limit=1, at=at)["trades"][0]["instrumentId"],
        "buyer": ask(f"{flow}/leaderboard", right="C", at=at)["buyers"][0]["symbol"],
        "nobody": 0,
        "email": None,
        "symbols": ["AAPL", "SPY"],
        "refused": 400,
    }


def test_a_python_client_compiles_and_runs(server, generated, expected):
    folder = generated / "python"
    said = run(
        sys.executable, "-W", "error", str(PROGRAMS / "use.py"), folder=folder,
        PYTHONPATH=str(folder / "client"), KEY=server.keys["alpha"],
    )  # fmt: skip
    assert json.loads(said) == expected


def test_a_go_client_compiles_and_runs(server, generated, expected):
    go, folder = tool("go"), generated / "go"
    (folder / "go.mod").write_text(
        "module use\n\ngo 1.23\n\nrequire flowclient v0.0.0\n\nreplace flowclient => ./client\n"
    )
    (folder / "client/go.mod").write_text("module flowclient\n\ngo 1.23\n")
    shutil.copy(PROGRAMS / "use.go", folder / "main.go")
    # No downloads and no C compiler; the compiled Go library is cached for the next run.
    settings = {"GOPROXY": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
    run(go, "build", "-o", "use", ".", folder=folder, **settings)
    assert json.loads(run(str(folder / "use"), folder=folder, KEY=server.keys["alpha"])) == expected


def test_a_typescript_client_compiles_and_runs(server, generated, expected):
    tsc, node, folder = tool("tsc"), tool("node"), generated / "typescript"
    shutil.copy(PROGRAMS / "use.ts", folder / "use.ts")
    (folder / "package.json").write_text('{"type": "module"}')
    options = ("--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom", "--types", "")
    run(tsc, *options, "--outDir", "out", "use.ts", folder=folder)
    assert json.loads(run(node, "out/use.js", folder=folder, KEY=server.keys["alpha"])) == expected
