"""Every reader rounds prices alike, and rounding never gives a wrong side."""

from collections import Counter
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from dbn_files import OPEN, cmbp, tcbbo, trade, write
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import faults, read_all
from test_cboe import HEADER as CBOE
from test_cboe import row as cboe_row
from test_massive import NS, QUOTES, TRADES, quote
from test_massive import trade as massive_trade
from test_thetadata import HEADER as THETADATA
from test_thetadata import row as thetadata_row

from flowtape.model import prices
from flowtape.model.prices import MAX_NANOS, QUOTES_ROUNDED, ROUNDED, SIDE_LOST, SIDE_WRONG
from flowtape.orderflow.classify import sign

NANOS = st.integers(0, 10**13) | st.integers(0, 10**6).map(lambda n: n * 50_000)
TABLE = "ts,symbol,price,size,bid,ask"


def half_to_even(nanos: int) -> int:
    return int((Decimal(nanos) / prices.NANOS).quantize(Decimal(1), ROUND_HALF_EVEN))


def table_line(price: str, bid: str = "", ask: str = "") -> str:
    return f"{NS},XYZ,{price},1,{bid},{ask}"


@settings(max_examples=60, deadline=None)
@given(st.lists(NANOS, min_size=1, max_size=20))
def test_text_float_decimal_and_nanos_round_alike(amounts: list[int]) -> None:
    exact = [Decimal(amount).scaleb(-9) for amount in amounts]
    rest = {"ts": pl.Series([NS] * len(amounts)), "symbol": "XYZ", "size": 1}
    mapping = "price_unit = 1e-9\n"
    with TemporaryDirectory() as folder:
        csv, floats, decimals, nanos, toml = (Path(folder, name) for name in "abcde")
        csv.write_text("\n".join([TABLE, *(table_line(str(one)) for one in exact), ""]))
        for path, column in (
            (floats, pl.Series([float(one) for one in exact])),
            (decimals, pl.Series(exact, dtype=pl.Decimal(38, 9))),
            (nanos, pl.Series(amounts)),
        ):
            pl.DataFrame({"price": column, **rest}).write_parquet(path)
        toml.write_text(mapping)
        found = [read_all(path)[1] for path in (csv, floats, decimals)]
        found.append(read_all(nanos, mapping=toml)[1])
        dbn = write(
            Path(folder, "t.dbn"), "trades", [trade(price=amount, seq=n) for n, amount in enumerate(amounts)]
        )
        found.append(read_all(dbn)[1])
    for prints in found:
        assert prints["price"].to_list() == [half_to_even(amount) for amount in amounts]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, MAX_NANOS // prices.NANOS))
def test_binary_noise_does_not_count_as_a_finer_price(units: int) -> None:
    noisy = np.nextafter(units / 1e4, 1e9).item()
    texts = pl.Series([f"{units // 10_000}.{units % 10_000:04d}", repr(units / 10_000), repr(noisy)])
    assert pl.select(prices.nanos(pl.lit(texts))).to_series().to_list() == [units * prices.NANOS] * 3


@given(st.integers(-(10**13), 10**13) | st.integers(-5, 5).map(lambda n: n * 50_000))
def test_units_round_half_to_even(amount: int) -> None:
    assert pl.select(prices.units(pl.lit(amount, pl.Int64))).item() == half_to_even(amount)


def amounts_near(middle: int) -> st.SearchStrategy[int]:
    return st.integers(middle - 250_000, middle + 250_000)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(amounts_near(10**9), amounts_near(10**9), amounts_near(10**9)), min_size=1, max_size=30
    )
)
def test_rounding_never_gives_a_wrong_side(rows: list[tuple[int, int, int]]) -> None:
    frame = pl.DataFrame(rows, schema=["price", "bid", "ask"], orient="row")
    notes = Counter[str]()
    made = prices.rounded(frame, lambda what, many: notes.update({what: many}))
    lost = wrong = 0
    for (price, bid, ask), (now, low, high) in zip(rows, made.rows(), strict=True):
        exact = np.sign(2 * price - bid - ask) if ask >= bid else 0
        side = 0 if low is None or high < low else np.sign(2 * now - low - high)
        assert now == half_to_even(price)
        assert side in (exact, 0)
        lost += exact != 0 and low is not None and side == 0
        wrong += low is None
    assert (notes[SIDE_LOST], notes[SIDE_WRONG]) == (lost, wrong)
    assert notes[ROUNDED] == sum(price % prices.NANOS != 0 for price, _, _ in rows)


def of_table(folder: Path, price: str, bid: str, ask: str) -> list[Path]:
    path = folder / "t.csv"
    path.write_text(f"{TABLE}\n{table_line(price, bid, ask)}\n")
    return [path]


def of_parquet(folder: Path, price: str, bid: str, ask: str) -> list[Path]:
    path = folder / "t.parquet"
    numbers = {"price": float(price), "bid": float(bid), "ask": float(ask)}
    pl.DataFrame({"ts": [NS], "symbol": "XYZ", "size": 1, **numbers}).write_parquet(path)
    return [path]


def of_massive(folder: Path, price: str, bid: str, ask: str) -> list[Path]:
    paths = [folder / "trades.csv", folder / "quotes.csv"]
    lines = [TRADES, massive_trade(price=price)], [QUOTES, quote(ts=-1, bid=bid, ask=ask)]
    for path, content in zip(paths, lines, strict=True):
        path.write_text("\n".join([*content, ""]))
    return paths


def of_thetadata(folder: Path, price: str, bid: str, ask: str) -> list[Path]:
    path = folder / "t.csv"
    path.write_text("\n".join([THETADATA, thetadata_row(price=price, bid=bid, ask=ask), ""]))
    return [path]


def of_cboe(folder: Path, price: str, bid: str, ask: str) -> list[Path]:
    path = folder / "t.csv"
    path.write_text("\n".join([CBOE, cboe_row(price=price, bid=bid, ask=ask), ""]))
    return [path]


def nanos(text: str) -> int:
    return int(Decimal(text).scaleb(9))


def of_tcbbo(folder: Path, price: str, bid: str, ask: str) -> list[Path]:
    record = tcbbo(price=nanos(price), bid=nanos(bid), ask=nanos(ask))
    return [write(folder / "t.dbn", "tcbbo", [record])]


def of_trades_and_quotes(folder: Path, price: str, bid: str, ask: str) -> list[Path]:
    quotes = write(folder / "q.dbn", "cmbp-1", [cmbp(nanos(bid), nanos(ask), OPEN - 1)])
    return [write(folder / "t.dbn", "trades", [trade(price=nanos(price))]), quotes]


WAYS = [of_table, of_parquet, of_massive, of_thetadata, of_cboe, of_tcbbo, of_trades_and_quotes]


@pytest.mark.parametrize("files", WAYS)
@pytest.mark.parametrize(
    ("price", "bid", "ask", "side", "notes"),
    [
        ("0.25015", "0.2501", "0.2502", "mid", {ROUNDED, SIDE_WRONG}),
        ("0.25016", "0.2501", "0.2502", "buy", {ROUNDED}),
        ("0.25014", "0.2501", "0.2502", "sell", {ROUNDED}),
        ("1.05001", "1.00", "1.10", "mid", {ROUNDED, SIDE_LOST}),
        ("1.0002", "1.00015", "1.00025", "mid", {QUOTES_ROUNDED}),
        ("1.0001", "1.00006", "1.00014", "mid", {QUOTES_ROUNDED}),
        ("1.0001", "1.00004", "1.00014", "buy", {QUOTES_ROUNDED}),
        ("40.480000000000004", "40.48", "40.480000000000004", "mid", set()),
    ],
)
def test_no_reader_changes_a_side_by_rounding(tmp_path, files, price, bid, ask, side, notes) -> None:
    tape, prints = read_all(*files(tmp_path, price, bid, ask))
    assert sign(prints)["side"].to_list() == [side]
    assert prints["price"].item() == half_to_even(round(Decimal(price).scaleb(9)))
    ours = {ROUNDED, QUOTES_ROUNDED, SIDE_WRONG, SIDE_LOST}
    assert {what: many for what, many in tape.notes.items() if what in ours} == dict.fromkeys(notes, 1)
    assert faults(tape) == []


cents = st.integers(-(10**9), 10**9).map(lambda units: units / 10_000)


@given(st.lists(st.none() | cents, min_size=1) | st.lists(st.floats(-6e5, 6e5) | cents, min_size=1))
def test_prices_in_whole_units_equal_rounded_nanos(amounts: list[float | None]) -> None:
    frame = pl.DataFrame({"bid": amounts}, schema={"bid": pl.Float64})
    made = prices.whole_units(frame, ["bid"])
    exact = frame.select(prices.nanos(pl.col("bid"))).to_series()
    if made is not None:
        assert (made["bid"] * prices.NANOS).equals(exact)
    elif all(amount is None or abs(amount) <= 1e5 for amount in amounts):
        assert (exact % prices.NANOS != 0).any()
