"""Every error response: its status, body and message.

Bodies hold no null, no key, no path of the machine and no stack trace.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from flowtape.errors import FeedError, FlowtapeError, Loading, StoreBusy
from flowtape.server.logs import redact
from flowtape.settings import PLANS, Plan

Headers = list[tuple[bytes, bytes]]
_SHOWN = 64


class ErrorBody(msgspec.Struct, frozen=True):
    """An error: a word for programs and a sentence for people."""

    error: str
    message: str


class UnauthorizedBody(msgspec.Struct, frozen=True):
    """No key, or an unknown key."""

    title: str = "Unauthorized"
    status: int = 401
    detail: str = "Invalid API key."


class TierBody(msgspec.Struct, frozen=True):
    """The key's plan is below the plan that the endpoint needs."""

    status: Literal["ERROR"]
    error: Literal["tier_restricted"]
    message: str
    current_plan: Plan
    required_plan: Plan


class QuotaBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The day's requests are used up. `upgrade_to` is absent on the highest plan."""

    status: Literal["ERROR"]
    error: Literal["Quota exceeded"]
    message: str
    current_plan: Plan
    limit: int
    upgrade_to: Plan | msgspec.UnsetType = msgspec.UNSET
    reset_at: str = ""


class UnhealthyBody(msgspec.Struct, frozen=True):
    """Answers cannot be given now, and the reason. `loading` is the share that is loaded, absent if nothing is
    loading."""

    status: Literal["Unhealthy"]
    reason: str
    loading: float | msgspec.UnsetType = msgspec.UNSET


class Refusal(Exception):
    """An error response, raised on the way to the client."""

    def __init__(self, status: int, body: msgspec.Struct, headers: Headers | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = headers or []
        self.rate = b""
        """The header lines of the quota of the request's key."""


def shown(value: str) -> str:
    """Return a value of a request as an error message may repeat it: short, printable, without a key."""
    # Cut first: a search for keys in 60 KB takes time.
    short = redact(value[: 4 * _SHOWN])
    short = short if len(short) <= _SHOWN else short[:_SHOWN] + "…"
    return "".join(letter if letter.isprintable() else "?" for letter in short)


def invalid(name: str, reason: str) -> Refusal:
    """Return a 400: the parameter `name` cannot be used; `reason` names its value."""
    word = re.sub(r"[A-Z]", lambda found: "_" + found[0].lower(), name)
    return Refusal(400, ErrorBody(f"invalid_{word}", f"{name} {reason}"))


def unknown(message: str) -> Refusal:
    """Return a 400: the query has an unknown name that resembles a parameter."""
    return Refusal(400, ErrorBody("unknown_parameter", message))


def unauthorized() -> Refusal:
    """Return a 401, the same for a missing and a wrong key."""
    return Refusal(401, UnauthorizedBody(), [(b"www-authenticate", b"ApiKey")])


def tier_restricted(current: Plan, required: Plan) -> Refusal:
    """Return a 403: the endpoint needs a higher plan."""
    message = f"This endpoint needs the {required} plan or higher; this key is on the {current} plan."
    return Refusal(403, TierBody("ERROR", "tier_restricted", message, current, required))


def quota_exceeded(plan: Plan, limit: int, reset_at: str, retry_after: int) -> Refusal:
    """Return a 429: `limit` requests were served today; `retry_after` is in whole seconds."""
    above = PLANS[PLANS.index(plan) + 1 :]
    body = QuotaBody(
        status="ERROR",
        error="Quota exceeded",
        message=f"This key has used its {limit} requests of today; the count starts again at {reset_at}.",
        current_plan=plan,
        limit=limit,
        upgrade_to=above[0] if above else msgspec.UNSET,
        reset_at=reset_at,
    )
    return Refusal(429, body, [(b"retry-after", b"%d" % retry_after)])


def not_found(path: str) -> Refusal:
    """Return a 404: no route has this path."""
    return Refusal(404, ErrorBody("not_found", f"There is nothing at {shown(path)}."))


def unknown_host(host: str) -> Refusal:
    """Return a 421: the `Host` header does not name this server."""
    message = f"This server is not known as {shown(host)}; the setting `hosts` names what it may be asked as."
    return Refusal(421, ErrorBody("unknown_host", message))


def method_not_allowed(method: str, allow: bytes) -> Refusal:
    """Return a 405: the path does not allow the method."""
    message = f"{shown(method)} is not allowed here; {allow.decode()} are."
    return Refusal(405, ErrorBody("method_not_allowed", message), [(b"allow", allow)])


def reason_of(error: FlowtapeError) -> str:
    """Return what a client may know of a store's or feed's error; the error's own text can hold a path."""
    if isinstance(error, Loading):
        return str(error)
    if isinstance(error, FeedError):
        return "The live feed has failed or has been silent for too long."
    if isinstance(error, StoreBusy):
        return "The store is held by another process."
    return "The store cannot be read or written."


def unhealthy(error: FlowtapeError) -> UnhealthyBody:
    """Return the body of `/health` while answers cannot be given."""
    done = round(error.done, 4) if isinstance(error, Loading) else msgspec.UNSET
    return UnhealthyBody("Unhealthy", reason_of(error), done)


def upstream(error: FlowtapeError) -> Refusal:
    """Return a 502: an answer now could be wrong."""
    if isinstance(error, Loading):
        return Refusal(502, ErrorBody("loading", reason_of(error)), [(b"retry-after", b"1")])
    return Refusal(502, ErrorBody("upstream_unavailable", reason_of(error)))


def internal() -> Refusal:
    """Return a 500: a fault of the server, with details in the log."""
    return Refusal(500, ErrorBody("internal", "The server failed to answer; the failure has been logged."))
