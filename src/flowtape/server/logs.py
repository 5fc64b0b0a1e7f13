"""The log: one event per line, as text or JSON, without API keys."""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from flowtape.settings import Settings

REDACTED = "(redacted)"
_NAMED_KEY = re.compile(r"(?i)(api[-_]?key[\"']?\s*[=:]\s*[\"']?)[^&\s\"',})]+")
_RAW_KEY = re.compile(r"ft_[A-Za-z0-9_-]{16,}")


def redact(text: str) -> str:
    """Return the text without API keys: flowtape's own, wherever they are, and every value named `apiKey`."""
    return _RAW_KEY.sub(REDACTED, _NAMED_KEY.sub(rf"\g<1>{REDACTED}", text))


def event(log: logging.Logger, level: int, name: str, /, **fields: Any) -> None:
    """Log one event with its fields; for errors, with the exception that is being handled."""
    log.log(level, name, extra={"fields": fields}, exc_info=level >= logging.ERROR)


class Outage:
    """Logs the beginning and the end of an outage, one line each, however many attempts fail in between."""

    def __init__(self, log: logging.Logger, gone: str, back: str, **fields: Any) -> None:
        self._log, self._gone, self._back, self._fields = log, gone, back, fields
        self.away = False

    def note(self, reason: str) -> None:
        """Log the beginning, once."""
        if not self.away:
            self.away = True
            event(self._log, logging.WARNING, self._gone, **self._fields, reason=reason)

    def over(self) -> None:
        """Log the end, once."""
        if self.away:
            self.away = False
            event(self._log, logging.INFO, self._back, **self._fields)


class Formatter(logging.Formatter):
    """Formats time, level, event and fields. `trace` holds a traceback with escaped line ends."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        fields: dict[str, Any] = dict(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[0]:
            fields["trace"] = self.formatException(record.exc_info)
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
        fields = {name: redact(v) if isinstance(v, str) else v for name, v in fields.items()}
        name = redact(record.getMessage())
        if self._as_json:
            line = {"ts": at, "level": record.levelname.lower(), "event": name, **fields}
            return msgspec.json.encode(line, enc_hook=str).decode()
        pairs = "".join(f" {field}={_plain(value)}" for field, value in fields.items())
        return f"{at} {record.levelname} {_plain(name, spaces=True)}{pairs}"


def _plain(value: Any, *, spaces: bool = False) -> str:
    text = str(value)
    bare = text.isprintable() and '"' not in text and (spaces or (" " not in text and text != ""))
    return text if bare else msgspec.json.encode(text).decode()


_TALKATIVE = ("clickhouse_connect", "urllib3.connectionpool")
"""Loggers that warn of every failed attempt, which flowtape logs once itself."""


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Send the log of this process to `stream` (standard error by default), as the settings say."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Formatter(as_json=settings.log_format == "json"))
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
