"""The command line: `flowtape COMMAND --help` teaches each command."""

from __future__ import annotations

import sys

import click

from flowtape import __version__
from flowtape.cli.backfill import backfill
from flowtape.cli.cumulative import cumulative
from flowtape.cli.keys import keys
from flowtape.cli.report import report
from flowtape.cli.serve import serve
from flowtape.cli.simulate import simulate
from flowtape.cli.store import ingest, rebuild, store
from flowtape.errors import FlowtapeError, UsageError

EXIT_CODES = """\b
Exit codes:
  0  done
  1  something failed that has no code of its own
  2  an argument or a setting cannot be used
  3  a file cannot be read as a tape (or, with --strict, has a bad row)
  4  rows were refused: their trading day comes from another source
  5  the store cannot be opened, read or written
  6  a live feed failed
  7  another process now writes what this one wrote
  8  every row of a file is bad
  130  interrupted; committed prints are kept, and the command may be repeated
"""


@click.group(
    epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="flowtape")
def commands() -> None:
    """Order flow from an options or stock tape.

    flowtape reads prints with their prevailing quotes, infers the aggressor side of each print, keeps prints and minute
    bars in a store, and serves net volume by minute over HTTP.

    \b
    A first look, with a simulated market and a page in the browser:
      flowtape serve --simulate

    \b
    Your own files:
      flowtape ingest trades.csv --store flow.duckdb
      flowtape serve --store flow.duckdb
    """


for command in (ingest, backfill, serve, cumulative, report, keys, simulate, rebuild, store):
    commands.add_command(command)


def main() -> None:
    """Run the command line; errors end it with their own exit code and one line on standard error."""
    try:
        _check_words(sys.argv[1:])
        commands.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except FlowtapeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


def _check_words(words: list[str]) -> None:
    """Raise `UsageError` for a word that is no UTF-8, such as a file's name in Latin-1.

    Messages, JSON and the store could not name that file.
    """
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(f"argument {word!r}: its bytes are no text in UTF-8; rename the file") from None
