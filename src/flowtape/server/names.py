"""Checks the names of a request's query parameters.

A route refuses a parameter that only other routes have, and a name that resembles a known parameter, so that no
caller believes it was applied. Names that resemble no parameter are ignored, since clients append their own, such
as `_=1716300000`, to bypass a cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache

from flowtape.server.errors import invalid, shown, unknown
from flowtape.server.params import KEY_PARAMETER, Param, is_named

LIKE = 0.75
"""The least similarity of two names, from 0 to 1, by `difflib.SequenceMatcher.ratio`."""
_SHORTEST = 4
"""Letters of a name from which similarity counts: `t` and `ts` do not mean `at`."""
_LONGEST = 32
_OTHER_WORDS = {
    "asof": ("at",), "date": ("at",),
    "since": ("from",), "start": ("from",), "end": ("to",), "until": ("to",),
    "expiration": ("expiry",), "expirations": ("expiry",), "exp": ("expiry",),
    "type": ("right",), "optiontype": ("right",), "callput": ("right",), "putcall": ("right",),
    "window": ("windowMinutes", "minutes"), "min": ("minutes", "windowMinutes"), "mins": ("minutes", "windowMinutes"),
    "minutes": ("windowMinutes",), "windowminutes": ("minutes",),
    "n": ("limit",), "limit": ("n",), "top": ("n", "limit"),
    "interval": ("resolution",), "timeframe": ("resolution",), "ticker": ("symbol",), "tickers": ("symbol",),
    "root": ("symbol",), "underlying": ("symbol",), "maxsize": ("minSize",), "size": ("minSize",),
    "mindte": ("dte",), "maxdte": ("dte",), "daystoexpiry": ("dte",), "daystoexpiration": ("dte",),
    "aggressor": ("side",), "condition": ("exclude",), "conditions": ("exclude",), "family": ("exclude",),
}  # fmt: skip
"""Names that other programs and routes use for a parameter, and its names here, the most likely first."""


def plain(name: str) -> str:
    """Return a name in lower case, without hyphens and underscores."""
    return name.lower().replace("_", "").replace("-", "")


class Names:
    """The names that the API knows: the parameters of all routes, path and query, and `others`."""

    def __init__(self, params: Iterable[Param], others: Iterable[str] = ()) -> None:
        names = (*(param.name for param in params), *others, KEY_PARAMETER)
        self._known = {plain(name): name for name in names}

    def check(self, takes: Iterable[str], pairs: list[tuple[str, str]]) -> None:
        """Raise a 400 for the first name of a query that the route does not take and that the API knows or that
        resembles one.

        `takes` are the names of the route's query; the key's name is always allowed.
        """
        taken = {plain(name): name for name in (*takes, KEY_PARAMETER)}
        for name, value in pairs:
            if not any(is_named(name, one) for one in taken.values()):
                self._refuse(name, value, taken)

    def _refuse(self, name: str, value: str, taken: Mapping[str, str]) -> None:
        short = plain(name)
        if not short or len(name) > _LONGEST:
            return
        meant = taken.get(short) or _likest(short, tuple(taken.values()))
        known = self._known.get(short)
        if known is not None and is_named(name, known):
            hint = f" (did you mean {meant}?)" if meant else ""
            raise invalid(
                known, f"cannot be given here, where it would not count{hint}; it is '{shown(value)}'."
            )
        if meant is not None:
            told = "" if meant == KEY_PARAMETER else f" It is '{shown(value)}'."
            raise unknown(f"There is no parameter {shown(name)}; did you mean {meant}?{told}")
        known = known or _likest(short, tuple(self._known.values()))
        if known is not None:
            raise unknown(
                f"There is no parameter {shown(name)}; {known}, which it is like, cannot be given here."
                f" It is '{shown(value)}'."
            )


@lru_cache(maxsize=1024)
def _likest(short: str, names: tuple[str, ...]) -> str | None:
    """Return the known name that is most similar to a plain name, or that means the same; None without one."""
    for other in _OTHER_WORDS.get(short, ()):
        if other in names:
            return other
    by_plain = {plain(name): name for name in names}
    found = get_close_matches(short, by_plain, 1, LIKE) if len(short) >= _SHORTEST else []
    return by_plain[found[0]] if found else None
