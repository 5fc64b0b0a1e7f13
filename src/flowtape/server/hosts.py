"""Checks the `Host` header of requests without a key.

With DNS rebinding, a browser reads pages of this machine for a site whose name resolves to its address. Such a name
has a dot and is not an address, so addresses and names without a dot are always allowed.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from flowtape.server.errors import unknown_host
from flowtape.settings import Settings


class Hosts:
    """The names of a server, from its settings `hosts`, `host` and `public_url`."""

    def __init__(self, settings: Settings) -> None:
        names = {name.strip().lower().rstrip(".") for name in settings.hosts.split(",")}
        self._any = "*" in names
        public = (urlsplit(settings.public_url).hostname or "").rstrip(".")
        self._names = names | {settings.host.lower(), public}

    def check(self, given: bytes | None) -> None:
        """Raise a 421 if a `Host` header names another server. A request without the header does not come from a
        browser."""
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
