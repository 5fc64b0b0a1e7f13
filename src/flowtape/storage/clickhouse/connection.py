"""Two ways to one engine: ClickHouse over HTTP, and the same engine in this process (chDB).

Both take the same SQL text and carry frames as Arrow streams, so that what is above does not know which it has.
"""

from __future__ import annotations

import io
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import polars as pl

from flowtape.errors import StoreError, UsageError

SCHEMES = ("clickhouse", "clickhouses", "chdb")
_PORTS = {"clickhouse": 8123, "clickhouses": 8443}
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_LONGEST_NAME = 64
_PASSING = re.compile(r"\bCode: (286|289)\b")
"""What a cluster answers while another insert waits for its quorum, or a replica for what others have: nothing was
done, and the same call soon goes through."""
AGAIN_FOR = 30.0
"""Seconds that such a call is tried again for."""
T = TypeVar("T")
_URL = re.compile(r" with url: \S+")


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
            return f"chdb://{self.path}?database={self.database}"
        cluster = f"?cluster={self.cluster}" if self.cluster else ""
        return f"{self.scheme}://{self.user}@{self.host}:{self.port}/{self.database}{cluster}"


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


class Link:
    """A line to the engine, through the official client. Every method raises `StoreError`; any thread may call.

    A server that says nothing for `patience` seconds is given up; the engine in process is waited for.
    """

    def __init__(self, address: Address, patience: int = 300) -> None:
        try:
            import clickhouse_connect
            from clickhouse_connect.driver.exceptions import ClickHouseError
        except ModuleNotFoundError:
            extra = "chdb" if address.scheme == "chdb" else "clickhouse"
            raise UsageError(
                f"store: {address.scheme}:// needs the extra: pip install 'flowtape[{extra}]'"
            ) from None
        self._error = ClickHouseError
        self._address = address
        try:
            self._client = clickhouse_connect.get_client(**_arguments(address, patience))
        except ImportError:
            raise UsageError("store: chdb:// needs the extra: pip install 'flowtape[chdb]'") from None
        except Exception as error:
            raise self._told(error) from None

    def ask(self, sql: str) -> pl.DataFrame:
        """Rows of a query."""
        stream = self._patiently(lambda: self._client.raw_query(sql, fmt="ArrowStream", settings=_OUTPUT))
        return pl.read_ipc_stream(stream) if stream else pl.DataFrame()

    def ask_views(self, sql: str) -> pl.DataFrame:
        """Return the rows of a query whose names are those of the address's database."""
        self._client.database = self._address.database
        return self.ask(sql)

    def has(self, table: str) -> bool:
        """Whether the address's database has a table."""
        there = self.ask(
            "SELECT count() AS n FROM system.tables"
            f" WHERE database = '{self._address.database}' AND name = '{table}'"
        )
        return bool(there.item())

    def expires(self, table: str) -> bool:
        """Whether rows of a table of the address's database are kept for a time only."""
        found = self.ask(
            "SELECT engine_full LIKE '% TTL %' AS ages FROM system.tables"
            f" WHERE database = '{self._address.database}' AND name = '{table}'"
        )
        return bool(found.item())

    def run(self, sql: str) -> None:
        """Carry out a statement without rows."""
        self._patiently(lambda: self._client.command(sql))

    def put(self, table: str, rows: pl.DataFrame, token: str) -> None:
        """Insert rows by the names of their columns; those of a token that came before are left out."""
        settings = {**_INPUT, "insert_deduplication_token": token}
        data = _stream(rows)
        self._patiently(lambda: self._client.raw_insert(table, rows.columns, data, settings, "ArrowStream"))

    def _patiently(self, call: Callable[[], T]) -> T:
        end = time.monotonic() + AGAIN_FOR
        while True:
            try:
                return call()
            except Exception as error:
                if not _PASSING.search(str(error)) or time.monotonic() > end:
                    raise self._told(error) from error
            # At random, so that those that wait for each other do not meet again.
            time.sleep(random.uniform(0.02, 0.2))  # noqa: S311

    def close(self) -> None:
        """Let go."""
        self._client.close()

    def _told(self, error: Exception) -> StoreError:
        if not isinstance(error, self._error | OSError):
            raise error
        text = (str(error).strip() or repr(error)).splitlines()[0]
        # A number of the query's own is in its address: the same failure would be told anew at every try.
        return StoreError(f"{self._address}: {_URL.sub('', text)[:500]}")


def _arguments(address: Address, patience: int) -> dict[str, Any]:
    if address.scheme == "chdb":
        return {"interface": "chdb", "path": address.path}
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
    return {
        "host": address.host,
        "port": address.port,
        "username": address.user,
        "password": address.password,
        "database": "default",
        "secure": address.scheme == "clickhouses",
        "settings": settings,
        # One session would let one query at a time through.
        "autogenerate_session_id": False,
        "connect_timeout": 5,
        "send_receive_timeout": patience,
        "client_name": "flowtape",
    }


_OUTPUT = {
    "max_query_size": 2**24,
    "output_format_arrow_string_as_string": 1,
    "output_format_arrow_low_cardinality_as_dictionary": 0,
}
_INPUT = {"insert_deduplicate": 1, "max_partitions_per_insert_block": 1000}


def _stream(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_ipc_stream(buffer, compat_level=pl.CompatLevel.oldest())
    return buffer.getvalue()
