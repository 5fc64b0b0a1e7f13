"""Settings: one table of name, default, environment variable and help.

A value is taken from the first of: the command line, the environment (`FLOWTAPE_` and the name in upper
case), the file `flowtape.toml`, the default.
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
"""What the setting `keys` is where keys are kept in the store."""
_WORDS_FOR_NONE = ("none", "unlimited")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set. Times are in seconds, limits in requests a day (None: no limit)."""

    store: Annotated[
        str,
        Meta(min_length=1, description="The store: a DuckDB file, or `clickhouse://user@host:8123/flow`."),
    ] = "var/flow.duckdb"
    keys: Annotated[
        str,
        Meta(
            description="The file of API keys and of their daily use; empty: the store's, with `.keys`"
            " (`flowtape.keys` where the store is no file); `store:`: in the store, where many processes share it."
        ),
    ] = ""
    quotas: Annotated[
        str,
        Meta(
            description="Where requests are counted, so that several servers keep one limit: `redis://host:6379/0`"
            " (`rediss://` with TLS), Redis or Valkey; empty: in the file of keys"
            " (`flowtape.counts` where keys are in the store)."
        ),
    ] = ""
    host: Annotated[str, Meta(min_length=1, description="The address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="The port to listen on; 0 takes a free one.")] = (
        8787
    )
    connections_per_address: Annotated[
        Annotated[int, Meta(ge=1, le=65_536)] | None,
        Meta(
            description="Connections, and requests under way, that one address may have (of IPv6 a network of 64 bits);"
            " this machine's own and those of `proxies` are not counted."
        ),
    ] = 256
    streams_per_key: Annotated[
        Annotated[int, Meta(ge=1, le=65_536)] | None,
        Meta(description="Streams that a key may have open at a time."),
    ] = 100
    hosts: Annotated[
        str,
        Meta(
            description="Names by which `/metrics`, `/docs` and `/openapi.json` may be asked, a list with commas,"
            " besides addresses, names without a dot, `localhost` and the settings `host` and `public_url`; `*`: any."
        ),
    ] = ""
    proxies: Annotated[
        str,
        Meta(
            description="Addresses or networks of proxies in front of the server, a list with commas: a request from"
            " one counts for the last address in its `X-Forwarded-For` that is none of them. Nobody else's is read."
        ),
    ] = ""
    public_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s/?#]+(/[^\s?#]*)?)?$",
            description="The address that clients use, such as `https://flow.example.com`, for the OpenAPI document;"
            " empty: the one that the document is asked at.",
        ),
    ] = ""
    envelope: Annotated[
        bool,
        Meta(
            description="End every JSON answer with `data_as_of` and `endpoint_version`, as the SDK 1.3.0 has them."
        ),
    ] = False
    flow_plan: Annotated[Plan, Meta(description="The lowest plan that may ask the flow endpoints.")] = "Alpha"
    limit_free: Annotated[_Requests | None, Meta(description="Requests a day on the Free plan.")] = 5
    limit_basic: Annotated[_Requests | None, Meta(description="Requests a day on the Basic plan.")] = 250
    limit_growth: Annotated[_Requests | None, Meta(description="Requests a day on the Growth plan.")] = 2500
    limit_alpha: Annotated[_Requests | None, Meta(description="Requests a day on the Alpha plan.")] = None
    limit_enterprise: Annotated[
        _Requests | None, Meta(description="Requests a day on the Enterprise plan.")
    ] = None
    silence_limit: Annotated[
        _Seconds,
        Meta(description="Seconds a live feed may deliver nothing, its market open, before answers are 502."),
    ] = 30.0
    max_quote_age: Annotated[
        _Seconds | None, Meta(description="Seconds after which a standing quote no longer tells a side.")
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
        Literal["text", "json"], Meta(description="How an event is logged, one a line.")
    ] = "text"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least level that is logged.")
    ] = "info"
    access_log: Annotated[bool, Meta(description="Log a line for every request, its key redacted.")] = False

    @property
    def keys_path(self) -> Path | None:
        """The file of keys; None where they are kept in the store."""
        if self.keys == KEYS_IN_STORE:
            return None
        return Path(self.keys or ("flowtape.keys" if "://" in self.store else f"{self.store}.keys"))

    @property
    def counts_path(self) -> Path:
        """The file of requests, where they are counted in one."""
        return self.keys_path or Path("flowtape.counts")

    @property
    def quote_age(self) -> timedelta | None:
        """`max_quote_age` as the engine takes it."""
        return None if self.max_quote_age is None else timedelta(seconds=self.max_quote_age)

    def limit(self, plan: Plan) -> int | None:
        """Requests a day on a plan; None where there is no limit."""
        return {
            "Free": self.limit_free,
            "Basic": self.limit_basic,
            "Growth": self.limit_growth,
            "Alpha": self.limit_alpha,
            "Enterprise": self.limit_enterprise,
        }[plan]


class Row(msgspec.Struct, frozen=True):
    """One line of the table of settings."""

    name: str
    variable: str
    type: Any
    default: Any
    help: str

    @property
    def word_for_none(self) -> str:
        """What stands for no value, in the environment and the file."""
        return "unlimited" if self.name.startswith("limit_") else "none"


def table() -> tuple[Row, ...]:
    """Every setting, in the order of the documentation."""
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
    """Read the settings: `overrides` (those not None) before the environment before the file.

    `file` is `flowtape.toml` of the current folder if there is one, unless given here or in FLOWTAPE_CONFIG.
    Variables of the environment that name no setting are left alone: other programs may own them.
    Raises `UsageError` naming the setting, the value and where it came from.
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
        # Words are taken in any case, as the command line takes `--plan alpha`.
        value = next(
            (word for word in choices if isinstance(word, str) and word.lower() == text.lower()), text
        )
    try:
        return msgspec.convert(value, row.type, strict=False)
    except msgspec.ValidationError as error:
        reason = str(error)
        raise UsageError(f"setting {row.name} ({origin}) cannot be {value!r}: {reason.lower()}") from None


def _parts(hint: Any) -> tuple[Any, ...]:
    """The words and types a hint is made of."""
    if get_origin(hint) is Annotated:
        return _parts(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return tuple(part for inner in get_args(hint) for part in _parts(inner))
    return get_args(hint) if get_origin(hint) is Literal else (hint,)


def markdown() -> str:
    """The page `docs/reference/settings.md`, made of the table."""
    lines = [
        "# Settings",
        "",
        "A value is taken from the first of: the command line, the environment, the file",
        f"`flowtape.toml` of the current folder (another file is named by `{FILE_VARIABLE}`), the default.",
        "A name that the file has and this table has not is an error; a variable of the environment that",
        "names no setting is left alone.",
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
        "`unlimited` (for a limit) and `none` (for an age) take a bound away. A file, for example:",
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
