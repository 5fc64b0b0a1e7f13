"""Daily quotas: the requests that a key has left today, and the headers that say so."""

from __future__ import annotations

from datetime import UTC, datetime

from flowtape.server.auth.keys import Key
from flowtape.server.auth.usage import DAY, Usage
from flowtape.server.errors import quota_exceeded
from flowtape.settings import PLANS, Settings

_SECONDS = 86_400
_LINES = b"x-ratelimit-limit: %d\r\nx-ratelimit-remaining: %d\r\nx-ratelimit-reset: %d\r\n"
_UNLIMITED = b"x-ratelimit-limit: unlimited\r\nx-ratelimit-remaining: unlimited\r\nx-ratelimit-reset: %d\r\n"


class Quotas:
    """The limits of the settings, over the counts of `usage`. `now` is always ns since 1970 UTC."""

    def __init__(self, usage: Usage, settings: Settings) -> None:
        self._usage = usage
        self._limits = {plan: settings.limit(plan) for plan in PLANS}
        self._unlimited: tuple[int, bytes] = (-1, b"")

    def check(self, key: Key, now: int) -> None:
        """Raise a 429 if no request is left today; counts nothing."""
        limit = self._limits[key.plan]
        if limit is not None and self._usage.used(key, now // DAY) >= limit:
            raise self._exceeded(key, limit, now)

    def spend(self, key: Key, now: int) -> None:
        """Count one request; raise a 429 if another request took the last one in the meantime."""
        limit = self._limits[key.plan]
        if limit is None:
            self._usage.count(key, now // DAY)
        elif not self._usage.spend(key, now // DAY, limit):
            raise self._exceeded(key, limit, now)

    def lines(self, key: Key, now: int) -> bytes:
        """Return the header lines with the key's quota."""
        day = now // DAY
        limit = self._limits[key.plan]
        if limit is not None:
            left = max(limit - self._usage.used(key, day), 0)
            return _LINES % (limit, left, _reset(day))
        if self._unlimited[0] != day:
            self._unlimited = day, _UNLIMITED % _reset(day)
        return self._unlimited[1]

    def today(self, key: Key, now: int) -> tuple[int, int]:
        """Return the requests of a key today, and the Unix seconds at which the count restarts."""
        return self._usage.used_by_all(key, now // DAY), _reset(now // DAY)

    def _exceeded(self, key: Key, limit: int, now: int) -> Exception:
        reset = _reset(now // DAY)
        reset_at = datetime.fromtimestamp(reset, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        # Rounded up, so that a client that waits this long is past midnight; 0 breaks the official client.
        wait = max(1, reset - now // 10**9)
        return quota_exceeded(key.plan, limit, reset_at, wait)


def _reset(day: int) -> int:
    """Return the Unix seconds of the midnight that ends a day."""
    return (day + 1) * _SECONDS
