"""The Cboe sample from file to answer: known figures, in any order, split or repeated."""

import hashlib
import json
import random
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

import oracle
from flowtape.model.query import Filter, Query
from flowtape.pipeline.ingest import Request, ingest
from flowtape.pipeline.ingestor import Ingestor
from flowtape.queries import cumulative, encode
from flowtape.queries.flow_data import FlowData
from stores import every_print
from stores import make_store as open_store

AT = int(datetime(2016, 6, 1, 20, 15, tzinfo=UTC).timestamp()) * 10**9
GOLDEN = Path(__file__).with_name("golden") / "cboe_vix_405.sha256"


@pytest.fixture(scope="module")
def tape(shared):
    return shared / "data" / "cboe" / "UnderlyingOptionsTrades_2016-06-01.csv"


def body(path, expiry=None, at=AT, minutes=405):
    which = Filter() if expiry is None else Filter(expiries=((expiry, expiry),))
    echo = () if expiry is None else (("expiry", expiry.isoformat()),)
    store = open_store(path, read_only=True)
    try:
        query = Query(symbol="VIX", filter=which, echo=echo, minutes=minutes, at=at)
        return encode(cumulative(FlowData(store, None, at), query), False).body
    finally:
        store.close()


def ingested(path, files):
    store = open_store(path)
    try:
        return ingest(Ingestor(store), Request(files=[str(file) for file in files], format="cboe"))
    finally:
        store.close()


def test_the_sample_has_its_known_figures(tape, tmp_path):
    ingested(tmp_path / "x.duckdb", [tape])
    found = json.loads(body(tmp_path / "x.duckdb"))
    assert (found["symbol"], found["minutes"], found["count"]) == ("VIX", 405, 358)
    first = {
        "ts": "2016-06-01T13:30:00Z",
        "netVolume": 627,
        "cumulative": 627,
        "vwap": 0.3753,
        "tradeCount": 37,
    }
    assert found["points"][0] == first
    rows = oracle.read_cboe(tape)
    assert found["points"] == oracle.cumulative(rows, "VIX", AT // oracle.MINUTE - 405, AT // oracle.MINUTE)
    whole = {point["ts"]: point["netVolume"] for point in found["points"]}
    parts = dict.fromkeys(whole, 0)
    for expiry in sorted({row["expiry"] for row in rows}):
        of_one = json.loads(body(tmp_path / "x.duckdb", expiry))
        assert of_one["expiry"] == expiry.isoformat()
        for point in of_one["points"]:
            parts[point["ts"]] += point["netVolume"]
    assert parts == whole, "the expiries partition the whole"


def test_the_sample_has_its_golden_answer(tape, tmp_path):
    ingested(tmp_path / "x.duckdb", [tape])
    assert hashlib.sha256(body(tmp_path / "x.duckdb")).hexdigest() == GOLDEN.read_text().strip()


def test_the_cancel_chain_counts_once(tape, tmp_path):
    """A print outside its NBBO (81100456) is cancelled after 15 minutes and reported again 24 seconds later."""
    ingested(tmp_path / "x.duckdb", [tape])
    store = open_store(tmp_path / "x.duckdb", read_only=True)
    prints = every_print(store)
    store.close()
    removals = prints.drop_nulls("removed_at")
    chain = prints.filter(pl.col("seq").is_in([81100456, 84292740, 84365192]))
    assert removals["seq"].to_list() == [81100456]
    assert chain["condition"].to_list()[1] == "CANC"
    assert removals["removed_at"].to_physical().to_list() == [chain["ts"].to_physical()[1]]
    before = int(chain["ts"].to_physical()[1])
    rows = oracle.read_cboe(tape)
    for at in (before, before + 1_000_000_000):
        known = [row for row in rows if row["ts"] < at]
        shown = json.loads(body(tmp_path / "x.duckdb", at=at))["points"]
        assert shown == oracle.cumulative(known, "VIX", at // oracle.MINUTE - 405, at // oracle.MINUTE)


def test_shuffled_split_and_repeated_files_give_one_answer(tape, tmp_path):
    ingested(tmp_path / "x.duckdb", [tape])
    header, *lines = tape.read_text().splitlines()
    chance = random.Random(7)
    doubled = lines * 2
    chance.shuffle(doubled)
    files = []
    for part in range(7):
        file = tmp_path / f"part{part}.csv"
        file.write_text("\n".join([header, *doubled[part::7]]) + "\n")
        files.append(file)
    for _ in range(2):
        chance.shuffle(files)
        outcomes = ingested(tmp_path / "y.duckdb", files)
    assert body(tmp_path / "y.duckdb") == body(tmp_path / "x.duckdb")
    assert sum(outcome.duplicates for outcome in outcomes) == 2 * len(lines)
