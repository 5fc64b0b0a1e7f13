from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtape.server.errors import Refusal
from flowtape.server.params import Param, query_pairs, read_all, whole
from flowtape.server.queries import AT, SYMBOL

MINUTES = whole("minutes", "minutes", 240, 1, 10_080, "Minutes.")


def refused(param: Param, text: str) -> dict[str, str]:
    with pytest.raises(Refusal) as caught:
        param.read(text)
    assert caught.value.status == 400
    return {name: getattr(caught.value.body, name) for name in ("error", "message")}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 1), ("-5", 1), ("1", 1), ("+7", 7), ("007", 7), ("-0", 1), ("10080", 10_080), ("10081", 10_080),
        ("1" + "0" * 30, 10_080), ("-1" + "0" * 30, 1), ("9" * 50_000, 10_080), ("0" * 50_000 + "5", 5),
    ],
)  # fmt: skip
def test_minutes_are_clamped_however_long_they_are(text: str, value: int) -> None:
    assert MINUTES.read(text) == value


@pytest.mark.parametrize(
    "text", ["abc", "1.5", "", " 5", "5 ", "+", "-", "1e3", "0x10", "٣", "1_000", "--5", "5\n", "²"]
)
def test_minutes_must_be_a_whole_number(text: str) -> None:
    body = refused(MINUTES, text)
    assert body["error"] == "invalid_minutes"
    assert body["message"].startswith("minutes must be a whole number, not '")


@given(st.integers())
def test_any_integer_is_clamped(number: int) -> None:
    assert MINUTES.read(str(number)) == min(max(number, 1), 10_080)


def test_a_message_holds_a_short_safe_value() -> None:
    body = refused(MINUTES, "x" * 5000)
    assert body["message"] == f"minutes must be a whole number, not '{'x' * 64}…'."
    assert "\n" not in refused(MINUTES, "a\nb\x00")["message"]
    assert "ft_" not in refused(MINUTES, "ft_" + "a" * 32)["message"]


CLOSE = int(datetime(2016, 6, 1, 20, 15, tzinfo=UTC).timestamp()) * 10**9


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2016-06-01T20:15:00Z", CLOSE),
        ("2016-06-01t20:15:00z", CLOSE),
        ("2016-06-01T20:15Z", CLOSE),
        ("2016-06-01T20:15:00", CLOSE),
        ("2016-06-01 20:15:00+00:00", CLOSE),
        ("2016-06-01+20:15:00+00:00", CLOSE),
        ("2016-06-01T16:15:00-04:00", CLOSE),
        ("2016-06-01T16:15:00-0400", CLOSE),
        ("2016-06-01T16:15:00-04", CLOSE),
        ("2016-06-02T01:45:00+05:30", CLOSE),
        ("2016-06-02T01:45:00 05:30", CLOSE),
        ("2016-06-01T20:15:00.5Z", CLOSE + 500_000_000),
        ("2016-06-01T20:15:00.000000001Z", CLOSE + 1),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_instants(text: str, value: int) -> None:
    assert AT.read(text) == value


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2261, 1, 1)),  # noqa: DTZ001 - a zone is added
    st.integers(-23 * 60, 23 * 60),
)
def test_any_instant_of_any_zone(moment: datetime, offset: int) -> None:
    there = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    since = there - datetime(1970, 1, 1, tzinfo=UTC)
    assert AT.read(there.isoformat()) == since // timedelta(microseconds=1) * 1000


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2016-06-01", "2016-06-01T", "20:15", "2016-06-31T00:00:00Z", "2016-06-01T24:00:00Z",
        "2016-06-01T20:15:60Z", "2016-06-01T20:15:00.Z", "2016-06-01T20:15:00.0000000001Z",
        "2016-06-01T20:15:00+24:00", "2016-06-01T20:15:00+05:60", "2016-06-01T20:15:00ZZ",
        "1969-12-31T23:59:59Z", "2262-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59", "1464812100", "２016-06-01T20:15:00Z",
    ],
)  # fmt: skip
def test_invalid_instants_are_refused(text: str) -> None:
    body = refused(AT, text)
    assert body["error"] == "invalid_at"
    assert f"'{text}'" in body["message"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("vix", "VIX"), ("^VIX", "VIX"), ("^vix", "VIX"), ("SPXW", "SPXW"), ("spxw", "SPXW"), ("M1", "M1"),
        ("BRK.B", "BRK.B"), ("BRK/B", "BRK/B"), ("A" * 32, "A" * 32), ("es=f", "ES=F"), ("/ES", "/ES"),
        ("BTC-USD", "BTC-USD"), ("X:BTCUSD", "X:BTCUSD"), ("ABC+", "ABC+"), ("abc^", "ABC^"), ("$$", "$$"),
    ],
)  # fmt: skip
def test_symbols(text: str, value: str) -> None:
    assert SYMBOL.read(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "^",
        "^^VIX",
        "A" * 33,
        "A B",
        "ſpy",
        "straße",
        "SPY\n",
        "é",
        "%",
        "{}",
        'A"',
        "A\\",
        "A,B",
        "<A>",
        "A\x00",
    ],
)
def test_invalid_symbols_are_refused(text: str) -> None:
    assert refused(SYMBOL, text)["error"] == "invalid_symbol"


def test_arguments_are_decoded_and_a_plus_stays() -> None:
    assert query_pairs(b"a=1&&b=%2B5&c=+5&%64=%20x&e&f=g=h&i=%ff") == [
        ("a", "1"), ("b", "+5"), ("c", "+5"), ("d", " x"), ("e", ""), ("f", "g=h"), ("i", "\ufffd"),
    ]  # fmt: skip


def test_an_argument_given_twice_is_refused_and_an_unknown_one_ignored() -> None:
    params = (SYMBOL, MINUTES)
    found = read_all(params, {"symbol": "spy"}, [("other", "1"), ("other", "2")])
    assert found == {"symbol": ("spy", "SPY")}
    with pytest.raises(Refusal) as caught:
        read_all(params, {"symbol": "SPY"}, [("minutes", "5"), ("minutes", "6")])
    assert caught.value.body.error == "invalid_minutes"
    assert caught.value.body.message == "minutes is given 2 times ('5', '6'); give it once."
