"""Counts of requests that several servers share, in Redis or Valkey.

Who asks is never kept waiting for it: an address that does not answer within `PATIENCE` is away, and is asked again
aside, by `probe`, until it is back.
"""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

from flowtape.errors import UsageError
from flowtape.server.logs import Outage

PATIENCE = 0.5
"""Seconds."""
KEPT = 2 * 86_400
"""Seconds that a day's count is kept after it was last added to."""
_SCHEMES = ("redis", "rediss")
_log = logging.getLogger(__name__)


class SharedCounts:
    """Requests by key and UTC day at an address `redis://user:password@host:port/number`.

    Raises `UsageError`, which names the address without its password, where it cannot be understood. Any thread may
    call.
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
                # A request that is sent again would count again.
                retry=Retry(NoBackoff(), 0),  # type: ignore[arg-type]
            )
        except ValueError:
            raise UsageError(f"quotas: {shown!r} cannot be understood") from None
        self._outage = Outage(
            _log,
            "shared counts are away, each server counts alone",
            "shared counts are back",
            address=shown,
        )

    @property
    def away(self) -> bool:
        """Whether they did not answer when last asked."""
        return self._outage.away

    def add(self, key: str, day: int, many: int = 1) -> int | None:
        """Count requests of a key; gives how many there are on that day with them. None while away: whether they were
        counted is then not known at the first failure, and they were not at all later ones."""
        if self.away:
            return None
        try:
            return self._storage.incr(_name(key, day), KEPT, many)
        except self._error as error:
            self._gone(error)
            return None

    def get(self, key: str, day: int) -> int | None:
        """Requests of a key on a day; None while away."""
        if self.away:
            return None
        try:
            return self._storage.get(_name(key, day))
        except self._error as error:
            self._gone(error)
            return None

    def probe(self) -> None:
        """Look whether what was away is back."""
        if self.away and self._storage.check():
            self._outage.over()

    def close(self) -> None:
        """Let go."""
        self._storage.storage.connection_pool.disconnect()

    def _gone(self, error: Exception) -> None:
        self._outage.note(str(error.__cause__ or error))


def _name(key: str, day: int) -> str:
    return f"flowtape/{key}/{day}"
