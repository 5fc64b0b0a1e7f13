"""The documentation: its examples run, and nothing that has a name lacks its page.

`python` and `console` blocks of a file are run in their order, in one folder, with one namespace and one shell.
Lines of a `console` block that start with `$ ` are commands, lines that start with `>` continue them, and the rest is
their output. Numbers and the width of space may differ (the simulated tape follows NumPy's random numbers, which may
change with its version), and `…` stands for anything. Blocks with `make` are not run.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from fnmatch import fnmatchcase
from itertools import takewhile

import click
import pytest

import flowtape
from documentation import DOCS, PAGES, ROOT, name_of, text_of
from flowtape import errors, settings
from flowtape.orderflow.classify import RULES
from flowtape.readers import FORMATS
from flowtape.server.routes import ROUTES

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
PORT = "127.0.0.1:8787"
END = "that was the end of a command:"
SERVE = re.compile(r"flowtape serve [^&]*&")


def blocks(page):
    """(language, code, line number) of each block that is to be run."""
    text = text_of(page)
    for found in BLOCK.finditer(text):
        language, code = found.groups()
        if language == "python" or (language == "console" and "$ make" not in code):
            yield language, code, text[: found.start(2)].count("\n") + 1


RUN = [page for page in PAGES if any(blocks(page))]


def script(name):
    """A script of docs/, as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Shell:
    """One bash for the console blocks of a page; `flowtape` and `python` in it are those that are tested."""

    def __init__(self, folder, bin_folder):
        bin_folder.mkdir()
        for name, words in (("flowtape", "-m flowtape"), ("python", "")):
            (bin_folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
            (bin_folder / name).chmod(0o755)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("FLOWTAPE_")}
        environ |= {"PATH": f"{bin_folder}:{environ['PATH']}", "FLOWTAPE_PORT": str(self.port)}
        self.output = bin_folder / "served"
        self.bash = subprocess.Popen(
            [shutil.which("bash"), "--norc"], cwd=folder, env=environ, text=True, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, command):
        """What a command prints, and its exit code."""
        command = command.replace(PORT, f"127.0.0.1:{self.port}")
        if SERVE.fullmatch(command):
            command = self._until_it_serves(command)
        self.bash.stdin.write(f"{command}\necho; echo '{END}' $?\n")
        self.bash.stdin.flush()
        said = ""
        for line in self.bash.stdout:
            if line.startswith(END):
                return said, int(line.removeprefix(END))
            said += line
        raise AssertionError(f"the shell ended at {command!r}: {said}")

    def _until_it_serves(self, command):
        return (
            f"{command.removesuffix('&')} >{self.output} 2>/dev/null &\n"
            f"SECONDS=0; until grep -qs ^curl {self.output} || ! kill -0 $! || ((SECONDS > 60)); do sleep 0.02; done\n"
            f"cat {self.output}"
        )

    def close(self):
        """End the shell and the servers it left."""
        self.bash.communicate("kill $(jobs -p) 2>/dev/null\nwait\nexit\n", timeout=30)


def commands_of(code):
    """(command, what it is said to print) of a console block."""
    parts = re.split(r"^\$ ", code, flags=re.M)
    assert not parts[0].strip(), f"a console block starts with a command, not with {parts[0]!r}"
    for part in parts[1:]:
        first, *rest = part.split("\n")
        more = list(takewhile(lambda line: line.startswith(">"), rest))
        command = "\n".join([first, *(line[1:].removeprefix(" ") for line in more)])
        yield command, "\n".join(rest[len(more) :])


def alike(said, shown):
    """Whether two outputs are the same but for numbers and space."""
    said, shown = (re.sub(r"-?\d[\d,.]*", "N", " ".join(text.split())) for text in (said, shown))
    return fnmatchcase(said, re.sub(r"([\[*?])", r"[\1]", shown).replace("…", "*"))


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_examples_run(page, tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    namespace = {"__name__": "example"}
    with contextlib.closing(Shell(folder, tmp_path / "bin")) as shell:
        for language, code, line in blocks(page):
            if language == "python":
                exec(compile("\n" * line + code, str(page), "exec"), namespace)
                continue
            for command, shown in commands_of(code):
                said, status = shell.run(command)
                assert status == 0, f"{page.name}, {command}: {said}"
                assert alike(said, shown), f"{page.name}, {command}:\n{said}\nis not\n{shown}"


def test_output_is_compared_but_for_numbers():
    assert alike("day: 1,200 new\nk_1f: -3.5", "day: 7 new k_…: 2")
    assert alike('{"points":[1]}', '{"points":[2]}')
    assert not alike("day: 1,200 new", "day: 1,200 known")
    assert not alike("day: 3 new\nerror", "day: 3 new")


def test_the_index_names_every_page():
    linked = set(re.findall(r"\]\(([\w/-]+\.md)\)", text_of(DOCS / "README.md")))
    assert linked == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} - {"README.md"}
    notebooks = set(re.findall(r"\]\(([\w/-]+\.ipynb)\)", text_of(DOCS / "README.md")))
    assert notebooks == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.ipynb")}


def test_no_page_is_of_one_machine():
    for page in PAGES:
        assert not re.search(r"/(work|root|home|Users)/", text_of(page)), page.name


def test_pages_use_the_words_of_the_field():
    others = re.compile(
        r"standing quote|\bboards?\b|\bplanted\b|\btidy\b|side door|made good|as it was then", re.I
    )
    pages = [page for page in PAGES if page.name not in {"CHANGELOG.md", "RESULTS.md", "cli.md"}]
    assert [(page.name, found) for page in pages for found in others.findall(text_of(page))] == []


def rows(page, title=""):
    """The names in code that begin the rows of a page's tables, from a heading on."""
    text = text_of(page)
    section = text[text.index(title) :] if title else text
    return set(re.findall(r"^\| `([^`]+)`", section, re.M))


def test_the_command_line_page_is_fresh():
    made = script("make_cli")
    assert text_of(DOCS / "reference/cli.md") == made.page(), "run: python docs/make_cli.py"
    from flowtape.cli import commands

    told = set(re.findall(r"^## (flowtape.*)$", text_of(DOCS / "reference/cli.md"), re.M))
    assert told == {context.command_path for context in made.tree(commands, "flowtape")}
    assert all(f"flowtape {name}" in told for name in commands.list_commands(click.Context(commands)))


def test_what_has_a_name_has_its_page():
    assert {row.name for row in settings.table()} <= rows(DOCS / "reference/settings.md")
    assert set(FORMATS) <= rows(DOCS / "reference/formats.md")
    assert set(RULES) <= rows(DOCS / "concepts/trade-classification.md", "## The rules")
    api = text_of(DOCS / "reference/api.md")
    assert [route.path for route in ROUTES if f"`GET {route.path}`" not in api] == []
    library = text_of(DOCS / "reference/library.md")
    assert [name for name in flowtape.__all__ if f"`{name}`" not in library.replace("flowtape.", "")] == []


def test_the_reference_is_written_for_every_public_name(tmp_path):
    made = script("make_reference")
    assert [name for module in made.MODULES for name in made.undocumented(module)] == []
    made.write(tmp_path)
    pages = {page.relative_to(tmp_path).with_suffix("").as_posix() for page in tmp_path.rglob("*.html")}
    assert pages == {"index", *(module.replace(".", "/") for module in made.MODULES)}
    first = text_of(tmp_path / "flowtape.html")
    assert [name for name in flowtape.__all__ if f'id="{name}"' not in first] == []


def test_every_dependency_says_what_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for group in project["project"]["optional-dependencies"].values():
        wanted += group
    names = {re.match(r"[\w.-]+", requirement).group() for requirement in wanted} - {"flowtape"}
    assert rows(DOCS / "reference/dependencies.md") == names


def test_every_room_is_in_the_design():
    package = ROOT / "src/flowtape"
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    design = text_of(DOCS / "design.md")
    told = set(
        re.findall(
            r"`([a-z_]+(?:\.py|/))`", design[design.index("## Folders") : design.index("## Decisions")]
        )
    )
    assert modules | folders <= told
    assert {name for name in told - modules - folders if not list(package.glob(f"*/{name}"))} == set()


def test_the_tree_of_errors_is_whole():
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes == {"FlowtapeError", *re.findall(r"── (\w+)", errors.__doc__)}


def test_every_error_has_its_row_and_exit_code():
    told = dict(re.findall(r"^\| `(\w+)` \| `\w+` \| (\d) \|", text_of(DOCS / "reference/errors.md"), re.M))
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert told == {error.__name__: str(error.exit_code) for error in classes}


def test_the_changelog_agrees_with_the_version():
    newest = re.search(r"^## \[(\d[^\]]*)\] - \d{4}-\d{2}-\d{2}$", text_of(ROOT / "CHANGELOG.md"), re.M)
    assert newest.group(1) == flowtape.__version__


def test_the_picture_is_drawn_and_labelled(tmp_path):
    made = script("make_picture")
    drawn = made.draw(made.points_of(made.MARKET, made.DAY))
    for picture in (drawn, text_of(DOCS / "picture.svg")):
        assert ET.fromstring(picture).tag.endswith("svg")
        assert "a simulated market" in picture
