"""The Cboe sample's day read: prices are the mids of the underlying that came with the prints."""

import hashlib
import json
from datetime import date

import pytest

from flowtape.report import page, picture, read_day
from serving import kept
from test_cboe_day import AT

DAY = "2016-06-01"


@pytest.fixture(scope="module")
def world(shared, tmp_path_factory):
    tape = shared / "data" / "cboe" / "UnderlyingOptionsTrades_2016-06-01.csv"
    with kept(tmp_path_factory.mktemp("cboe"), AT) as made:
        made.take_file(tape, None)
        yield made


def ask(world, name, **arguments):
    at = {"at": "2016-06-01T20:15:00Z"}
    (found,) = world.ask((f"/v1/flow/options/VIX/{name}", at | arguments))
    return found.content


def test_divergence_from_the_underlying_mids(world):
    body = json.loads(ask(world, "divergence", minutes=405))
    assert body["priceSource"] == "underlying"
    assert body["withoutPrice"] == 0
    line = json.loads(ask(world, "cumulative", minutes=405))["points"]
    assert [point["ts"] for point in body["points"]] == [point["ts"] for point in line]
    assert [point["cumulative"] for point in body["points"]] == [point["cumulative"] for point in line]
    assert all(10 < point["price"] < 20 for point in body["points"])


def test_sessions_of_the_day(world):
    line = json.loads(ask(world, "cumulative", minutes=1440, at="2016-06-02T04:00:00Z"))["points"]
    (day,) = json.loads(ask(world, "sessions", days=1))["sessions"]
    assert (day["date"], day["open"], day["close"]) == (DAY, "2016-06-01T13:30:00Z", "2016-06-01T20:15:00Z")
    for part in day["parts"]:
        if part["part"] != "outside":
            inside = [point["netVolume"] for point in line if part["from"] <= point["ts"] < part["to"]]
            assert part["netVolume"] == sum(inside)
    thirds = [
        part["netVolume"] for part in day["parts"] if part["part"] in ("open", "midday", "close", "outside")
    ]
    assert sum(thirds) == day["netVolume"] == sum(point["netVolume"] for point in line)


def test_the_golden_signals_are_unchanged(world, request):
    folder = request.path.parent / "golden"
    for name, arguments in (("divergence", {"minutes": 405}), ("sessions", {"days": 1})):
        golden = folder / f"cboe_vix_{name}.sha256"
        assert hashlib.sha256(ask(world, name, **arguments)).hexdigest() == golden.read_text().strip()


def test_the_report_of_the_day_is_drawn(world):
    found = read_day(world.store, "VIX", "option", date(2016, 6, 1), None)
    assert found.divergence.price_source == "underlying"
    assert picture(found, "png").startswith(b"\x89PNG")
    assert b"underlying mid" in page(found)
