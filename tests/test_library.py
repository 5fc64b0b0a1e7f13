"""The library: a store's answers as frames beside the server's, and what it makes of its arguments."""

import io
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

import flowtape
from flowtape import errors
from flowtape.pipeline.ingest import Request, ingest
from flowtape.pipeline.ingestor import Ingestor
from flowtape.simulation.tape import Market, write_tape
from serving import kept
from stores import name_of

DAY = date(2026, 5, 12)
CLOSE = datetime(2026, 5, 12, 20, tzinfo=UTC)
EXPIRY = date(2026, 5, 15)
SPY, ALL = ("SPY",), ()


def ns(instant):
    return int(instant.timestamp()) * 10**9


@pytest.fixture(scope="module")
def tape(tmp_path_factory):
    path = tmp_path_factory.mktemp("tape") / "day.parquet"
    write_tape(Market(seed=4, underlyings=6), DAY, path, assets="both", rows=30_000)
    return path


@pytest.fixture(scope="module")
def answers(tape, tmp_path_factory):
    """A server's answers in Arrow, and afterwards its store by the library: (answers by question, the store)."""
    folder = tmp_path_factory.mktemp("store")
    with kept(folder, ns(CLOSE + timedelta(days=30)), engine="duckdb") as server:
        (outcome,) = ingest(server.ingestor, Request(files=[str(tape)]))
        assert outcome.added == 30_000
        questions = [(f"/v1/flow/{path}", {**asked, "format": "arrow"}) for path, asked, *_ in QUESTIONS]
        found = server.ask(*questions)
        found += server.ask(
            ("/v1/flow/options/SPY/cumulative", {"minutes": "390", "at": "2026-05-12T20:00:00Z"})
        )
    for (path, _), response in zip(questions, found, strict=False):
        assert response.status_code == 200, (path, response.text)
    with flowtape.open(folder / "x.duckdb") as store:
        yield found, store


AT = {"at": "2026-05-12T20:00:00Z"}
QUESTIONS = [
    ("options/SPY/cumulative", {"minutes": "390", **AT}, "cumulative", SPY, {"minutes": 390, "at": CLOSE}),
    ("options/SPY/cumulative", {"minutes": "390", "right": "put", **AT}, "cumulative", SPY,
     {"minutes": 390, "at": CLOSE, "right": "put"}),
    ("options/SPY/cumulative", {"minutes": "390", "strike": "400..600.5", "measure": "premium", **AT}, "cumulative",
     SPY, {"minutes": 390, "at": CLOSE, "strike": (400, Decimal("600.5")), "measure": "premium"}),
    ("options/SPY/cumulative", {"minutes": "390", "dte": "0..7", "anchor": "session", **AT}, "cumulative", SPY,
     {"minutes": 390, "at": CLOSE, "dte": (0, 7), "anchor": "session"}),
    ("options/SPY/cumulative", {"minutes": "390", "side": "buy", "exclude": "multileg,cross", **AT}, "cumulative", SPY,
     {"minutes": 390, "at": CLOSE, "side": "buy", "exclude": ["multileg", "cross"]}),
    ("options/SPY/cumulative", {"minutes": "390", "split": "right", "measure": "directional", **AT}, "cumulative", SPY,
     {"minutes": 390, "at": CLOSE, "split": "right", "measure": "directional"}),
    ("options/SPY/cumulative", {"from": "2026-05-12T14:00:00Z", "to": "2026-05-12T15:00:00Z"}, "cumulative", SPY,
     {"from_": "2026-05-12T14:00:00Z", "to": datetime(2026, 5, 12, 15, tzinfo=UTC)}),
    ("options/SPY/history", {"minutes": "60", "expiry": "2026-05-15..", "include": "quality", **AT}, "history", SPY,
     {"minutes": 60, "at": CLOSE, "expiry": (EXPIRY, None), "include": "quality"}),
    ("stocks/SPY/history", {"minutes": "60", **AT}, "history", SPY, {"minutes": 60, "at": CLOSE, "asset": "stock"}),
    ("options/SPY/summary", {"right": "C", **AT}, "summary", SPY, {"at": CLOSE, "right": "C"}),
    ("options/SPY/divergence", {"lookback": "20", **AT}, "divergence", SPY, {"lookback": 20, "at": CLOSE}),
    ("options/SPY/sessions", {"days": "1", **AT}, "sessions", SPY, {"days": 1, "at": CLOSE}),
    ("options/SPY/recent", {"limit": "20", **AT}, "recent", SPY, {"limit": 20, "at": CLOSE}),
    ("options/SPY/blocks", {"minSize": "5", **AT}, "blocks", SPY, {"min_size": 5, "at": CLOSE}),
    ("options/leaderboard", {"n": "3", "right": "C", **AT}, "leaderboard", ALL, {"n": 3, "right": "C", "at": CLOSE}),
    ("stocks/outliers", {"minTrades": "1", "windowMinutes": "390", **AT}, "outliers", ALL,
     {"min_trades": 1, "window_minutes": 390, "at": CLOSE, "asset": "stock"}),
    ("options/drift", {"limit": "4", **AT}, "drift", ALL, {"limit": 4, "at": CLOSE}),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(QUESTIONS)), ids=[f"{one[2]}-{one[1]}" for one in QUESTIONS])
def test_each_method_gives_the_answer_of_the_server(answers, number):
    found, store = answers
    expected = pl.read_ipc_stream(io.BytesIO(found[number].content))
    expected = expected.rename(lambda name: re.sub("[A-Z]", lambda word: f"_{word[0].lower()}", name))
    _, _, method, symbol, arguments = QUESTIONS[number]
    answer = getattr(store, method)(*symbol, **arguments)
    assert answer.height > 0
    assert answer.columns == expected.columns
    assert answer.equals(expected.cast(answer.schema))


def test_a_line_has_the_numbers_of_the_servers_json(answers):
    found, store = answers
    points = found[-1].json()["points"]
    line = store.cumulative("spy", minutes=390, at="2026-05-12T20:00:00Z")
    assert line["ts"].dt.strftime("%Y-%m-%dT%H:%M:%SZ").to_list() == [point["ts"] for point in points]
    for column, field in (("net_volume", "netVolume"), ("cumulative", "cumulative"), ("vwap", "vwap")):
        assert line[column].to_list() == [point[field] for point in points]


def test_fixed_prices_are_exact_integers(answers):
    _, store = answers
    fixed, usd = (store.recent("SPY", at=CLOSE, price_type=kind) for kind in ("fixed", "float"))
    assert {fixed.schema[name] for name in ("price", "bid", "ask", "strike")} == {pl.Int64()}
    assert [price / 10_000 for price in fixed["price"]] == usd["price"].to_list()
    prints = store.sql("SELECT price FROM prints WHERE symbol = 'SPY' AND asset = 'option'")
    assert set(usd["price"]) <= set(prints["price"].cast(pl.Float64))
    with pytest.raises(flowtape.UsageError, match="price_type: 'cents' is neither float nor fixed"):
        store.recent("SPY", at=CLOSE, price_type="cents")


def test_a_span_of_many_pages_is_one_frame(answers):
    _, store = answers
    line = store.cumulative("SPY", from_="2026-04-01T00:00:00Z", to="2026-06-01T00:00:00Z")
    day = store.cumulative("SPY", minutes=1440, at="2026-05-13T04:00:00Z")
    assert line.equals(day)


def test_sql_reads_the_documented_views(answers):
    _, store = answers
    total = store.sql(
        "SELECT sum(trades) AS trades FROM minute_bars WHERE symbol = 'SPY' AND asset = 'option';"
    )
    assert (
        total["trades"].item() == store.summary("SPY", at=CLOSE + timedelta(hours=4))["total_trades"].item()
    )
    for view in ("prints", "minutes", "minute_bars", "removals", "sources"):
        assert store.sql(f"SELECT * FROM {view} LIMIT 1").width > 3
    for wrong, message in (
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM nothing", "nothing"),
        ("DELETE FROM print_rows", "takes one statement that reads, such as SELECT, not 'DELETE"),
        ("COPY (SELECT 1) TO 'x.csv'", "takes one statement that reads"),
        ("SELECT 1; SELECT 2", "takes one statement that reads"),
        ("", "takes one statement that reads"),
    ):
        with pytest.raises(flowtape.UsageError, match=message):
            store.sql(wrong)
    with pytest.raises(flowtape.UsageError, match="query: expected a text, not int"):
        store.sql(5)


def test_a_store_says_what_it_holds(answers):
    _, store = answers
    assert "SPY" in store.symbols()
    oldest, newest = store.span()
    assert oldest.date() == newest.date() == DAY
    assert store.simulated("SPY")
    assert not store.simulated("NONE")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"at": datetime(2026, 5, 12, 15)}, "at: 2026-05-12 15:00:00 has no time zone; give it one"),  # noqa: DTZ001
        ({"at": date(2026, 5, 12)}, "at must be an instant as 2016-06-01T20:15:00Z, not '2026-05-12'"),
        ({"at": 5}, "at must be an instant"),
        ({"minutes": "many"}, "minutes must be a whole number, not 'many'"),
        ({"minutes": True}, "minutes: expected a text, number, date or range, not bool True"),
        ({"right": "X"}, "right must be one of C, P, not 'X'"),
        ({"expiry": "15.5.2026"}, "expiry must be a date as YYYY-MM-DD, not '15.5.2026'"),
        ({"strike": (600, 500)}, r"strike must be a range that begins before it ends, not '600\.\.500'"),
        ({"strike": (1, 2, 3)}, r"strike: \(1, 2, 3\) is not a range \(first, last\)"),
        ({"exclude": ["nonsense"]}, "exclude must be a list of"),
        ({"asset": "bond"}, "asset: 'bond' is neither option nor stock"),
        ({"asset": "stock", "right": "C"}, "right: 'C' is given, but /v1/flow/stocks/{symbol}/cumulative has no such"),
        ({"from_": "2026-05-12T15:00:00Z", "minutes": 5}, "minutes cannot be given together with from"),
        ({"at": object()}, "at: expected a text, number, date or range, not object"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(answers, arguments, message):
    _, store = answers
    with pytest.raises(flowtape.UsageError, match=message):
        store.cumulative("SPY", **arguments)


def test_a_text_that_is_no_symbol_is_named(answers):
    _, store = answers
    with pytest.raises(flowtape.UsageError, match=r"symbol must be a symbol such as SPY.*, not 'S P'"):
        store.cumulative("S P")
    with pytest.raises(flowtape.UsageError, match="symbol: expected a text, not int 5"):
        store.cumulative(5)


def test_an_empty_answer_says_when_the_newest_print_is(answers):
    _, store = answers
    with pytest.warns(UserWarning, match=r"SPY: no print fits; the newest print .* is of 2026-05-12T\d\d:"):
        assert store.cumulative("SPY").is_empty()
    with pytest.warns(UserWarning, match="ZZZ: the store has no print of this stock"):
        assert store.history("ZZZ", asset="stock").is_empty()


def test_what_is_no_store_is_refused_by_name(tmp_path):
    for wrong, message in (
        (tmp_path / "none.duckdb", "store: there is no file .*none.duckdb"),
        (tmp_path, "is a folder, not a store's file"),
        (5, "store: expected a path or an address, not int 5"),
        (None, "store: expected a path or an address, not NoneType"),
    ):
        with pytest.raises(flowtape.UsageError, match=message):
            flowtape.open(wrong)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x").write_text("nothing that a database has")
    with pytest.raises(flowtape.StoreError, match="cannot be opened as a store"):
        flowtape.open(tmp_path / "x")


def test_the_library_has_every_error_at_the_top():
    named = {name for name, one in vars(errors).items() if isinstance(one, type)}
    assert named <= set(flowtape.__all__)
    assert all(getattr(flowtape, name) is getattr(errors, name) for name in named)


# files


def test_read_takes_a_pattern_a_folder_a_list_and_a_path(tape, tmp_path):
    for name in ("a.parquet", "b.parquet"):
        write_tape(Market(seed=4, underlyings=2), DAY, tmp_path / name, rows=500)
    (tmp_path / ".hidden").write_text("left out")
    both = flowtape.read([tmp_path / "a.parquet", str(tmp_path / "b.parquet")])
    assert both.height == 1000
    for other in (tmp_path, str(tmp_path), f"{tmp_path}/*.parquet", Path(tmp_path) / "?.parquet"):
        assert flowtape.read(other).equals(both)
        assert flowtape.read_minutes(other).height > 0
    assert flowtape.read(tmp_path / "a.parquet").height == 500


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ([], "path: names no file"),
        ("none-*.csv", r"path: no file matches 'none-\*.csv'"),
        (5, "path: expected a path or several, not int 5"),
        (None, "path: expected a path or several, not NoneType None"),
        ([5], "path: expected a path, not int 5"),
        (b"x.csv", "path: expected a path or several, not bytes"),
    ],
)
def test_what_names_no_file_is_refused_by_name(path, message):
    with pytest.raises(flowtape.UsageError, match=message):
        flowtape.read(path)


def test_an_empty_folder_is_refused_by_name(tmp_path):
    with pytest.raises(flowtape.UsageError, match=r"path: the folder .* has no file"):
        flowtape.read(tmp_path)


# frames

LEAST = pl.DataFrame(
    {
        "ts": [datetime(2026, 3, 2, 14, 30, tzinfo=UTC)] * 2,
        "symbol": ["spy", "spy"],
        "price": [5.99, 5.91],
        "size": [3, 1],
        "bid": [5.90, 5.90],
        "ask": [6.02, 6.02],
    }
)


def test_a_frame_needs_time_symbol_price_and_size():
    bars = flowtape.minutes(flowtape.classify(LEAST.with_columns(size=pl.col("size").cast(pl.Float64))))
    assert bars["asset"].unique().to_list() == ["stock"]
    assert flowtape.cumulative(bars, "SPY", asset="stock")["cumulative"].to_list() == [2]
    options = LEAST.with_columns(expiry=date(2026, 3, 20), right=pl.lit("call"), strike=500.0)
    bars = flowtape.minutes(flowtape.classify(options))
    line = flowtape.cumulative(bars, "SPY", expiry="2026-03-20", at="2026-03-02T14:31:00Z")
    assert line["cumulative"].to_list() == [2]
    with pytest.raises(flowtape.UsageError, match="prints lack the column size"):
        flowtape.classify(LEAST.drop("size"))


def test_sign_is_the_earlier_name_of_classify():
    assert flowtape.sign(LEAST, "lr").equals(flowtape.classify(LEAST, "lr"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"expiry": "20 March"}, "expiry must be a date as YYYY-MM-DD, not '20 March'"),
        ({"at": "noon"}, "at must be an instant as 2016-06-01T20:15:00Z, not 'noon'"),
        ({"at": datetime(2026, 3, 2)}, "at: 2026-03-02 00:00:00 has no time zone; give it one"),  # noqa: DTZ001
        ({"symbol": 5}, "symbol: expected a text, not int 5"),
    ],
)
def test_a_wrong_argument_of_a_frame_is_named(arguments, message):
    bars = flowtape.minutes(flowtape.classify(LEAST))
    with pytest.raises(flowtape.UsageError, match=message):
        flowtape.cumulative(bars, **{"symbol": "SPY", **arguments})


# pictures


def test_a_line_is_drawn_as_the_report_draws_it(answers):
    pytest.importorskip("matplotlib")
    _, store = answers
    line = store.cumulative("SPY", minutes=390, at=CLOSE)
    figure = flowtape.plot(line, store.divergence("SPY", minutes=390, at=CLOSE), title="SPY")
    above, below, price = figure.axes
    assert above.get_title(loc="left") == "SPY"
    assert above.lines[0].get_ydata().tolist() == line["cumulative"].to_list()
    assert len(below.patches) == line.height
    assert price.lines[0].get_ydata().min() > 1
    out = io.BytesIO()
    figure.savefig(out, format="png")
    assert out.getvalue().startswith(b"\x89PNG")
    week = store.cumulative("SPY", from_="2026-05-10T00:00:00Z", to="2026-05-14T00:00:00Z", measure="premium")
    assert flowtape.plot(week.to_pandas()).axes[1].get_ylabel() == "net premium, USD"
    assert flowtape.plot(line.clear()).axes


def test_what_is_no_line_is_refused_by_name():
    pytest.importorskip("matplotlib")
    for wrong, message in (
        (pl.DataFrame({"ts": [CLOSE]}), "line: the frame lacks the column cumulative, net_volume"),
        (pl.DataFrame({"ts": ["x"], "cumulative": [1], "net_volume": [1]}), "line: the column ts must hold date-times"),
        (pl.DataFrame({"ts": [CLOSE.replace(tzinfo=None)], "cumulative": [1], "net_volume": [1]}), "has no time zone"),
        ("SPY", "expected a Polars or pandas frame, not str"),
    ):  # fmt: skip
        with pytest.raises(flowtape.UsageError, match=message):
            flowtape.plot(wrong)


def test_a_clickhouse_store_gives_the_same_frames(answers, tape, tmp_path):
    pytest.importorskip("chdb")
    _, store = answers
    name = name_of(tmp_path / "x", "chdb")
    made = flowtape.open_store(name)
    ingest(Ingestor(made), Request(files=[str(tape)]))
    made.close()
    with flowtape.open(name) as other:
        for asked in ({"right": "C"}, {"dte": (0, 7), "measure": "premium"}):
            line = other.cumulative("SPY", minutes=390, at=CLOSE, **asked)
            assert line.equals(store.cumulative("SPY", minutes=390, at=CLOSE, **asked))
        assert other.sql("SELECT count() AS n FROM prints;")["n"].item() == 30_000
        for wrong in ("DROP TABLE prints", "SELEC 1"):
            with pytest.raises(flowtape.StoreError, match="Syntax error"):
                other.sql(wrong)


def test_many_readers_open_one_store(answers, tmp_path, tape):
    store = flowtape.open_store(tmp_path / "x.duckdb")
    ingest(Ingestor(store), Request(files=[str(tape)]))
    store.close()
    with flowtape.open(tmp_path / "x.duckdb") as one, flowtape.open(str(tmp_path / "x.duckdb")) as other:
        assert one.symbols() == other.symbols()
