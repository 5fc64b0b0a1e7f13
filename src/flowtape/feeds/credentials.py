"""Credentials of vendors, from the environment or a file. No message contains them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from flowtape.errors import FeedError, UsageError
from flowtape.files import read_text


def key_of(variable: str, kind: str) -> str:
    """Return the key in the environment's `variable`, or in the file that `variable` + `_FILE` names.

    Raises:
        UsageError: there is no key for this `--feed` kind, or it is malformed. The message does not contain it.
    """
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
    # A client that fails on a malformed key repeats it in its error.
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(f"{where}: a key has no blanks and no characters beyond ASCII")
    return key


def need_client(kind: str, module: str) -> None:
    """Import a vendor's client. Raises `UsageError` if it is not installed."""
    try:
        with warnings.catch_warnings():
            # Alpaca's client uses a deprecated part of the websockets library.
            warnings.simplefilter("ignore", DeprecationWarning)
            import_module(module)
    except ImportError:
        raise UsageError(
            f"--feed {kind}: needs the vendor's client: pip install 'flowtape[{kind}]'"
        ) from None


class Account:
    """An account at a vendor: its keys, and errors whose messages do not contain them.

    Attributes: `title` is the vendor's name; `keys` are the values of the environment variables, in their order.
    """

    def __init__(self, title: str, kind: str, variables: Sequence[str]) -> None:
        """Read the keys for a `--feed` kind. Raises `UsageError` if one is missing or malformed."""
        self.title, self._variables = title, variables
        self.keys = tuple(key_of(name, kind) for name in variables)

    def clean(self, text: object) -> str:
        """Return the text with `***` in place of each key."""
        cleaned = str(text)
        for key in sorted(self.keys, key=len, reverse=True):
            cleaned = cleaned.replace(key, "***")
        return cleaned

    def refused(self, words: object) -> UsageError:
        """Return the error for credentials that the vendor refuses, with the vendor's message."""
        return UsageError(f"{', '.join(self._variables)}: refused by {self.title}: {self.clean(words)}")

    def failed(self, words: object) -> FeedError:
        """Return the error for a failed connection, which may be retried."""
        return FeedError(f"{self.title}: {self.clean(words)}")
