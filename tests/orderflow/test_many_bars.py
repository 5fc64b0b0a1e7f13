"""Minute bars equal plain sums, and all ways to make them agree."""

import warnings
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import flowtape
from flowtape import library
from flowtape.errors import UsageError
from flowtape.model.prints import SETS_ENDS, SETS_RANGE, Asset, Right, Side
from flowtape.orderflow.minute_bars import EDGES, FIELDS, NOTIONALS, NS_PER_MINUTE, STREAMED, aggregate
from flowtape.readers import Options, open_tapes

START = 1_778_592_600_000_000_000
BY = ("asset", "symbol", "right")


def prints_of(rows: int, seed: int, most: int, largest: int) -> pl.DataFrame:
    """Return prints of options and stocks at few instants, many of them equal."""
    made = np.random.default_rng(seed)
    stock = made.random(rows) < 0.5
    ts = START + made.integers(0, 5, rows) * 20_000_000_000 + made.integers(0, 3, rows)
    right = [None if one else name for one, name in zip(stock, made.choice(["C", "P"], rows), strict=True)]
    return pl.DataFrame(
        {
            "ts": pl.Series(ts).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC"),
            "asset": pl.Series(np.where(stock, "stock", "option")).cast(Asset),
            "symbol": pl.Series(made.choice(["A", "B"], rows)).cast(pl.Categorical),
            "right": pl.Series(right, dtype=Right),
            "price": made.integers(0, most, rows),
            "size": np.where(
                stock, made.integers(1, largest * 10_000, rows), made.integers(1, largest, rows)
            ),
            "seq": made.integers(0, 3, rows),
            "venue": pl.Series(made.choice(["X", "", "Yab"], rows)).cast(pl.Categorical),
            "side": pl.Series(made.choice(Side.categories, rows)).cast(Side),
            "price_flags": pl.Series(made.integers(0, 4, rows)).cast(pl.UInt8),
        }
    )


def summed(prints: pl.DataFrame) -> dict[tuple[object, ...], dict[str, int | None]]:
    """Return bars from a Python loop over the prints."""
    groups = defaultdict(list)
    rows = prints.with_columns(pl.col("ts").to_physical(), pl.col("venue").cast(pl.String)).iter_rows(
        named=True
    )
    for row in rows:
        groups[(*(row[name] for name in BY), row["ts"] // NS_PER_MINUTE)].append(row)
    return {key: bar(group) for key, group in groups.items()}


def bar(rows: list[dict[str, int]]) -> dict[str, int | None]:
    made: dict[str, int | None] = {"trades": len(rows), "last_ts": max(row["ts"] for row in rows)}
    for side, (upper, lower) in NOTIONALS.items():
        mine = [row for row in rows if row["side"] == side]
        made[f"{side}_volume"] = sum(row["size"] for row in mine)
        made[upper], made[lower] = divmod(sum(row["price"] * row["size"] for row in mine), 2**32)
    made["biggest"] = max(row["size"] for row in rows)
    made["biggest_ts"] = min(row["ts"] for row in rows if row["size"] == made["biggest"])
    if rows[0]["asset"] == "option":
        prices = [row["price"] for row in rows]
        return made | dict.fromkeys(EDGES) | {"high": max(prices), "low": min(prices)}
    ranged = [row for row in rows if row["price_flags"] & SETS_RANGE]
    ended = [row for row in rows if row["price_flags"] & SETS_ENDS]
    prices = [row["price"] for row in ranged or rows]
    made |= {"high": max(prices), "low": min(prices), "first_ts": min(row["ts"] for row in rows)}
    made |= {"sets_range": int(bool(ranged)), "sets_ends": int(bool(ended))}
    order = sorted(ended or rows, key=lambda row: (row["ts"], row["seq"], row["venue"], row["price"]))
    for which, row in (("open", order[0]), ("close", order[-1])):
        made |= {f"{which}_ts": row["ts"], f"{which}_seq": row["seq"], which: row["price"]}
    return made


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(0, 10**6),
    st.sampled_from([3, 10**6, 10**11]),
    st.sampled_from([3, 2**31 - 1]),
)
def test_bars_equal_sums_in_plain_python(rows: int, seed: int, most: int, largest: int) -> None:
    prints = prints_of(rows, seed, most, largest)
    expected = summed(prints)
    bars = aggregate(prints, BY)
    assert bars.height == len(expected)
    for found in bars.iter_rows(named=True):
        wanted = expected[(*(found[name] for name in BY), found["minute"])]
        assert {name: found[name] for name in FIELDS if name in wanted} == wanted


def test_bars_of_many_prints_equal_plain_sums() -> None:
    prints = prints_of(STREAMED * 2 + 1000, 1, 10**6, 1000)
    expected = summed(prints)
    bars = aggregate(prints, BY)
    assert bars.height == len(expected)
    for found in bars.iter_rows(named=True):
        wanted = expected[(*(found[name] for name in BY), found["minute"])]
        assert {name: found[name] for name in FIELDS if name in wanted} == wanted


def tape(path: Path, *, rising: bool = True, in_time: bool = True) -> Path:
    """Write a tape of 400 prints of options and stocks, some of them cancelled much later."""
    made = np.random.default_rng(7)
    lines = ["ts,asset,symbol,root,expiry,right,strike,price,size,bid,ask,condition,venue,seq"]
    opened: list[str] = []
    for seq in range(1, 401):
        second = seq if in_time else int(made.integers(0, 400))
        stamp = f"2026-05-12T14:{second // 60:02}:{second % 60:02}Z"
        if seq % 9 == 0:
            what, condition = f"option,SPY,SPY,2026-06-19,C,500,{opened.pop(0)}", "CANC"
        elif seq % 4 == 0:
            what, condition = f"stock,SPY,SPY,,,,500.{made.integers(10, 99)},{seq / 8},500.1,500.6", ""
        else:
            rest = f"1.{made.integers(0, 3)}0,{made.integers(1, 3)},1.00,1.20"
            opened.append(rest)
            what, condition = f"option,SPY,SPY,2026-06-19,C,500,{rest}", "AUTO"
        number = seq if rising or seq != 200 else 199
        lines.append(f"{stamp},{what},{condition},X,{number}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("rising", [True, False])
@pytest.mark.parametrize("in_time", [True, False])
@pytest.mark.parametrize("rule", ["quote", "lr"])
@pytest.mark.parametrize("by", [("asset", "symbol", "expiry", "right", "family"), ("asset", "symbol")])
def test_reading_batch_by_batch_gives_the_same_bars(
    tmp_path: Path, rising: bool, in_time: bool, rule: str, by: tuple[str, ...]
) -> None:
    path = tape(tmp_path / "tape.csv", rising=rising, in_time=in_time)
    whole = flowtape.minutes(flowtape.sign(flowtape.read(path), rule), by)
    found = [flowtape.read_minutes(path, rule=rule, by=by)]
    for options in (Options(batch_rows=7), Options(batch_rows=64)):
        found += [library.bars_of(lambda given=options: open_tapes([path], None, given), rule, by=by)]
    for bars in found:
        assert_frame_equal(bars.sort(*by, "minute"), whole.sort(*by, "minute"))


def test_bars_at_an_instant_hold_no_later_print(tmp_path: Path) -> None:
    path = tape(tmp_path / "tape.csv")
    noon = datetime(2026, 5, 12, 14, 3, 7, tzinfo=UTC)
    prints = flowtape.read(path).filter(pl.col("ts") < noon)
    key = ["asset", "expiry", "family", "minute"]
    bars = library.bars_of(lambda: open_tapes([path]), "quote", before=noon)
    assert_frame_equal(bars.sort(key), flowtape.minutes(flowtape.sign(prints)).sort(key))


def test_files_read_twice_warn_once(tmp_path: Path) -> None:
    path = tape(tmp_path / "tape.csv", rising=False)
    path.write_text(
        path.read_text() + "2026-05-12T14:30:00Z,option,SPY,SPY,2026-06-19,C,500,-1,1,1,1.2,AUTO,X,500\n"
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        flowtape.read_minutes(path)
    assert ["1 rows left out" in str(one.message) for one in told] == [True]


@pytest.mark.parametrize("by", [("symbol",), ("asset", "symbol", "venue"), ("asset", "symbol", "symbol")])
def test_invalid_key_columns_of_bars_are_refused(tmp_path: Path, by: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="by: "):
        flowtape.read_minutes(tape(tmp_path / "tape.csv"), by=by)
