import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtape.errors import TapeError
from flowtape.orderflow import quotes as module
from flowtape.orderflow.quotes import QUOTE_COLUMNS, QuoteJoin, join_quotes

TRADES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), max_size=30)
QUOTES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12), st.integers(0, 3)), max_size=40)


def trades_frame(rows: list[tuple[str, int]]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema={"ticker": pl.String, "ts": pl.Int64}, orient="row")
    return frame.with_columns(pl.col("ts").cast(pl.Datetime("ns", "UTC")))


def quotes_frame(rows: list[tuple[str, int, int]]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema={"ticker": pl.String, "ts": pl.Int64, "seq": pl.Int64}, orient="row")
    place = pl.int_range(pl.len())
    return frame.with_columns(
        pl.col("ts").cast(pl.Datetime("ns", "UTC")),
        bid=place,
        ask=place + 1000,
        bid_size=place + 2000,
        ask_size=pl.lit(None, pl.Int64),
    )


def oracle(trades, quotes) -> list[tuple]:
    """Return the last quote strictly before each trade, from a search over all quotes."""
    answers = []
    for ticker, ts in trades:
        best = None
        for place, (name, quote_ts, seq) in enumerate(quotes):
            if name == ticker and quote_ts < ts and (best is None or (quote_ts, seq, place) > best):
                best = (quote_ts, seq, place)
        if best is None:
            answers.append((None, None, None, None, None))
        else:
            place = best[2]
            answers.append((place, place + 1000, place + 2000, None, best[0]))
    return answers


def answers(joined: pl.DataFrame) -> list[tuple]:
    return joined.select(*QUOTE_COLUMNS, pl.col("quote_ts").cast(pl.Int64)).rows()


def parts(frame: pl.DataFrame, size: int):
    return (frame.slice(start, size) for start in range(0, frame.height, size))


def streamed(trades, quotes, rows=(3, 2), **order) -> list[tuple]:
    """Return the result of a `QuoteJoin` of trades and quotes in parts of `rows` rows."""
    join = QuoteJoin(parts(quotes_frame(quotes), rows[1]), ["ticker"], **order)
    found = [answer for part in parts(trades_frame(trades), rows[0]) for answer in answers(join.attach(part))]
    join.finish()
    return found


@settings(max_examples=50, deadline=None)
@given(TRADES, QUOTES)
def test_the_join_takes_the_last_quote_strictly_before(trades, quotes):
    joined = join_quotes(trades_frame(trades), quotes_frame(quotes), ["ticker"])
    assert answers(joined) == oracle(trades, quotes)
    assert joined.select("ticker", "ts").equals(trades_frame(trades))


@settings(max_examples=50, deadline=None)
@given(TRADES, QUOTES, st.booleans(), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(1, 20))
def test_the_streamed_join_equals_the_oracle(trades, quotes, grouped, rows, held):
    key = (lambda row: row[:2]) if grouped else (lambda row: row[1])
    trades, quotes = sorted(trades, key=key), sorted(quotes, key=key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_HELD_ROWS", held)
        assert streamed(trades, quotes, rows, grouped=grouped) == oracle(trades, quotes)


@settings(max_examples=50, deadline=None)
@given(TRADES, QUOTES, st.randoms(use_true_random=False))
def test_late_rows_within_the_slack_are_joined(trades, quotes, random):
    trades = sorted(trades, key=lambda row: row[1] + random.randint(0, 2))
    quotes = sorted(quotes, key=lambda row: row[1] + random.randint(0, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_HELD_ROWS", 3)
        assert streamed(trades, quotes, slack=2) == oracle(trades, quotes)


@settings(max_examples=50, deadline=None)
@given(TRADES, QUOTES, st.booleans())
def test_unordered_files_are_joined_correctly_or_refused(trades, quotes, grouped):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_HELD_ROWS", 4)
        try:
            found = streamed(trades, quotes, grouped=grouped)
        except TapeError:
            return
    assert found == oracle(trades, quotes)


def test_files_out_of_order_are_an_error(monkeypatch):
    monkeypatch.setattr(module, "_HELD_ROWS", 2)
    quotes = quotes_frame([("a", ts, 0) for ts in (1, 2, 3, 4, 5, 1)])
    join = QuoteJoin(parts(quotes, 1), ["ticker"])
    join.attach(trades_frame([("a", 4)]))
    with pytest.raises(TapeError, match="trades not in order of time"):
        join.attach(trades_frame([("a", 1)]))
    with pytest.raises(TapeError, match="quotes not in order of time"):
        join.finish()


def test_the_number_of_held_quotes_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "_HELD_ROWS", 1000)
    join = QuoteJoin(parts(quotes_frame([("a", ts, 0) for ts in range(50_000)]), 100), ["ticker"])
    most = 0
    for part in parts(trades_frame([("a", ts) for ts in range(0, 50_000, 500)]), 10):
        joined = join.attach(part)
        assert joined["bid"].to_list() == [ts - 1 if ts else None for ts in part["ts"].cast(pl.Int64)]
        most = max(most, sum(frame.height for frame in join._held))
    assert most <= 7000


def test_a_quote_of_an_earlier_day_is_attached():
    day = 86_400 * 10**9
    joined = join_quotes(trades_frame([("a", 3 * day)]), quotes_frame([("a", day, 0)]), ["ticker"])
    assert answers(joined) == [(0, 1000, 2000, None, day)]
