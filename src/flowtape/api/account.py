"""What a key's holder may ask on any plan: about the key itself, and which symbols there are."""

from __future__ import annotations

import msgspec

from flowtape.answers import Made, instant
from flowtape.api.keys import Key
from flowtape.store import Store

ACCOUNT = "/v1/account"
SYMBOLS = "/v1/symbols"


class AccountBody(msgspec.Struct, kw_only=True):
    """A key's plan and its use today. `user_id` is the key's public id; limits are numbers in text, or
    `unlimited`; `resets_at` is the next midnight UTC."""

    user_id: str
    email: None = None
    plan: str
    daily_limit: str
    remaining: str
    usage_today: int
    resets_at: str


class SymbolsBody(msgspec.Struct, kw_only=True):
    """The symbols, options' and stocks' together, of which prints are kept, in order. `last_updated` is the time of
    the newest print."""

    symbols: list[str]
    count: int
    last_updated: str | None


def account(key: Key, limit: int | None, used: int, resets: int) -> AccountBody:
    """The body of `/v1/account`; `resets` is in Unix seconds."""
    return AccountBody(
        user_id=key.id,
        plan=key.plan.lower(),
        daily_limit="unlimited" if limit is None else str(limit),
        remaining="unlimited" if limit is None else str(max(limit - used, 0)),
        usage_today=used,
        resets_at=instant(resets * 10**9),
    )


def symbols(store: Store) -> Made:
    """The body of `/v1/symbols`. Raises `StoreError`."""
    kept = store.catalog.series.head(store.catalog.kept_series)
    names = sorted(kept["symbol"].unique().cast(str))
    span = store.span()
    newest = None if span is None else span[1]
    return Made(
        SymbolsBody(
            symbols=names, count=len(names), last_updated=None if newest is None else instant(newest)
        ),
        newest,
    )
