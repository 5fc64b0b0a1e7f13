"""Sale conditions of stocks: the effect of each code, in every vendor's vocabulary."""

import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowtape
from flowtape.model.conditions import (
    BY_NAME,
    CONDITIONS,
    FAMILY_OF,
    OPTION_NAMES,
    STOCK_BY_CODE,
    UNSIDED,
    stock_conditions,
    without_official,
)
from flowtape.model.prints import CONDITION_NAMES, SETS_ENDS, SETS_RANGE, SIZE_SCALE, Condition, Timestamp
from flowtape.readers import Options, open_tapes

BOTH = SETS_RANGE | SETS_ENDS
AT_TEN = datetime(2026, 5, 12, 14, 0, tzinfo=UTC)
"""10:00 in New York."""
DOCS = Path(__file__).parent.parent / "docs" / "concepts/trade-classification.md"
STOCKS = [one for one in CONDITIONS if one.asset == "stock"]


def told(text, vocabulary="codes", at=AT_TEN, tape=None):
    """Return the condition, price flags and notes of one text."""
    notes = Counter()
    tapes = None if tape is None else pl.Series([tape])
    frame = stock_conditions(pl.Series([text]), pl.Series([at], dtype=Timestamp), notes, vocabulary, tapes)
    return *frame.row(0), notes


def test_names_of_conditions_are_only_added_at_the_end():
    assert CONDITION_NAMES[:4] == ("unknown", "REGULAR", "CANC", "OSEQ")
    assert CONDITION_NAMES[44:46] == ("EXHT", "STK_SWEEP")
    assert CONDITION_NAMES[-1] == "STK_DETAIL"
    # The table reader distinguishes conditions of options and stocks by their position.
    assert CONDITION_NAMES[: len(OPTION_NAMES)] == OPTION_NAMES
    assert len(CONDITION_NAMES) == 81 == len(set(CONDITION_NAMES))


def test_families_of_stocks_are_those_documented():
    families = {
        "regular": "@FITSKYE",
        "auction": "O56",
        "elsewhere": "1ABDWHP47VCNRX",
        "late": "LZGU23",
        "official": "MQ9",
    }
    found = {family: {one.code for one in STOCKS if one.family == family and one.code} for family in families}
    assert found == {family: set(codes) for family, codes in families.items()}
    mid = {one.name for one in STOCKS if one.family in ("auction", "elsewhere", "late", "official")}
    assert {name for name in UNSIDED if name in {one.name for one in STOCKS}} == mid


def test_the_documented_table_is_the_programs():
    lines = re.findall(r"^\|.*`STK_.*\|$", DOCS.read_text(), re.M)
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    assert [row[1].strip("`") for row in rows] == [one.name for one in STOCKS]
    words = {"no": False, "–": False, "yes": True, "outside hours": True}
    for code, quoted, _, family, side, high_low, last, massive, nanex in rows:
        name = quoted.strip("`")
        one = BY_NAME[name]
        assert one.code in [*code.replace("`", "").split(", "), code]
        assert family == one.family
        assert side == ("left out" if family == "official" else "`mid`" if name in UNSIDED else "by rule")
        assert words[high_low] == bool(one.price_flags & SETS_RANGE)
        assert words[last] == bool(one.price_flags & SETS_ENDS)
        assert tuple(map(int, re.findall(r"\d+", massive))) == one.massive
        assert tuple(map(int, re.findall(r"\d+", nanex))) == one.nanex


@pytest.mark.parametrize(
    ("text", "name", "flags"),
    [
        ("@ F I", "STK_SWEEP", 0), ("@FTI", "STK_SWEEP", 0), ("['@', 'I']", "STK_ODD_LOT", 0),
        ("@,F", "STK_SWEEP", BOTH),
        ("O", "STK_OPENING", BOTH), ("@O X", "STK_OPENING", BOTH), ("6 M", "STK_OFFICIAL_CLOSE", 0),
        ("4 I", "STK_DERIVED", 0), ("@4 W", "STK_AVERAGE", 0), ("Z", "STK_SOLD", SETS_RANGE),
        ("F Z", "STK_SOLD", SETS_RANGE),
        ("", "STK_REGULAR", BOTH), (" ", "STK_REGULAR", BOTH), (None, "STK_REGULAR", BOTH), ("[]", "STK_REGULAR", BOTH),
        ("unknown", "unknown", BOTH), ("STK_QCT", "STK_QCT", 0), ("CANC", "CANC", BOTH),
    ],
)  # fmt: skip
def test_codes_of_the_tapes_are_known(text, name, flags):
    assert told(text) == (name, flags, {})


@pytest.mark.parametrize(
    ("text", "vocabulary", "name", "note"),
    [
        ("12,37", "massive", "STK_EXTENDED", None),
        ("[14, 41]", "massive", "STK_SWEEP", None),
        ("15", "massive", "STK_OFFICIAL_CLOSE", None),
        ("16", "massive", "STK_OFFICIAL_OPEN", None),
        (
            "201",
            "massive",
            "unknown",
            "Massive condition '201' of stocks is not known: counted, side by rule",
        ),
        ("0,255,255,255,255", "nanex", "STK_REGULAR", None),
        ("115,51", "nanex", "STK_OFFICIAL_CLOSE", None),
        ("66", "nanex", "STK_OFFICIAL_OPEN", None),
        ("115,40", "nanex", "CANC", None),
        (
            "0,250",
            "nanex",
            "STK_REGULAR",
            "Nanex condition '250' of stocks is not known: counted, side by rule",
        ),
        ("J", "codes", "unknown", "sale condition 'J' of stocks is not known: counted, side by rule"),
        ("12", "codes", "unknown", "sale condition '12' of stocks is not known: counted, side by rule"),
        ("SLAN", "codes", "unknown", "sale condition 'SLAN' of stocks is not known: counted, side by rule"),
    ],
)
def test_vendor_numbers_and_unknown_codes_are_converted(text, vocabulary, name, note):
    assert told(text, vocabulary)[::2] == (name, {} if note is None else {note: 1})


def test_extended_hours_prints_set_prices_outside_the_session():
    open_, close = datetime(2026, 5, 12, 13, 30, tzinfo=UTC), datetime(2026, 5, 12, 20, 0, tzinfo=UTC)
    half_day_evening = datetime(2026, 11, 27, 18, 0, tzinfo=UTC)
    sunday = datetime(2026, 5, 10, 14, tzinfo=UTC)
    flags = [told("@ T", at=at)[1] for at in (open_, AT_TEN, close, half_day_evening, sunday)]
    assert flags == [0, 0, BOTH, BOTH, BOTH]
    assert told("@ T I", at=close)[1] == 0


def test_the_letter_b_differs_between_tapes():
    assert told("B")[:2] == told("B", tape="A")[:2] == ("STK_AVERAGE", 0)
    assert told("B", tape="C")[:2] == ("STK_BUNCHED", BOTH)


@settings(deadline=None)
@given(st.lists(st.sampled_from([*STOCK_BY_CODE]), min_size=1, max_size=3), st.randoms())
def test_the_strictest_of_several_codes_applies(codes, random):
    name, flags, notes = told(" ".join(codes))
    assert not notes
    random.shuffle(codes)
    assert told("@" + "".join(codes))[:2] == (name, flags)
    does = {"official": 0, "auction": 1, "elsewhere": 1, "late": 1, "regular": 2}
    names = [told(code)[0] for code in codes]
    assert does[FAMILY_OF[name]] == min(does[FAMILY_OF[one]] for one in names)
    expected = BOTH
    for one in names:
        expected &= 0 if one == "STK_EXTENDED" else BY_NAME[one].price_flags
    assert flags == expected


def test_an_empty_column_has_no_conditions():
    empty = stock_conditions(pl.Series([], dtype=pl.String), pl.Series([], dtype=Timestamp), Counter())
    assert dict(empty.schema) == {"condition": Condition, "price_flags": pl.UInt8}
    assert empty.height == 0


def test_names_of_unknown_codes_in_notes_are_bounded():
    notes = Counter()
    texts = pl.Series([str(number) for number in range(1000, 2000)])
    ts = pl.Series([AT_TEN] * 1000, dtype=Timestamp)
    stock_conditions(texts, ts, notes, "massive")
    assert (len(notes), sum(notes.values())) == (101, 1000)


THETADATA = (
    "symbol,trade_timestamp,quote_timestamp,sequence,ext_condition1,ext_condition2,ext_condition3,ext_condition4,"
    "condition,size,exchange,price,bid_size,bid_exchange,bid,bid_condition,ask_size,ask_exchange,ask,ask_condition"
)


def test_an_official_open_repeats_no_volume(tmp_path):
    def line(at, seq, condition, ext):
        times = f"2024-06-14 09:30:0{at}-04:00,2024-06-14 09:29:59.9-04:00"
        rest = "1345683,1,211.5,3,1,211.0,50,4,1,211.5,50"
        return f"AAPL,{times},{seq},{ext},255,255,255,{condition},{rest}"

    path = tmp_path / "aapl.csv"
    path.write_text("\n".join([THETADATA, line("0.8", 1, 62, 255), line("0.9", 2, 66, 255), ""]))
    [tape] = open_tapes([path], None, Options())
    prints = pl.concat([batch.prints for batch in tape.batches])
    assert tape.notes["rows of condition STK_OFFICIAL_OPEN (Q), left out: each repeats a print"] == 1
    bars = flowtape.minutes(flowtape.sign(prints))
    [(buy, sell, mid)] = bars.select("buy_volume", "sell_volume", "mid_volume").rows()
    assert (buy, sell, mid) == (0, 0, 1_345_683 * SIZE_SCALE["stock"])


def test_each_asset_of_a_table_has_its_own_codes(tmp_path):
    path = tmp_path / "both.csv"
    path.write_text(
        "ts,symbol,asset,expiry,right,strike,price,size,bid,ask,condition,seq\n"
        "2026-05-12T14:00:01Z,AAPL,stock,,,,10,5,9,10,O,1\n"
        "2026-05-12T14:00:02Z,AAPL,option,2026-06-19,C,200,10,5,9,10,F,2\n"
        "2026-05-12T14:00:03Z,AAPL,stock,,,,10,5,9,10,@ F I,3\n"
        "2026-05-12T14:00:04Z,AAPL,option,2026-06-19,C,200,10,5,9,10,@ F I,4\n"
        "2026-05-12T14:00:05Z,AAPL,stock,,,,10,5,9,10,M,5\n"
    )
    [tape] = open_tapes([path], None, Options())
    prints = pl.concat([batch.prints for batch in tape.batches])
    signed = flowtape.sign(prints)
    assert signed.select("seq", "condition", "side", "price_flags").rows() == [
        (1, "STK_OPENING", "mid", 3), (2, "OPEN", "mid", 3), (3, "STK_SWEEP", "buy", 0),
    ]  # fmt: skip
    assert [(one.row, one.reason) for one in tape.rejects.first] == [
        (4, "condition is not a condition of OPRA's: '@ F I'")
    ]


@pytest.mark.parametrize("word", ["NA", "nan", "None", "NULL", "<NA>", "n/a"])
def test_words_for_missing_values_are_no_condition(tmp_path, word):
    path = tmp_path / "both.csv"
    path.write_text(
        "ts,symbol,asset,expiry,right,strike,price,size,bid,ask,condition,seq\n"
        f"2026-05-12T14:00:01Z,AAPL,stock,,,,10,5,9,10,{word},1\n"
        f"2026-05-12T14:00:02Z,AAPL,option,2026-06-19,C,200,10,5,9,10,{word},2\n"
    )
    [tape] = open_tapes([path], None, Options())
    signed = flowtape.sign(pl.concat([batch.prints for batch in tape.batches]))
    assert signed.select("condition", "side").rows() == [("STK_REGULAR", "buy"), ("unknown", "buy")]
    assert not tape.notes


def test_an_official_close_in_a_frame_does_not_count():
    frame = pl.DataFrame(
        {
            "ts": [AT_TEN] * 2, "asset": "stock", "symbol": "AAPL", "root": "AAPL", "price": 10_000, "size": 5,
            "condition": ["STK_CLOSING", "STK_OFFICIAL_CLOSE"], "venue": "N", "seq": [1, 2],
        }
    )  # fmt: skip
    assert flowtape.minutes(flowtape.sign(frame))["trades"].to_list() == [1]
    notes = Counter()
    assert without_official(flowtape.sign(frame), notes).height == 1
    assert sum(notes.values()) == 1
