"""Two ways to one engine: ClickHouse over HTTP, and the same engine in this process (chDB).

Both take the same SQL text and carry frames as Arrow streams, so that what is above does not know which it has.
"""

from __future__ import annotations

import io
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import polars as pl

from flowtape.errors import StoreError, UsageError

SCHEMES = ("clickhouse", "clickhouses", "chdb")
_PORTS = {"clickhouse": 8123, "clickhouses": 8443}
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Address:
    """Where a ClickHouse store is: `clickhouse://user:password@host:8123/flow?cluster=name`, or
    `chdb:///path/of/a/folder?database=flow`. The password is in no text of it."""

    scheme: str
    host: str = ""
    port: int = 0
    user: str = "default"
    password: str = field(default="", repr=False)
    path: str = ""
    database: str = "flow"
    cluster: str = ""

    def __str__(self) -> str:
        if self.scheme == "chdb":
            return f"chdb://{self.path}"
        return f"{self.scheme}://{self.user}@{self.host}:{self.port}/{self.database}"


def parse(name: str) -> Address:
    """An address from its text. Raises `UsageError`, which names what is wrong but no password."""
    parts = urlsplit(name)
    if parts.scheme not in SCHEMES:
        raise UsageError(f"store: {parts.scheme!r} is none of {', '.join(SCHEMES)}")
    asked = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
    unknown = asked.keys() - ({"database"} if parts.scheme == "chdb" else {"cluster"})
    if unknown:
        raise UsageError(f"store: {min(unknown)!r} is no option of a {parts.scheme} store")
    if parts.scheme == "chdb":
        if parts.netloc or len(parts.path) < 2:
            raise UsageError("store: a chdb store is named by an absolute path, such as chdb:///srv/flow")
        return Address(
            "chdb", path=unquote(parts.path), database=_name("database", asked.get("database", "flow"))
        )
    try:
        port = parts.port or _PORTS[parts.scheme]
    except ValueError:
        raise UsageError("store: the port is no number from 1 to 65535") from None
    if not parts.hostname:
        raise UsageError(f"store: {parts.scheme}:// needs a host, such as {parts.scheme}://user@host/flow")
    return Address(
        parts.scheme,
        parts.hostname,
        port,
        unquote(parts.username or "default"),
        unquote(parts.password or ""),
        database=_name("database", parts.path.strip("/") or "flow"),
        cluster=_name("cluster", asked["cluster"]) if "cluster" in asked else "",
    )


def _name(what: str, text: str) -> str:
    if not text or len(text) > _LONGEST_NAME or not _NAME.issuperset(text):
        raise UsageError(f"store: {what} {text[:_LONGEST_NAME]!r} may hold letters, digits and _ only")
    return text


class Link(Protocol):
    """A line to the engine. Every method raises `StoreError`; any thread may call."""

    def ask(self, sql: str) -> pl.DataFrame:
        """Rows of a query."""

    def run(self, sql: str) -> None:
        """A statement without rows."""

    def put(self, table: str, rows: pl.DataFrame, token: str) -> None:
        """Insert rows, by the names of their columns. Rows of a token that came before are left out."""

    def close(self) -> None:
        """Let go."""


def connect(address: Address) -> Link:
    """Open a line. Raises `StoreError`; `UsageError` where the client is not installed."""
    return ChdbLink(address) if address.scheme == "chdb" else HttpLink(address)


class HttpLink:
    """ClickHouse over HTTP, by the official client."""

    def __init__(self, address: Address) -> None:
        try:
            import clickhouse_connect
            from clickhouse_connect.driver.exceptions import ClickHouseError
        except ModuleNotFoundError:
            raise UsageError(
                "store: clickhouse:// needs the extra: pip install 'flowtape[clickhouse]'"
            ) from None
        self._error = ClickHouseError
        self._address = address
        settings: dict[str, Any] = {}
        if address.cluster:
            # Each write is on a majority of replicas when it returns, and each read sees such writes.
            settings = {
                "insert_quorum": "auto",
                "insert_quorum_parallel": 0,
                "select_sequential_consistency": 1,
                "distributed_foreground_insert": 1,
                "prefer_localhost_replica": 0,
            }
        try:
            self._client = clickhouse_connect.get_client(
                host=address.host,
                port=address.port,
                username=address.user,
                password=address.password,
                database="default",
                secure=address.scheme == "clickhouses",
                settings=settings,
                # One session would let one query at a time through.
                autogenerate_session_id=False,
                connect_timeout=5,
                client_name="flowtape",
            )
        except Exception as error:
            raise self._told(error) from None

    def ask(self, sql: str) -> pl.DataFrame:
        """See `Link.ask`."""
        try:
            return _frame(self._client.raw_query(sql, fmt="ArrowStream", settings=_OUTPUT))
        except Exception as error:
            raise self._told(error) from error

    def run(self, sql: str) -> None:
        """See `Link.run`."""
        try:
            self._client.command(sql)
        except Exception as error:
            raise self._told(error) from error

    def put(self, table: str, rows: pl.DataFrame, token: str) -> None:
        """See `Link.put`."""
        try:
            self._client.raw_insert(
                table,
                rows.columns,
                _stream(rows),
                {**_INPUT, "insert_deduplication_token": token},
                "ArrowStream",
            )
        except Exception as error:
            raise self._told(error) from error

    def close(self) -> None:
        """See `Link.close`."""
        self._client.close()

    def _told(self, error: Exception) -> StoreError:
        if not isinstance(error, self._error | OSError):
            raise error
        return StoreError(f"{self._address}: {_first_line(error)}")


class ChdbLink:
    """The engine in this process; it keeps one folder at a time, whichever databases are in it."""

    _lock = threading.RLock()
    _open: tuple[str, Any, int] | None = None

    def __init__(self, address: Address) -> None:
        try:
            import chdb
        except ModuleNotFoundError:
            raise UsageError("store: chdb:// needs the extra: pip install 'flowtape[chdb]'") from None
        self._address = address
        path = str(Path(address.path).absolute())
        with ChdbLink._lock:
            known = ChdbLink._open
            if known is not None and known[0] != path:
                raise StoreError(f"{address}: this process has the chDB store {known[0]} open; one at a time")
            try:
                made = chdb.connect(path) if known is None else known[1]  # type: ignore[no-untyped-call]
            except Exception as error:
                raise StoreError(f"{address}: {_first_line(error)}") from None
            ChdbLink._open = (path, made, 1 if known is None else known[2] + 1)
        self._connection: Any = made

    def ask(self, sql: str) -> pl.DataFrame:
        """See `Link.ask`."""
        return _frame(self._query(sql + _settings(_OUTPUT), "ArrowStream"))

    def run(self, sql: str) -> None:
        """See `Link.run`."""
        self._query(sql, "Null")

    def put(self, table: str, rows: pl.DataFrame, token: str) -> None:
        """See `Link.put`."""
        columns = ", ".join(f"`{name}`" for name in rows.columns)
        settings = _settings({**_INPUT, "insert_deduplication_token": token})
        with ChdbLink._lock:
            try:
                with self._held().send_insert(
                    f"INSERT INTO {table} ({columns}){settings}", "ArrowStream"
                ) as line:
                    line.append(_stream(rows))
                    line.finish()
            except Exception as error:
                raise StoreError(f"{self._address}: {_first_line(error)}") from error

    def close(self) -> None:
        """See `Link.close`."""
        with ChdbLink._lock:
            if self._connection is None or ChdbLink._open is None:
                return
            path, made, users = ChdbLink._open
            self._connection = None
            ChdbLink._open = (path, made, users - 1) if users > 1 else None
            if users == 1:
                with suppress(Exception):
                    made.close()

    def _held(self) -> Any:
        if self._connection is None:
            raise StoreError(f"{self._address}: the store is closed")
        return self._connection

    def _query(self, sql: str, fmt: str) -> bytes:
        with ChdbLink._lock:
            try:
                return bytes(self._held().query(sql, fmt).bytes())
            except StoreError:
                raise
            except Exception as error:
                raise StoreError(f"{self._address}: {_first_line(error)}") from error


_OUTPUT = {"output_format_arrow_string_as_string": 1, "output_format_arrow_low_cardinality_as_dictionary": 0}
_INPUT = {"insert_deduplicate": 1, "max_partitions_per_insert_block": 1000}


def _settings(values: dict[str, Any]) -> str:
    told = (
        f"{name} = '{value}'" if isinstance(value, str) else f"{name} = {value}"
        for name, value in values.items()
    )
    return " SETTINGS " + ", ".join(told)


def _stream(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_ipc_stream(buffer, compat_level=pl.CompatLevel.oldest())
    return buffer.getvalue()


def _frame(stream: bytes) -> pl.DataFrame:
    return pl.read_ipc_stream(stream) if stream else pl.DataFrame()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0][:500]
