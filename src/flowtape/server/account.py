"""`/v1/account` and `/v1/symbols`, which every plan may ask: the key's own use, and the symbols with stored prints."""

from __future__ import annotations

import msgspec

from flowtape.queries import Made, instant, stamp
from flowtape.server.auth.keys import Key
from flowtape.storage import Store

ACCOUNT = "/v1/account"
SYMBOLS = "/v1/symbols"
NOTE = "The symbols of which this store keeps prints, options and stocks together."


class AccountBody(msgspec.Struct, kw_only=True):
    """A key's plan and its use today. `user_id` is the key's public id. `daily_limit` and `remaining` are numbers
    as text, or `unlimited`. `usage_today` counts requests, and is 0 for a plan without a limit. `resets_at` is the
    next midnight UTC."""

    user_id: str
    email: str | None
    plan: str
    daily_limit: str
    usage_today: int
    remaining: str
    resets_at: str


class SymbolsBody(msgspec.Struct, kw_only=True):
    """The symbols with stored prints, options and stocks together, in order. `note` says so in a sentence.
    `last_updated` is the time of the newest print, in whole seconds."""

    symbols: list[str]
    count: int
    note: str = NOTE
    last_updated: str | None


def account(key: Key, limit: int | None, used: int, resets: int) -> AccountBody:
    """Return the body of `/v1/account`; `resets` is in Unix seconds."""
    return AccountBody(
        user_id=key.id,
        email=None,
        plan=key.plan.lower(),
        daily_limit="unlimited" if limit is None else str(limit),
        usage_today=0 if limit is None else used,
        remaining="unlimited" if limit is None else str(max(limit - used, 0)),
        resets_at=instant(resets * 10**9),
    )


def symbols(store: Store) -> Made:
    """Return the body of `/v1/symbols`. Raises `StoreError`."""
    kept = store.catalog.series.head(store.catalog.kept_series)
    names = sorted(kept["symbol"].unique().cast(str))
    span = store.span()
    newest = None if span is None else span[1]
    return Made(
        SymbolsBody(
            symbols=names, count=len(names), last_updated=None if newest is None else stamp(newest, "s")
        ),
        newest,
    )
