"""A stand-in for Databento's live gateway: the challenge, the subscriptions, then DBN with heartbeats, symbol mappings,
the replay from a start, and published records; with faults on demand.

Published records are kept for replays, and sent to clients that have subscribed and started. As a separate program it
prints its port and reads commands, one JSON array a line: `["publish", "tcbbo", "<hex of a record>", ...]`, `["cut"]`,
….
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import databento_dbn as dbn

from standins.base import StandIn, main


class DatabentoServer(StandIn):
    """The gateway. `symbols` are OSI symbols by instrument id, `records` the published records with their schema, in
    order, and `subscriptions` the fields of all requests.

    Faults: `cut()`, `cut_after(n)`, `say(bytes)` for malformed data, `error(text)`, `silence()` (no data and no
    heartbeats), `hold()` and `release(reverse=...)` (held records are sent together), `repeat` (the number of copies of
    each record), `refuse` (a message instead of authentication), `mute` (no answer to a connection), `hang_up`
    (disconnect before authentication), `unfinished` (a replay is never reported as finished). With `apart`, a replay
    sends one schema after another.
    """

    def __init__(
        self, symbols: Mapping[int, str], key: str = "db-right-key-0123456789abcdefghi", port: int = 0
    ) -> None:  # fmt: skip
        super().__init__(port)
        self.symbols, self.key = dict(symbols), key
        self.records: list[tuple[str, bytes]] = []
        self.subscriptions: list[dict[str, str]] = []
        self.requests: list[dict[str, str]] = []
        self.heartbeat: float | None = None
        self.repeat, self.apart, self.mute, self.hang_up, self.unfinished = 1, False, False, False, False
        self.refuse: str | None = None
        self._silent = False
        self._held: list[tuple[str, bytes]] | None = None
        self.until_cut: int | None = None
        self._sessions: dict[asyncio.StreamWriter, list[dict[str, str]]] = {}
        self._lines: set[asyncio.StreamWriter] = set()

    def publish(self, schema: str, *records: Any) -> None:
        """Publish records (of `databento_dbn`, their bytes, or their bytes as hex) in this order."""
        self.do(lambda: self._publish(schema, map(_bytes, records)))

    def keep(self, schema: str, *records: Any) -> None:
        """Add records to replays only, as if they were sent before or during an outage."""
        self.records += [(schema, _bytes(record)) for record in records]

    def say(self, data: bytes) -> None:
        """Send any bytes to all connections."""
        self.do(lambda: self._say(data))

    def error(self, text: str, code: int | None = None) -> None:
        """Send an error message to all connections."""
        self.say(bytes(dbn.ErrorMsg(_now(), text, True, None if code is None else dbn.ErrorCode(code))))

    def system(self, text: str, code: int) -> None:
        """Send a system message to all connections."""
        self.say(bytes(dbn.SystemMsg(_now(), text, dbn.SystemCode(code))))

    def map(self, number: int, symbol: str) -> None:
        """Map an instrument id to another symbol from now on."""
        self.symbols[number] = symbol
        self.say(_mapping(number, symbol))

    def cut(self) -> None:
        """Break every connection."""
        self.do(self._cut)

    def cut_after(self, records: int) -> None:
        """Break every connection after a number of further records, those of a replay included."""
        self.until_cut = records

    def silence(self) -> None:
        """Stop sending."""
        self._silent = True

    @property
    def lines(self) -> int:
        """Return the number of connections, authenticated or not."""
        return len(self._lines)

    def connected(self) -> bool:
        """Return whether a client has subscribed."""
        return bool(self._sessions)

    def hold(self) -> None:
        """Hold records published from now on."""
        self._held = []

    def release(self, *, reverse: bool = False) -> None:
        """Send the held records."""
        held, self._held = self._held or [], None
        self.do(lambda: self._send_all(reversed(held) if reverse else held))

    def _publish(self, schema: str, records: Iterable[bytes]) -> None:
        new = [(schema, record) for record in records]
        self.records += new
        if self._held is not None:
            self._held += new
        else:
            self._send_all(new)

    def _send_all(self, records: Iterable[tuple[str, bytes]]) -> None:
        records = list(records)
        for line, asked in list(self._sessions.items()):
            wanted = self._wanted(asked)
            theirs = (record for schema, record in records if _number(record) in wanted.get(schema, ()))
            self._send(line, [record for record in theirs for _ in range(self.repeat)])

    def _send(self, line: asyncio.StreamWriter, records: list[bytes]) -> None:
        if self._silent or line.is_closing():
            return
        line.write(b"".join(records[: self.until_cut]))
        if self.until_cut is not None:
            self.until_cut -= len(records)
            if self.until_cut <= 0:
                self.until_cut = None
                # Data written before is still sent.
                line.close()
                self._sessions.pop(line, None)

    def _wanted(self, asked: Iterable[Mapping[str, str]]) -> dict[str, set[int]]:
        """Return the requested instruments of each schema."""
        wanted: dict[str, set[int]] = {}
        for one in asked:
            wanted.setdefault(one["schema"], set()).update(self._ids(one))
        return wanted

    def _ids(self, asked: Mapping[str, str]) -> set[int]:
        names = asked["symbols"].split(",")
        return {
            number
            for number, symbol in self.symbols.items()
            if "ALL_SYMBOLS" in names or symbol in names or f"{symbol[:6].strip()}.OPT" in names
        }

    def _say(self, data: bytes) -> None:
        for line in self._sessions:
            line.write(data)

    def _cut(self) -> None:
        for line in self._lines:
            line.transport.abort()
        self._sessions.clear()

    async def serve(self) -> None:
        """Serve connections until the server stops."""
        server = await asyncio.start_server(self._converse, "127.0.0.1", self.port, limit=2**24)
        self.listening(server.sockets[0].getsockname()[1])
        await self.stopping.wait()
        server.close()
        self._cut()
        while self._lines:
            await asyncio.sleep(0.005)

    async def _converse(self, reader: asyncio.StreamReader, line: asyncio.StreamWriter) -> None:
        self._lines.add(line)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if await self._admit(reader, line):
                    await self._session(reader, line)
        finally:
            self._lines.discard(line)
            self._sessions.pop(line, None)
            line.transport.abort()

    async def _admit(self, reader: asyncio.StreamReader, line: asyncio.StreamWriter) -> bool:
        if self.hang_up:
            return False
        if self.mute:
            await reader.read()
            return False
        challenge = secrets.token_urlsafe(24)
        line.write(f"lsg_version=0.9.0-standin\ncram={challenge}\n".encode())
        asked = _fields(await reader.readline())
        digest = hashlib.sha256(f"{challenge}|{self.key}".encode()).hexdigest()
        right = asked.get("auth") == f"{digest}-{self.key[-5:]}"
        self.requests.append(asked)
        if self.refuse is not None or not right:
            line.write(f"success=0|error={self.refuse or 'Authentication failed.'}\n".encode())
            await line.drain()
            # The client has disconnected.
            await reader.read()
            return False
        line.write(b"success=1|session_id=1\n")
        return True

    async def _session(self, reader: asyncio.StreamReader, line: asyncio.StreamWriter) -> None:
        requested = self.requests[-1]
        asked: list[dict[str, str]] = []
        while text := await reader.readline():
            fields = _fields(text)
            if "start_session" in fields:
                break
            asked.append(fields)
            self.subscriptions.append(fields)
        else:
            return
        line.write(_metadata(requested["dataset"]))
        self._open(line, asked)
        self._replay(line, asked)
        if not line.is_closing():
            self._sessions[line] = asked
        self.started.release()
        beats = asyncio.create_task(self._beat(line, float(requested.get("heartbeat_interval_s", "30"))))
        try:
            await reader.read()
        finally:
            beats.cancel()

    def _open(self, line: asyncio.StreamWriter, asked: list[dict[str, str]]) -> None:
        for one in asked:
            text = f"Subscription request for {one['schema']} succeeded"
            line.write(bytes(dbn.SystemMsg(_now(), text, dbn.SystemCode.SUBSCRIPTION_ACK)))
        for number in sorted(set().union(*map(self._ids, asked))):
            line.write(_mapping(number, self.symbols[number]))

    def _replay(self, line: asyncio.StreamWriter, asked: list[dict[str, str]]) -> None:
        replayed = [one for one in asked if "start" in one]
        for part in [[one] for one in replayed] if self.apart else [replayed]:
            wanted = self._wanted(part)
            # A client requests the same start in all subscriptions of a schema.
            starts = {one["schema"]: int(one["start"]) for one in part}
            chosen = [
                record
                for schema, record in self.records
                if _number(record) in wanted.get(schema, ()) and _ts_event(record) >= starts[schema]
            ]
            self._send(line, chosen)
        for one in () if self.unfinished else replayed:
            text = f"Finished {one['schema']} replay"
            if not line.is_closing():
                line.write(bytes(dbn.SystemMsg(_now(), text, dbn.SystemCode.REPLAY_COMPLETED)))

    async def _beat(self, line: asyncio.StreamWriter, every: float) -> None:
        while True:
            await asyncio.sleep(self.heartbeat or every)
            if not self._silent and not line.is_closing():
                line.write(bytes(dbn.SystemMsg(_now(), "Heartbeat", dbn.SystemCode.HEARTBEAT)))


def _bytes(record: Any) -> bytes:
    return bytes.fromhex(record) if isinstance(record, str) else bytes(record)


def _number(record: bytes) -> int:
    return int.from_bytes(record[4:8], "little")


def _ts_event(record: bytes) -> int:
    return int.from_bytes(record[8:16], "little")


def _fields(line: bytes) -> dict[str, str]:
    return dict(part.partition("=")[::2] for part in line.decode().strip().split("|"))


def _now() -> int:
    return time.time_ns()


def _mapping(number: int, symbol: str) -> bytes:
    return bytes(
        dbn.SymbolMappingMsg(
            0, number, _now(), dbn.SType.PARENT, f"{symbol[:6].strip()}.OPT", dbn.SType.RAW_SYMBOL, symbol,
            dbn.UNDEF_TIMESTAMP, dbn.UNDEF_TIMESTAMP,
        )
    )  # fmt: skip


def _metadata(dataset: str) -> bytes:
    return bytes(
        dbn.Metadata(
            dataset=dataset, start=_now(), stype_in=None, stype_out=dbn.SType.INSTRUMENT_ID, schema=None,
            symbols=[], partial=[], not_found=[], mappings=[], ts_out=False, version=3,
        )
    )  # fmt: skip


if __name__ == "__main__":
    # The first line of standard input has the symbols by id.
    named = {int(number): symbol for number, symbol in json.loads(sys.stdin.readline()).items()}
    main(DatabentoServer(named, *sys.argv[1:2]))
