"""Daily quotas: what a key may still ask today, and the headers that say so."""

from __future__ import annotations

from datetime import UTC, datetime

from flowtape.server.auth.keys import Key
from flowtape.server.auth.usage import DAY, Usage
from flowtape.server.errors import Headers, quota_exceeded
from flowtape.settings import PLANS, Settings

_SECONDS = 86_400
_UNLIMITED = [(b"x-ratelimit-limit", b"unlimited"), (b"x-ratelimit-remaining", b"unlimited")]


class Quotas:
    """The limits of the settings, over the counts of `usage`. `now` is ns since 1970, UTC, throughout."""

    def __init__(self, usage: Usage, settings: Settings) -> None:
        self._usage = usage
        self._limits = {plan: settings.limit(plan) for plan in PLANS}
        self._unlimited: tuple[int, Headers] = (-1, [])

    def check(self, key: Key, now: int) -> None:
        """Raise a 429 if nothing is left today; costs nothing."""
        limit = self._limits[key.plan]
        if limit is not None and self._usage.used(key, now // DAY) >= limit:
            raise self._exceeded(key, limit, now)

    def spend(self, key: Key, now: int) -> None:
        """Count one request; raise a 429 if another request took the last one meanwhile."""
        limit = self._limits[key.plan]
        if limit is None:
            self._usage.count(key, now // DAY)
        elif not self._usage.spend(key, now // DAY, limit):
            raise self._exceeded(key, limit, now)

    def headers(self, key: Key, now: int) -> Headers:
        """What every answer to this key says of its quota."""
        day = now // DAY
        limit = self._limits[key.plan]
        if limit is not None:
            left = max(limit - self._usage.used(key, day), 0)
            return [
                (b"x-ratelimit-limit", b"%d" % limit),
                (b"x-ratelimit-remaining", b"%d" % left),
                (b"x-ratelimit-reset", b"%d" % _reset(day)),
            ]
        if self._unlimited[0] != day:
            self._unlimited = day, [*_UNLIMITED, (b"x-ratelimit-reset", b"%d" % _reset(day))]
        return self._unlimited[1]

    def today(self, key: Key, now: int) -> tuple[int, int]:
        """Requests of a key today, and when the count starts again in Unix seconds."""
        return self._usage.used_by_all(key, now // DAY), _reset(now // DAY)

    def _exceeded(self, key: Key, limit: int, now: int) -> Exception:
        reset = _reset(now // DAY)
        reset_at = datetime.fromtimestamp(reset, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        # Rounded up: a client that waits this long is past midnight, and 0 breaks the official one.
        wait = max(1, reset - now // 10**9)
        return quota_exceeded(key.plan, limit, reset_at, wait)


def _reset(day: int) -> int:
    """Unix seconds of the midnight that ends a day."""
    return (day + 1) * _SECONDS
