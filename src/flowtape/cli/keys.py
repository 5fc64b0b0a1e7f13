"""`flowtape keys`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from flowtape.cli.options import store_option
from flowtape.settings import PLANS, Settings, load

if TYPE_CHECKING:
    from flowtape.server.auth.usage import Usage


@click.group()
def keys() -> None:
    """Make, list and revoke API keys.

    A running server knows of a change within a second.

    \b
    Example:
      flowtape keys create --plan alpha --label research --store flow.duckdb
    """


def _settings(store: str | None) -> Settings:
    return load(overrides={} if store is None else {"store": store})


@keys.command()
@click.option("--plan", type=click.Choice([plan.lower() for plan in PLANS]), required=True,
              help="The key's plan; the flow endpoints need alpha or enterprise.")  # fmt: skip
@click.option("--label", default="", help="A name for the key, shown by list.")
@store_option
def create(plan: str, label: str, store: str | None) -> None:
    """Make a key and print it on standard output, with nothing else.

    The key is shown once: only its hash is kept.

    \b
    Example:
      KEY=$(flowtape keys create --plan alpha --store flow.duckdb)
    """
    from flowtape.server.auth.keys import keys_of

    kept = keys_of(_settings(store))
    try:
        click.echo(kept.create(plan, label))
    finally:
        kept.close()


@keys.command("list")
@store_option
def list_keys(store: str | None) -> None:
    """List the valid keys: id, plan, time of creation, requests today, label.

    \b
    Example:
      flowtape keys list --store flow.duckdb
    """
    from flowtape.server.auth.keys import keys_of
    from flowtape.server.auth.usage import DAY

    settings = _settings(store)
    kept = keys_of(settings)
    try:
        usage = _usage(settings)
        today = int(datetime.now(UTC).timestamp()) * 10**9 // DAY
        for key in kept.list():
            made = datetime.fromtimestamp(key.created // 10**9, UTC)
            used = usage.used_by_all(key, today)
            click.echo(f"{key.id}  {key.plan:<10}  {made:%Y-%m-%dT%H:%M:%SZ}  {used:>8}  {key.label}")
        usage.close()
    finally:
        kept.close()


def _usage(settings: Settings) -> Usage:
    """What is counted here: no file is made to be read."""
    from flowtape.server.auth.usage import Usage, usage_of

    return usage_of(settings) if settings.quotas or settings.counts_path.exists() else Usage()


@keys.command()
@click.argument("key", metavar="ID|LABEL")
@store_option
def revoke(key: str, store: str | None) -> None:
    """Revoke a key, named by its id or its label.

    \b
    Example:
      flowtape keys revoke research --store flow.duckdb
    """
    from flowtape.server.auth.keys import keys_of

    kept = keys_of(_settings(store))
    try:
        gone = kept.revoke(key)
    finally:
        kept.close()
    click.echo(f"{gone.id} ({gone.plan}) is revoked")
