"""Databento's own exports give the prints of their DBN file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import polars as pl
import pytest
from dbn_files import OPEN, SECOND, UNDEF, book, cbbo, tcbbo, trade, write

import flowtape
from flowtape.errors import TapeError
from flowtape.readers import Options, guess, open_tapes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import databento

T = dbn.Action.TRADE
USD = 10**9
WAYS = [(pretty_px, pretty_ts) for pretty_px in (True, False) for pretty_ts in (True, False)]


def exported(path: Path, suffix: str, **how: Any) -> Path:
    """Write an export of a DBN file beside it, with the vendor's package."""
    out = path.with_name(f"{path.name}-{len(list(path.parent.iterdir()))}{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = databento.DBNStore.from_bytes(path.read_bytes())
        if suffix == ".csv":
            store.to_csv(out, **how)
        elif suffix == ".parquet":
            store.to_parquet(out, **how)
        elif suffix == ".pandas.csv":
            store.to_df(**how).to_csv(out)
        else:
            pl.from_pandas(store.to_df(**how).reset_index()).write_ipc(out)
    return out


def prints_of(*paths: Path) -> pl.DataFrame:
    [tape] = open_tapes(paths, None, Options())
    assert (tape.format, tape.rejects.count) == ("databento", 0)
    return pl.concat([batch.prints for batch in tape.batches])


def options_of(folder: Path) -> dict[str, Path]:
    """Write files of one market, with undefined and crossed quotes, equal times and prices of nine places."""
    trades = [
        trade(
            ts=OPEN + n,
            price=1_230_000_000 + n * 10_000_000,
            size=n + 1,
            seq=n,
            venue=22 + n % 3,
            contract=7 + n % 3,
        )
        for n in range(30)
    ]
    tcbbos = [
        tcbbo(ts=OPEN + n, price=1_230_000_000 + n * 10_000_000, size=n + 1, bid=UNDEF if n % 5 == 0 else USD)
        for n in range(30)
    ]
    samples = [cbbo(USD, 2 * USD, OPEN - n * SECOND) for n in range(5, 0, -1)]
    made = {"trades": trades, "tcbbo": tcbbos, "cbbo-1s": samples}
    return {schema: write(folder / f"{schema}.dbn", schema, records) for schema, records in made.items()}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".pandas.csv", ".arrow"])
def test_every_export_has_the_prints_of_its_file(tmp_path: Path, suffix: str) -> None:
    files = options_of(tmp_path)
    ways = WAYS if suffix in (".csv", ".pandas.csv") else [(True, True)]
    for pretty_px, pretty_ts in ways:
        how: dict[str, Any] = {"map_symbols": True, "pretty_ts": pretty_ts}
        how |= (
            {"pretty_px": pretty_px}
            if suffix == ".csv"
            else {"price_type": "float" if pretty_px else "fixed"}
        )
        made = {schema: exported(path, suffix, **how) for schema, path in files.items()}
        for together in (["trades"], ["tcbbo"], ["trades", "cbbo-1s"]):
            expected = prints_of(*(files[schema] for schema in together))
            found = prints_of(*(made[schema] for schema in together))
            assert found.equals(expected), (together, how)
    assert guess(made["trades"]) == "databento"


def test_exports_of_stocks_equal_their_dbn_files(tmp_path: Path) -> None:
    records = [
        book(
            100 * USD,
            101 * USD,
            OPEN + n,
            price=100_500_050_000,
            size=300 + n,
            action=T,
            contract=7 + n % 2,
            seq=n,
        )
        for n in range(9)
    ]
    symbols = {7: "AAPL", 8: "BRK.B"}
    path = write(tmp_path / "t.dbn", "tbbo", records, dataset="XNAS.ITCH", symbols=symbols)
    csv = exported(path, ".csv")
    [tape] = open_tapes([csv], None, Options())
    assert tape.source == "databento:XNAS.ITCH"
    found = pl.concat([batch.prints for batch in tape.batches])
    assert found.equals(prints_of(path))
    assert found["symbol"].unique().sort().to_list() == ["AAPL", "BRK.B"]


def test_exported_samples_equal_the_samples(shared: Path, tmp_path: Path) -> None:
    files = {}
    for schema in ("trades", "tbbo", "cbbo-1s", "mbp-1"):
        sample = next((shared / "data/databento").glob(f"*.{schema}.dbn.zst"))
        files[schema] = tmp_path / sample.name
        files[schema].write_bytes(sample.read_bytes())
    for px, ts in WAYS:
        made = {schema: exported(path, ".csv", pretty_px=px, pretty_ts=ts) for schema, path in files.items()}
        for together in (["trades"], ["tbbo"], ["trades", "cbbo-1s"], ["trades", "mbp-1"]):
            expected = prints_of(*(files[schema] for schema in together))
            assert prints_of(*(made[schema] for schema in together)).equals(expected)
    bare = exported(files["trades"], ".csv", map_symbols=False)
    with pytest.raises(TapeError, match="without symbols: make it with map_symbols=True"):
        flowtape.read(bare)
    definition = next((shared / "data/databento").glob("*.definition.dbn.zst"))
    assert flowtape.read([bare, definition]).equals(flowtape.read(files["trades"]))
    for schema in ("cbbo-1s", "mbp-1"):
        with pytest.raises(TapeError, match=f"a {schema} file holds no prints"):
            flowtape.read(exported(files[schema], ".csv"))


def test_bad_rows_of_an_export_are_named(tmp_path: Path) -> None:
    csv = exported(options_of(tmp_path)["trades"], ".csv")
    header, *rows = csv.read_text().splitlines()
    cells = [row.split(",") for row in rows]
    at = {name: place for place, name in enumerate(header.split(","))}
    for row, (name, value) in enumerate(
        [
            ("price", "x"),
            ("size", "-1"),
            ("ts_event", "noon"),
            ("publisher_id", ""),
            ("price", ""),
        ]
    ):
        cells[row][at[name]] = value
    csv.write_text("\n".join([header, *(",".join(row) for row in cells), ""]))
    [tape] = open_tapes([csv], None, Options())
    prints = pl.concat([batch.prints for batch in tape.batches])
    assert prints.height == 25
    assert sorted((one.row, one.reason.split(":")[0]) for one in tape.rejects.first) == [
        (1, "price is not a price in USD or 1e-9 USD"), (2, "size is not a whole number from 0 up"),
        (3, "ts_event is not a time"), (4, "publisher_id is not a whole number from 0 up"),
        (5, "price is undefined or out of range (1e-9 USD)"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rtype": "160"}, "schema of rtype 160 is not one of trades"),
        ({"publisher_id": "1"}, "is of no dataset that is read"),
    ],
)
def test_unsupported_exports_are_refused_with_the_reason(
    tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    csv = exported(options_of(tmp_path)["trades"], ".csv")
    header, *rows = csv.read_text().splitlines()
    names = header.split(",")
    lines = [
        ",".join(changed.get(name, cell) for name, cell in zip(names, row.split(","), strict=True))
        for row in rows
    ]
    csv.write_text("\n".join([header, *lines, ""]))
    with pytest.raises(TapeError, match=message):
        open_tapes([csv], None, Options())


def test_a_quotes_file_of_bad_rows_leaves_prints_without_quotes(tmp_path: Path) -> None:
    files = options_of(tmp_path)
    trades, quotes = (exported(files[name], ".csv", map_symbols=True) for name in ("trades", "cbbo-1s"))
    header, *lines = quotes.read_text().splitlines()
    place = header.split(",").index("instrument_id")
    bad = [",".join([*line.split(",")[:place], "x", *line.split(",")[place + 1 :]]) for line in lines]
    quotes.write_text("\n".join([header, *bad]) + "\n")
    [tape] = open_tapes([trades, quotes], None, Options())
    prints = pl.concat([batch.prints for batch in tape.batches])
    assert (prints.height, prints["bid"].null_count(), tape.rejects.count) == (30, 30, len(lines))
