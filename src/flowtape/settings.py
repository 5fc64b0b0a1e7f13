"""Settings: one table of name, default, environment variable and help.

The command line has priority, then the environment (`FLOWTAPE_` and the name in upper case), then the file
`flowtape.toml`, then the default.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from flowtape.errors import UsageError
from flowtape.files import read_text

FILE = "flowtape.toml"
PREFIX = "FLOWTAPE_"
FILE_VARIABLE = "FLOWTAPE_CONFIG"

Plan = Literal["Free", "Basic", "Growth", "Alpha", "Enterprise"]
PLANS: tuple[Plan, ...] = get_args(Plan)
"""The plans, lowest first."""

_Requests = Annotated[int, Meta(ge=1, le=2**53)]
_Seconds = Annotated[float, Meta(gt=0, le=86_400)]
_Days = Annotated[int, Meta(ge=1, le=36_500)]
KEYS_IN_STORE = "store:"
DEFAULT_STORE = "var/flow.duckdb"
"""The value of the setting `keys` that keeps keys in the store."""
_WORDS_FOR_NONE = ("none", "unlimited")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set. Times are in seconds, limits in requests a day (None: no limit)."""

    store: Annotated[
        str,
        Meta(min_length=1, description="The store: a DuckDB file, or `clickhouse://user@host:8123/flow`."),
    ] = DEFAULT_STORE
    keys: Annotated[
        str,
        Meta(
            description="The file of API keys and their daily use. Empty: the name of the store with `.keys` appended"
            " (`flowtape.keys` for a ClickHouse store). `store:`: in the store, which many processes share."
        ),
    ] = ""
    quotas: Annotated[
        str,
        Meta(
            description="The Redis or Valkey server that counts requests, so that several servers share one limit:"
            " `redis://host:6379/0` (`rediss://` with TLS). Empty: the file of keys"
            " (`flowtape.counts` where keys are in the store)."
        ),
    ] = ""
    host: Annotated[str, Meta(min_length=1, description="The address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="The port to listen on; 0 for any free port.")] = (
        8787
    )
    connections_per_address: Annotated[
        Annotated[int, Meta(ge=1, le=65_536)] | None,
        Meta(
            description="The largest number of connections, and of requests in progress, of one address (for IPv6, of a"
            " /64 network). Addresses of this machine and of `proxies` are not limited."
        ),
    ] = 256
    streams_per_key: Annotated[
        Annotated[int, Meta(ge=1, le=65_536)] | None,
        Meta(description="The largest number of open streams of a key."),
    ] = 100
    hosts: Annotated[
        str,
        Meta(
            description="Host names that may request `/metrics`, `/docs` and `/openapi.json`, separated by commas. IP"
            " addresses, names without a dot, `localhost`, `host` and `public_url` always may. `*`: any name."
        ),
    ] = ""
    proxies: Annotated[
        str,
        Meta(
            description="Addresses or networks of proxies in front of the server, separated by commas. A request from a"
            " proxy counts for the last address in its `X-Forwarded-For` that is not a proxy. The header of other"
            " clients is ignored."
        ),
    ] = ""
    public_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s/?#]+(/[^\s?#]*)?)?$",
            description="The address that clients use, such as `https://flow.example.com`, for the OpenAPI document."
            " Empty: the address of the request for the document.",
        ),
    ] = ""
    envelope: Annotated[
        bool,
        Meta(
            description="Add `data_as_of` and `endpoint_version` to every JSON answer, as the SDK 1.3.0 has them."
        ),
    ] = False
    flow_plan: Annotated[Plan, Meta(description="The lowest plan with access to the flow endpoints.")] = (
        "Alpha"
    )
    limit_free: Annotated[_Requests | None, Meta(description="Requests a day on the Free plan.")] = 5
    limit_basic: Annotated[_Requests | None, Meta(description="Requests a day on the Basic plan.")] = 250
    limit_growth: Annotated[_Requests | None, Meta(description="Requests a day on the Growth plan.")] = 2500
    limit_alpha: Annotated[_Requests | None, Meta(description="Requests a day on the Alpha plan.")] = None
    limit_enterprise: Annotated[
        _Requests | None, Meta(description="Requests a day on the Enterprise plan.")
    ] = None
    silence_limit: Annotated[
        _Seconds,
        Meta(
            description="Seconds without data from a live feed, in an open market, after which answers are 502."
        ),
    ] = 30.0
    max_quote_age: Annotated[
        _Seconds | None,
        Meta(
            description="The oldest prevailing quote, in seconds before its print, that can classify the print."
        ),
    ] = None
    keep_prints_days: Annotated[
        _Days | None,
        Meta(description="Days that a ClickHouse store keeps prints (`flowtape store migrate`)."),
    ] = None
    keep_minutes_days: Annotated[
        _Days | None,
        Meta(description="Days that a ClickHouse store keeps minutes (`flowtape store migrate`)."),
    ] = None
    log_format: Annotated[
        Literal["text", "json"], Meta(description="The format of the log, one event a line.")
    ] = "text"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The lowest level that is logged.")
    ] = "info"
    access_log: Annotated[bool, Meta(description="Log a line for every request, with its key redacted.")] = (
        False
    )

    @property
    def keys_path(self) -> Path | None:
        """The file of keys; None where keys are in the store."""
        if self.keys == KEYS_IN_STORE:
            return None
        return Path(self.keys or ("flowtape.keys" if "://" in self.store else f"{self.store}.keys"))

    @property
    def counts_path(self) -> Path:
        """The file that counts requests, where a file does."""
        return self.keys_path or Path("flowtape.counts")

    @property
    def quote_age(self) -> timedelta | None:
        """`max_quote_age` as a timedelta, which trade classification takes."""
        return None if self.max_quote_age is None else timedelta(seconds=self.max_quote_age)

    def limit(self, plan: Plan) -> int | None:
        """Return the requests a day of a plan; None for no limit."""
        return {
            "Free": self.limit_free,
            "Basic": self.limit_basic,
            "Growth": self.limit_growth,
            "Alpha": self.limit_alpha,
            "Enterprise": self.limit_enterprise,
        }[plan]


class Row(msgspec.Struct, frozen=True):
    """One row of the table of settings."""

    name: str
    variable: str
    type: Any
    default: Any
    help: str

    @property
    def word_for_none(self) -> str:
        """The word for None in the environment and the file."""
        return "unlimited" if self.name.startswith("limit_") else "none"


def table() -> tuple[Row, ...]:
    """Return every setting, in the order of the documentation."""
    hints = get_type_hints(Settings, include_extras=True)
    fields = msgspec.structs.fields(Settings)
    return tuple(
        Row(
            name=field.name,
            variable=PREFIX + field.name.upper(),
            type=hints[field.name],
            default=field.default,
            help=next(meta.description or "" for meta in hints[field.name].__metadata__[::-1]),
        )
        for field in fields
    )


def load(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Return the settings.

    Args:
        file: the settings file. By default it is the file named in FLOWTAPE_CONFIG, or else `flowtape.toml` of the
            current folder if there is one.
        environ: the environment. Variables that name no setting are ignored, as other programs may use them.
        overrides: values of the command line; None is no value. They have priority over the environment, which has
            priority over the file.

    Raises:
        UsageError: a value is invalid. The message names the setting, the value and its origin.
    """
    environ = os.environ if environ is None else environ
    rows = {row.name: row for row in table()}
    values = _from_file(file, environ, rows)
    for row in rows.values():
        if row.variable in environ:
            values[row.name] = _convert(row, environ[row.variable], row.variable)
    for name, value in (overrides or {}).items():
        if name not in rows:
            raise UsageError(f"there is no setting {name!r}")
        if value is not None:
            values[name] = _convert(rows[name], value, "command line")
    return Settings(**values)


def _from_file(file: Path | None, environ: Mapping[str, str], rows: Mapping[str, Row]) -> dict[str, Any]:
    named = file or (Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else None)
    path = named or Path(FILE)
    if named is None and not path.exists():
        return {}
    try:
        found = tomllib.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"the settings file {path} cannot be read: {error}") from None
    for name in found:
        if name not in rows:
            raise UsageError(f"{path}: there is no setting {name!r}")
    return {name: _convert(rows[name], value, str(path)) for name, value in found.items()}


def _convert(row: Row, value: Any, origin: str) -> Any:
    if isinstance(value, str):
        text = value.strip()
        choices = _parts(row.type)
        if type(None) in choices and text.lower() in _WORDS_FOR_NONE:
            return None
        # The case of words is ignored, as in `--plan alpha` on the command line.
        value = next(
            (word for word in choices if isinstance(word, str) and word.lower() == text.lower()), text
        )
    try:
        return msgspec.convert(value, row.type, strict=False)
    except msgspec.ValidationError as error:
        reason = str(error)
        raise UsageError(f"setting {row.name} ({origin}) cannot be {value!r}: {reason.lower()}") from None


def _parts(hint: Any) -> tuple[Any, ...]:
    """Return the words and types that a type hint consists of."""
    if get_origin(hint) is Annotated:
        return _parts(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return tuple(part for inner in get_args(hint) for part in _parts(inner))
    return get_args(hint) if get_origin(hint) is Literal else (hint,)


def markdown() -> str:
    """Return the page `docs/reference/settings.md`, generated from the table."""
    lines = [
        "# Settings",
        "",
        "The command line has priority, then the environment, then the file `flowtape.toml` of the current",
        f"folder (or the file named in `{FILE_VARIABLE}`), then the default. A name in the file that is not in",
        "this table is an error. An environment variable that names no setting is ignored.",
        "",
        "| setting | default | environment | meaning |",
        "|---|---|---|---|",
    ]
    for row in table():
        default = row.word_for_none if row.default is None else row.default
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        cell = f"`{shown}`" if shown else "empty"
        lines.append(f"| `{row.name}` | {cell} | `{row.variable}` | {row.help}{_choices(row)} |")
    lines += [
        "",
        "`unlimited` removes a limit, and `none` removes an age. An example of a file:",
        "",
        "```toml",
        'store = "/srv/flow/flow.duckdb"',
        "port = 9000",
        "limit_alpha = 10000",
        "```",
        "",
    ]
    return "\n".join(lines)


def _choices(row: Row) -> str:
    words = [f"`{word}`" for word in _parts(row.type) if isinstance(word, str)]
    return f" One of {', '.join(words)}." if words else ""


def need_folder(path: Path) -> None:
    """Make the folder of a file where it is that of the default store. Raise `UsageError` where another is missing.

    The name of a folder that does not exist may be a mistake: a store made there is not found again.
    """
    folder = path.parent
    if folder == Path(DEFAULT_STORE).parent:
        folder.mkdir(exist_ok=True)
    elif not folder.absolute().is_dir():
        raise UsageError(f"{path.name}: there is no folder {str(folder)!r}; make it, or give another path")
