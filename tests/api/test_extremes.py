"""No request about instants at and beyond the ends of the exchanges' calendar is a 500."""

from datetime import UTC, datetime

import pytest

from flowtape.server.routes import ROUTES
from serving import kept
from tapes import row

SYMBOLS = ("ALL", "FIRST")
FIRST = "1990-01-01"
"""The first day of the calendar, and the first day of accepted prints."""
KEPT = (FIRST, "1990-01-02", "2026-05-12")
ASKED = ("1970-01-01", "1985-01-03", *KEPT, "2099-12-31", "2101-03-04")


def ns(day, hour=15):
    return int(datetime.fromisoformat(day).replace(hour=hour, tzinfo=UTC).timestamp()) * 10**9


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A server whose store has prints of the first days of the calendar and of a much later day."""
    with kept(tmp_path_factory.mktemp("extremes"), ns("2026-05-12")) as made:
        rows = [
            row(ts=ns(day), seq=n, symbol=symbol, root=symbol)
            for symbol in SYMBOLS
            for n, day in enumerate(KEPT if symbol == "ALL" else [FIRST])
        ]
        made.take(rows)
        made.take([one | {"asset": "stock", "expiry": None, "right": None, "strike": None} for one in rows])
        yield made


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_no_route_fails_at_the_ends_of_the_calendar(world, route):
    names = {param.name for param in route.params}
    requests = []
    for symbol in SYMBOLS if "symbol" in names else ("ALL",):
        path = route.path.replace("{symbol}", symbol)
        given = {"resolution": "1m"} if "resolution" in names else {}
        requests.append((path, given))
        if "at" in names:
            requests += [(path, given | {"at": f"{day}T23:59:59.9Z"}) for day in ASKED]
        if "anchor" in names:
            requests.append((path, given | {"anchor": "session", "minutes": 10_080}))
            requests += [
                (path, given | {"anchor": "session", "at": f"{day}T23:59:00Z", "minutes": 1440})
                for day in ASKED
            ]
        if "from" in names:
            requests.append((path, given | {"from": "1970-01-01T00:00:00Z"}))
            requests.append((path, given | {"from": "1970-01-01T00:00:00Z", "to": "2261-12-31T23:59:59Z"}))
    answers = world.ask(*requests)
    wrong = [(request, found.status_code, found.text[:200]) for request, found in zip(requests, answers, strict=True)
             if found.status_code not in (200, 400)]  # fmt: skip
    assert not wrong
