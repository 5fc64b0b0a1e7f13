"""The admin socket of a server, for commands on the same machine: a Unix socket beside the store.

DuckDB lets one process open a file. A command that needs a store that a server holds connects to the server and has
it do the work. The protocol is one JSON request per line, then any number of `Step`s, then one `Done` or `Failed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

import msgspec
import polars as pl

from flowtape import errors, queries
from flowtape.errors import FlowtapeError, StoreError
from flowtape.model.query import EVERYTHING, Filter, Query
from flowtape.model.symbols import meant
from flowtape.pipeline.ingest import Outcome, Request, Step, ingest
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.provenance import SIMULATED
from flowtape.queries import Made
from flowtape.queries.flow_data import FlowData
from flowtape.report import read_day
from flowtape.server.flow import Flow
from flowtape.server.formats import writer
from flowtape.server.routes import CUMULATIVE
from flowtape.storage import Store, shared

LONGEST_PATH = 100
"""Bytes of the longest path of a Unix socket."""
LONGEST_LINE = 2**24
ALIVE_EVERY = 2.0
"""Seconds between two `Alive` messages while a command runs."""
_LAST_MINUTE = 2**31 - 1
PATIENCE = 30.0
"""Seconds without a message after which the client gives up."""


class Ingest(msgspec.Struct, tag="ingest"):
    """Ingest files."""

    request: Request


class Rebuild(msgspec.Struct, tag="rebuild"):
    """Rebuild the sides and minute bars of a day; without a day, of all outdated days."""

    day: date | None = None


class Cumulative(msgspec.Struct, tag="cumulative"):
    """The points of a cumulative answer as of an instant (ns)."""

    asset: Literal["option", "stock"]
    symbol: str
    minutes: int
    expiry: date | None
    at: int


class Report(msgspec.Struct, tag="report"):
    """The content of the report on a symbol's day; the body is a `report.Day`."""

    asset: Literal["option", "stock"]
    symbol: str
    day: date


class Progress(msgspec.Struct, tag="progress"):
    """The progress of an ingest."""

    step: Step


class Alive(msgspec.Struct, tag="alive"):
    """The server is carrying out the command."""


class Done(msgspec.Struct, tag="done"):
    """The command succeeded. The fields that belong to the request are set. `table` is an Arrow stream of an
    answer's rows."""

    outcomes: list[Outcome] = []
    bars: dict[date, int] = {}
    body: str = ""
    symbol: str = ""
    table: bytes = b""
    simulated: bool = False
    newest: int | None = None
    """Of an answer without a row: when the symbol's newest print is, ns since 1970; None where it has no print."""


class Failed(msgspec.Struct, tag="failed"):
    """The command failed: the name and the text of the error."""

    kind: str
    text: str


Command = Ingest | Rebuild | Cumulative | Report
Reply = Alive | Progress | Done | Failed
_command = msgspec.json.Decoder(Command)
_log = logging.getLogger(__name__)
_reply = msgspec.json.Decoder(Reply)


def address(store: Path) -> Path:
    """Return the path of a store's admin socket: beside the store, or in a private folder if that path is too long."""
    beside = store.resolve().with_name(f".{store.name}.sock")
    if len(os.fsencode(beside)) <= LONGEST_PATH:
        return beside
    return _own_folder() / f"{hashlib.sha256(os.fsencode(beside)).hexdigest()[:32]}.sock"


def _own_folder() -> Path:
    """Return a folder in the temporary directory that no other user can write to.

    Raises `StoreError` if another user may have made it, since that user could then answer in the server's place.
    """
    folder = Path(tempfile.gettempdir()) / f"flowtape-{os.getuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        raise StoreError(f"{folder}: cannot be made: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise StoreError(
            f"{folder}: must be a folder of your own with mode 0700, and no link: remove it, set TMPDIR, or keep the"
            " store under a shorter path"
        )
    return folder


def ask(name: str, command: Command, progress: Callable[[Step], None] = lambda step: None) -> Done | None:
    """Have the server of a store carry out a command; return None if no server holds the store.

    Raises the server's error, or `StoreError` if the server ends before it answers, sends nothing for `PATIENCE`
    seconds, or belongs to another user.
    """
    if shared(name):
        return None
    store = Path(name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(PATIENCE)
        try:
            line.connect(os.fspath(address(store)))
        except TimeoutError:
            raise _silent(store) from None
        except OSError:
            return None
        _check_owner(line, store)
        try:
            line.sendall(msgspec.json.encode(command) + b"\n")
            with line.makefile("rb") as replies:
                while text := replies.readline(LONGEST_LINE):
                    reply: Reply = _reply.decode(text)
                    if isinstance(reply, Progress):
                        progress(reply.step)
                    elif isinstance(reply, Failed):
                        raise _error(reply)
                    elif isinstance(reply, Done):
                        return reply
        except TimeoutError:
            raise _silent(store) from None
        except msgspec.DecodeError:
            raise StoreError(f"{store.name}: what listens beside this store is no flowtape server") from None
        except ConnectionError:
            pass
    raise StoreError(
        f"{store.name}: the server that holds this store went away; what it had committed is kept"
    )


def _silent(store: Path) -> StoreError:
    return StoreError(f"{store.name}: the server that holds this store has not answered for {PATIENCE:.0f} s")


def _check_owner(line: socket.socket, store: Path) -> None:
    """Raise `StoreError` unless the listening process belongs to this user or to the owner of the store's file."""
    if not hasattr(socket, "SO_PEERCRED"):
        return
    _, uid, _ = struct.unpack(
        "3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    owners = {os.getuid()}
    with contextlib.suppress(OSError):
        owners.add(store.stat().st_uid)
    if uid not in owners:
        raise StoreError(
            f"{store.name}: the process that answers for this store is another user's (id {uid})"
        )


def _error(reply: Failed) -> FlowtapeError:
    kind = getattr(errors, reply.kind, FlowtapeError)
    error = FlowtapeError.__new__(kind)
    Exception.__init__(error, reply.text)
    return error  # type: ignore[no-any-return]


class AdminSocket:
    """The server's side of the admin socket."""

    def __init__(self, store: Path, ingestor: Ingestor, flow: Flow) -> None:
        self._path = address(store)
        self._ingestor = ingestor
        self._flow = flow
        self._server: asyncio.Server | None = None
        self._stops: set[threading.Event] = set()
        self._working: set[asyncio.Task[None]] = set()
        self._greeted: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. A socket left by a killed server is replaced, since only the process that holds the store can be
        its server."""
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=LONGEST_LINE)
        finally:
            os.umask(before)

    async def stop(self) -> None:
        """Stop listening. A running ingest ends after its current batch."""
        if self._server is not None:
            self._server.close()
        for stop in self._stops:
            stop.set()
        # A client that has sent no command is disconnected.
        for task in self._greeted:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("connections are served by tasks")
        self._working.add(task)
        self._greeted.add(task)
        try:
            async with asyncio.timeout(PATIENCE):
                text = await reader.readline()
            self._greeted.discard(task)
            await self._answer(_command.decode(text), reader, writer)
        except (msgspec.DecodeError, ValueError, ConnectionError, TimeoutError):
            pass
        finally:
            self._greeted.discard(task)
            self._working.discard(task)
            writer.close()

    async def _answer(
        self, command: Command, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        stop = threading.Event()
        self._stops.add(stop)

        def send(reply: Reply) -> None:
            if not writer.is_closing():
                writer.write(msgspec.json.encode(reply) + b"\n")

        def tell(step: Step) -> None:
            loop.call_soon_threadsafe(send, Progress(step))

        async def watch() -> None:
            await reader.read()
            stop.set()

        async def live() -> None:
            while True:
                send(Alive())
                await asyncio.sleep(ALIVE_EVERY)

        gone, living = asyncio.create_task(watch()), asyncio.create_task(live())
        try:
            send(await asyncio.to_thread(self._carry_out, command, tell, stop))
        except FlowtapeError as error:
            send(Failed(type(error).__name__, str(error)))
        except Exception:
            _log.exception("admin command failed")
            send(Failed("FlowtapeError", "the server failed to do it; its log says why"))
        finally:
            gone.cancel()
            living.cancel()
            self._stops.discard(stop)
            with contextlib.suppress(ConnectionError):
                await writer.drain()

    def _meant(self, command: Report | Cumulative) -> str:
        return meant(command.symbol, self._ingestor.store.catalog.symbols(command.asset))

    def _carry_out(self, command: Command, tell: Callable[[Step], None], stop: threading.Event) -> Done:
        if isinstance(command, Ingest):
            return Done(outcomes=ingest(self._ingestor, command.request, tell, stop))
        if isinstance(command, Rebuild):
            if command.day is None:
                return Done(bars=self._ingestor.rebuild_outdated())
            return Done(bars={command.day: self._ingestor.rebuild(command.day)})
        if isinstance(command, Report):
            with self._ingestor.store.snapshot():
                symbol = self._meant(command)
                found = read_day(
                    self._ingestor.store, symbol, command.asset, command.day, self._ingestor.max_quote_age
                )
            return Done(body=msgspec.json.encode(found).decode())
        symbol = self._meant(command)
        made = self._flow.made(CUMULATIVE[command.asset], query_of(command, symbol))
        simulated = self._ingestor.simulated(command.asset, symbol)
        return points_of(command, symbol, made, self._ingestor.store, simulated)


def cumulative(store: Store, command: Cumulative, quote_age: timedelta | None) -> Done:
    """Return the points of a cumulative answer from a store that no server holds."""
    with store.snapshot():
        symbol = meant(command.symbol, store.catalog.symbols(command.asset))
        made = queries.cumulative(FlowData(store, None, command.at, quote_age), query_of(command, symbol))
        sources = store.sources().filter(pl.col("asset") == command.asset, pl.col("symbol") == symbol)
        return points_of(command, symbol, made, store, SIMULATED in sources["source"])


def points_of(command: Cumulative, symbol: str, made: Made, store: Store, simulated: bool) -> Done:
    """Return the points of a cumulative body."""
    number = store.catalog.symbol_id(command.asset, symbol)
    newest = None
    if number is not None and not getattr(made.body, "points", None):
        newest = store.extent(number, _LAST_MINUTE)[1]
    return Done(symbol=symbol, table=writer("arrow")(made.body), simulated=simulated, newest=newest)


def query_of(command: Cumulative, symbol: str) -> Query:
    """Return the query of a command for a symbol."""
    day = command.expiry
    return Query(
        asset=command.asset,
        symbol=symbol,
        filter=EVERYTHING if day is None else Filter(expiries=((day, day),)),
        echo=() if day is None else (("expiry", day.isoformat()),),
        minutes=command.minutes,
        at=command.at,
    )
