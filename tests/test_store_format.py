"""The version of a store's format."""

from pathlib import Path

import polars as pl
import pytest

from flowtape.errors import StoreError
from flowtape.storage import open_store
from flowtape.storage.clickhouse.connection import Link, parse
from stores import ENGINE, make_store, name_of


def set_version(name: str, version: str) -> None:
    if ENGINE == "duckdb":
        import duckdb

        with duckdb.connect(name) as db:
            db.execute("UPDATE meta SET value = ? WHERE name = 'version'", [version])
        return
    address = parse(name)
    row = pl.DataFrame({"name": ["version"], "value": [version], "at": [2]})
    link = Link(address)
    link.put(f"{address.database}.meta", row.cast({"at": pl.UInt64}), f"version-{version}")
    link.close()


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("2", r"version 2, older than .*Nothing in it is changed.*flowtape (store migrate|ingest FILES)"),
        ("9", r"version 9, newer than .*Nothing in it is changed.*newer flowtape"),
    ],
)
def test_a_store_of_another_format_is_refused_with_the_way_out(
    tmp_path: Path, version: str, said: str
) -> None:
    path = tmp_path / "old.duckdb"
    make_store(path).close()
    set_version(name_of(path), version)
    before = path.read_bytes() if ENGINE == "duckdb" else b""
    with pytest.raises(StoreError, match=said):
        open_store(name_of(path))
    if ENGINE == "duckdb":
        assert path.read_bytes() == before
