"""Keys of vendors: from the environment or a file, and in no text."""

from __future__ import annotations

import os
from pathlib import Path

from flowtape.errors import UsageError
from flowtape.files import read_text


def key_of(variable: str, kind: str) -> str:
    """The key in the environment's `variable`, or in the file that `variable` with `_FILE` after it names, for a
    `--feed` of a kind. Raises `UsageError`, without the key, where there is none or it can be none."""
    name = os.environ.get(f"{variable}_FILE")
    where = f"{variable}_FILE: {name}" if name else variable
    try:
        key = (read_text(Path(name)) if name else os.environ.get(variable, "")).strip()
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{where}: not a text") from None
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    if not key:
        raise UsageError(f"--feed {kind}: set {variable} or {variable}_FILE in the environment")
    # A client that fails at such a key puts it in the error.
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(f"{where}: a key has no blanks and no characters beyond ASCII")
    return key
