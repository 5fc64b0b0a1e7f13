"""Parse `--feed` texts: `kind:rest?name=value&name=value`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from flowtape.errors import UsageError

_SECRET = ("key", "secret", "token", "password", "apikey", "api_key")


@dataclass(frozen=True)
class Spec:
    """A parsed `--feed` text: `replay:tape.csv?speed=60` has the kind `replay`, the target `tape.csv` and one
    option."""

    text: str
    kind: str
    target: str
    options: Mapping[str, str]

    def refuse_others(self, *known: str) -> None:
        """Raise `UsageError` for an option that the feed does not have."""
        for name in self.options:
            if name not in known:
                raise UsageError(
                    f"--feed {self.text}: {name} is not one of {', '.join(sorted(known)) or '(no options)'}"
                )

    def names(self, option: str) -> tuple[str, ...]:
        """Return the parts of a comma-separated option, in upper case; empty if it is not given."""
        parts = (part.strip().upper() for part in self.options.get(option, "").split(","))
        return tuple(part for part in parts if part)

    def number(self, option: str, default: float, low: float, high: float) -> float:
        """Return a numeric option within bounds. Raises `UsageError`."""
        text = self.options.get(option)
        try:
            value = default if text is None else float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise UsageError(
                f"--feed {self.text}: {option} is {text!r}, not a number from {low:g} to {high:g}"
            )
        return value


def parse_spec(text: str) -> Spec:
    """Return a parsed `--feed` text. Raises `UsageError`; a credential in the text is refused and not repeated."""
    kind, colon, rest = text.partition(":")
    target, _, query = rest.partition("?")
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name.lower() in _SECRET:
            raise UsageError(
                f"--feed {kind}: {name} does not belong on the command line: set it in the environment"
            )
        if name in options:
            raise UsageError(f"--feed {text}: {name} is given twice")
        options[name] = value
    if not colon or not kind:
        raise UsageError(f"--feed {text}: is not KIND:TARGET, as in simulate: or replay:FILE")
    return Spec(text, kind, target, options)
