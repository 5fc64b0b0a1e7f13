"""The choice of a format, and the equality of its numbers with JSON."""

import io
import json
from collections.abc import Iterator

import httpx
import polars as pl
import pytest

from flowtape.queries import Summary
from flowtape.server.formats import FORMATS, MEDIA, Format, accepted, writer
from flowtape.server.routes import ROUTES
from oracle import MINUTE
from serving import Kept, kept
from tapes import ROW, SECOND, STOCK, T0

from .conftest import PATH, World

ROWS = ("points", "buckets", "trades", "blocks", "bars", "outliers", "drift")
ABSENT = ("medianQuoteAgeMs", "z", "meanCumulative")


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", "json"), ("*/*", "json"), ("application/json", "json"), ("text/csv", "csv"), ("TEXT/CSV", "csv"),
        ("application/vnd.apache.arrow.stream", "arrow"), ("application/vnd.apache.parquet", "parquet"),
        ("text/*", "csv"), ("application/*", "json"), ("text/csv, application/json", "json"),
        ("text/csv, application/json;q=0.9", "csv"), ("text/csv;q=0.5,*/*;q=0.4", "csv"),
        ("text/csv;q=0.4,*/*;q=0.5", "json"), ("application/json;q=0, */*", "csv"), ("text/csv;q=0", "json"),
        ("text/csv; charset=utf-8; q=0.7", "csv"), ("application/json, text/plain, */*", "json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "json"),
        ("image/png", "json"), ("text/csv;q=x", "json"), (";;,/", "json"), ("\xff", "json"),
    ],
)  # fmt: skip
def test_the_accept_header_chooses_the_format(accept: str, wanted: Format) -> None:
    assert accepted(accept.encode("latin-1")) == wanted


def test_the_format_parameter_overrides_the_accept_header(world: World) -> None:
    tags = set()
    for name in FORMATS:
        by_header = world.get(headers={"Accept": MEDIA[name]})
        by_argument = world.get(params={"format": name}, headers={"Accept": "text/csv"})
        assert by_header.headers["Content-Type"] == by_argument.headers["Content-Type"] == MEDIA[name]
        assert by_header.content == by_argument.content
        assert by_header.headers["Vary"] == "Accept, Accept-Encoding"
        tags.add(by_header.headers["ETag"].removeprefix("W/"))
        packed = by_header.headers.get("Content-Encoding") == "gzip"
        assert packed == (name != "parquet")
        condition = {"Accept": MEDIA[name], "If-None-Match": by_header.headers["ETag"]}
        assert world.get(headers=condition).status_code == 304
        assert world.get(headers={"If-None-Match": by_header.headers["ETag"]}).status_code == (
            304 if name == "json" else 200
        )
    assert len(tags) == 4
    assert world.get(PATH + "?format=xml").json()["error"] == "invalid_format"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with kept(tmp_path_factory.mktemp("formats"), T0 + 20 * MINUTE) as made:
        for base, size in ((ROW, 100), (STOCK, 10_000)):
            for symbol in ("SPY", "AAPL"):
                made.take(
                    [
                        base
                        | {
                            "ts": T0 + n * 7 * SECOND + n * 1_000_000,
                            "seq": n,
                            "symbol": symbol,
                            "root": symbol,
                        }
                        | {"price": 13_000 if n % 3 else 11_000, "size": size if n % 10 == 0 else 1 + n}
                        for n in range(100)
                    ],
                    f"{base['asset']} {symbol}",
                )
        yield made


def frames(found: dict[Format, httpx.Response]) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    return (
        pl.read_csv(found["csv"].content, try_parse_dates=False, infer_schema_length=None),
        pl.read_ipc_stream(io.BytesIO(found["arrow"].content)),
        pl.read_parquet(io.BytesIO(found["parquet"].content)),
    )


def rows_of(body: dict[str, object]) -> list[dict[str, object]]:
    if "buyers" in body:
        return [{"list": name} | row for name in ("buyers", "sellers") for row in body[name]]  # type: ignore[attr-defined]
    if "sessions" in body:
        days = body["sessions"]
        return [{"date": day["date"]} | part for day in days for part in day["parts"]]  # type: ignore[attr-defined]
    return next((body[name] for name in ROWS if name in body), [body])  # type: ignore[return-value]


def flat(row: dict[str, object]) -> dict[str, object]:
    """Return a row with its `families` as columns of a table."""
    families = row.get("families", {})
    assert isinstance(families, dict)
    plain = {name: value for name, value in row.items() if name != "families"}
    return plain | {f"family_{name}": value for name, value in families.items()}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path.removeprefix("/v1/flow/"))
def test_every_format_has_the_same_numbers(server: Kept, route: object) -> None:
    path = route.path.replace("{symbol}", "SPY")  # type: ignore[attr-defined]
    takes = {param.name for param in route.params}  # type: ignore[attr-defined]
    asked = {name: text for name, text in (("resolution", "1m"), ("include", "quality")) if name in takes}
    responses = server.ask(*((path, asked | {"format": name}) for name in FORMATS))
    found: dict[Format, httpx.Response] = dict(zip(FORMATS, responses, strict=True))
    rows = [flat(row) for row in rows_of(json.loads(found["json"].content))]
    csv, arrow, parquet = frames(found)
    if not rows and path.endswith("turning-points"):
        # The options' line turns only at its ends.
        assert csv.is_empty()
        return
    assert rows
    assert [name for name in csv.columns if name in rows[0]] == [
        name for name in rows[0] if name in csv.columns
    ]
    assert set(rows[0]) <= set(csv.columns)
    assert arrow.equals(parquet)
    assert csv.columns == arrow.columns
    for row, written, typed in zip(rows, csv.to_dicts(), arrow.to_dicts(), strict=True):
        for name, value in row.items():
            assert written[name] == value, name
            if not isinstance(value, str):
                assert typed[name] == value, name
        more = {name for name in written if name not in row}
        assert all(written[name] == (None if name in ABSENT else 0) for name in more)
    instants = [name for name, dtype in arrow.schema.items() if dtype == pl.Datetime("ns", "UTC")]
    for name in instants:
        texts = arrow[name].dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_list()
        assert [text.replace(".000Z", "Z") for text in texts] == [
            str(row[name]).replace(".000Z", "Z") for row in rows
        ]
    file = found["csv"].headers["Content-Disposition"]
    name = path.rpartition("/")[2]
    of = "SPY" if "SPY" in path else path.split("/")[3]
    assert file == f'inline; filename="{of}-{name}.csv"'
    assert "Content-Disposition" not in found["json"].headers


@pytest.mark.parametrize("name", FORMATS)
def test_a_symbol_without_prints_is_a_table_without_rows(server: Kept, name: Format) -> None:
    asked = {"format": name}
    found = server.ask(*((f"/v1/flow/{asset}s/NONE/{route}", asked) for asset in ("option", "stock")
                         for route in ("recent", "blocks", "history", "cumulative")))  # fmt: skip
    for response in found:
        assert response.status_code == 200
        if name == "csv":
            assert pl.read_csv(response.content).height == 0
            assert response.text.startswith("ts,")


def test_a_cursor_is_in_a_header_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    start = T0 - T0 % MINUTE
    with kept(tmp_path_factory.mktemp("pages"), start + 10_100 * MINUTE) as made:
        made.take([ROW | {"ts": start + n * MINUTE, "seq": n} for n in range(10_090)])
        path = "/v1/flow/options/SPY/cumulative"
        begin = {"from": "2026-03-01T00:00Z"}
        first, table = made.ask((path, begin), (path, begin | {"format": "csv"}))
        cursor = first.json()["nextCursor"]
        assert first.headers["X-Next-Cursor"] == table.headers["X-Next-Cursor"] == cursor
        assert "X-Next-Cursor" in first.headers["Access-Control-Expose-Headers"]
        (rest,) = made.ask((path, begin | {"cursor": cursor}))
        assert "X-Next-Cursor" not in rest.headers
        points = first.json()["points"] + rest.json()["points"]
        assert [len(found.json()["points"]) for found in (first, rest)] == [10_080, 10]
        assert len({point["ts"] for point in points}) == 10_090


def test_csv_is_compressed_too(server: Kept) -> None:
    (found,) = server.ask(("/v1/flow/options/SPY/recent", {"format": "csv", "limit": "500"}))
    assert found.headers["Content-Encoding"] == "gzip"
    assert found.text.startswith("ts,instrumentId,expiry,strike,right,price,size,side,isBlock,bid,ask\n")


@pytest.mark.parametrize("symbol", ["=1+1", "+X", "-X", "@X", "\tX", "\rX"])
def test_csv_cells_are_never_formulas(symbol: str) -> None:
    body = Summary(
        symbol=symbol, total_trades=1, buy_volume=0, sell_volume=3, mid_volume=0, net_volume=-3,
        biggest_single_trade=3, last_trade_utc="2026-03-02T14:30:00Z",
    )  # fmt: skip
    made = writer("csv")(body)
    assert pl.read_csv(io.BytesIO(made))["symbol"].to_list() == ["'" + symbol]
    assert pl.read_csv(io.BytesIO(made))["netVolume"].to_list() == [-3]
    named = writer("csv")(
        Summary(**{name: getattr(body, name) for name in body.__struct_fields__} | {"symbol": "A-B"})
    )
    assert pl.read_csv(io.BytesIO(named))["symbol"].to_list() == ["A-B"]
