"""The names that a server may be asked by, where no key is asked for.

A browser reads a page of this machine for any site whose own name leads here (DNS rebinding). Such a name has a dot and
is not an address, so addresses and names without a dot are always let through.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from flowtape.server.errors import unknown_host
from flowtape.settings import Settings


class Hosts:
    """The names of a server, by its settings `hosts`, `host` and `public_url`."""

    def __init__(self, settings: Settings) -> None:
        names = {name.strip().lower().rstrip(".") for name in settings.hosts.split(",")}
        self._any = "*" in names
        public = (urlsplit(settings.public_url).hostname or "").rstrip(".")
        self._names = names | {settings.host.lower(), public}

    def check(self, given: bytes | None) -> None:
        """Raise a 421 where a `Host` header names another server. A request without one is no browser's."""
        if given is None or self._any:
            return
        text = given[:256].decode("latin-1").strip().lower()
        name = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
        name = name.rstrip(".")
        if (
            "." in name
            and name not in self._names
            and not name.endswith(".localhost")
            and not _is_address(name)
        ):
            raise unknown_host(text)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
