"""Counts of requests that several servers share, in Redis or Valkey.

Requests never wait long for them: an address that does not answer within `PATIENCE` counts as unreachable, and
`probe` asks again in the background.
"""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

from flowtape.errors import UsageError
from flowtape.server.logs import Outage

PATIENCE = 0.5
"""Seconds."""
KEPT = 2 * 86_400
"""Seconds that a day's count is kept after its last change."""
_SCHEMES = ("redis", "rediss")
_log = logging.getLogger(__name__)


class SharedCounts:
    """Requests by key and UTC day at an address `redis://user:password@host:port/number`.

    May be called from any thread. Raises `UsageError`, with the address but not its password, if the address is
    invalid.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        try:
            shown = f"{parts.scheme}://{parts.hostname or ''}:{parts.port or 6379}"
        except ValueError:
            raise UsageError(f"quotas: {parts.scheme}://{parts.hostname}: the port is no number") from None
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise UsageError(f"quotas: {shown!r} is no address such as redis://host:6379/0")
        try:
            from limits.errors import StorageError
            from limits.storage import RedisStorage
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ModuleNotFoundError:
            raise UsageError("quotas: redis:// needs the extra: pip install 'flowtape[redis]'") from None
        self._error = StorageError
        try:
            self._storage = RedisStorage(
                address,
                wrap_exceptions=True,
                socket_connect_timeout=PATIENCE,
                socket_timeout=PATIENCE,
                # A retry would count a request twice.
                retry=Retry(NoBackoff(), 0),  # type: ignore[arg-type]
            )
        except ValueError:
            raise UsageError(f"quotas: {shown!r} cannot be understood") from None
        self._outage = Outage(
            _log,
            "shared counts cannot be reached, each server counts alone",
            "shared counts are reached again",
            address=shown,
        )

    @property
    def away(self) -> bool:
        """Whether the address was unreachable at the last attempt."""
        return self._outage.away

    def add(self, key: str, day: int, many: int = 1) -> int | None:
        """Count requests of a key; return the key's count of that day, with them. None while the address is
        unreachable.

        At the first failure the requests may have been counted; at later ones they were not.
        """
        if self.away:
            return None
        try:
            return self._storage.incr(_name(key, day), KEPT, many)
        except self._error as error:
            self._gone(error)
            return None

    def get(self, key: str, day: int) -> int | None:
        """Return the requests of a key on a day; None while the address is unreachable."""
        if self.away:
            return None
        try:
            return self._storage.get(_name(key, day))
        except self._error as error:
            self._gone(error)
            return None

    def probe(self) -> None:
        """Check whether an unreachable address is back."""
        if self.away and self._storage.check():
            self._outage.over()

    def close(self) -> None:
        """Close the connections."""
        self._storage.storage.connection_pool.disconnect()

    def _gone(self, error: Exception) -> None:
        self._outage.note(str(error.__cause__ or error))


def _name(key: str, day: int) -> str:
    return f"flowtape/{key}/{day}"
