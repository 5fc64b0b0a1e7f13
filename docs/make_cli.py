"""Writes `docs/reference/cli.md`: the help of every command, as `--help` prints it.

Run as `python docs/make_cli.py`; the tests fail while the page is stale.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from flowtape.cli import commands

PAGE = Path(__file__).parent / "reference" / "cli.md"
WIDTH = 100
HEAD = """# The command line

Each command's `--help`, as printed. What can be set for all of them: [settings](settings.md). Commands print what was
asked for on standard output and everything else on standard error, so that output can be piped. A command given a
store that a server holds is carried out by that server: see [store](store.md#a-server-and-commands-on-one-store).
"""


def tree(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[click.Context]:
    """A command and all below it."""
    how = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, parent, info_name=name, **how)
    yield context
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            yield from tree(below, word, context)


def page() -> str:
    """The page as it should be."""
    helps = (
        f"## {context.command_path}\n\n```text\n{context.get_help()}\n```\n"
        for context in tree(commands, "flowtape")
    )
    return "\n".join([HEAD, *helps])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
