import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtape.readers.tickers import symbol_of, symbols_of

SUFFIXES = [
    ("", "", ""), ("p", " PR", "-"), ("pA", " PRA", "-A"), (".A", " A", ".A"), ("p.WD", " PRWD", "-$"),
    (".WD", " WD", "$"), (".WS", " WS", "+"), (".WS.A", " WSA", "+A"), (".CL", " CL", "*"), (".A.CL", " ACL", ".A*"),
    ("p.CL", " PRCL", "-*"), ("pA.CL", " PRACL", "-A*"), ("pAw", " PRAWI", "-A#"), (".EC", " EC", "!"),
    (".PP", " PP", "@"), (".CV", " CV", "%"), (".CV.CL", " CVCL", "%*"), (".A.CV", " ACV", ".A%"),
    ("pA.CV", " PRACV", "-A%"), ("pA.WD", " PRAWD", "-A$"), ("r", " RT", "^"), (".U", " U", "="), ("w", " WI", "#"),
    ("rw", " RTWI", "^#"), ("pw", " PRWI", "-#"), (".Aw", " AWI", ".A#"), (".WSw", " WSWI", "+#"),
    (".TEST", " TEST", "~"),
]  # fmt: skip
"""Every kind of share in CTA's convention (with a dot or a slash), the CMS one and Nasdaq's (Nasdaq Trader)."""


@pytest.mark.parametrize("suffixes", SUFFIXES)
def test_a_share_has_one_symbol_in_every_convention(suffixes):
    cms = suffixes[1]
    wanted = "XYZ" + cms.replace(" ", ".")
    assert {symbol_of(f"XYZ{suffix}") for suffix in suffixes} == {wanted}
    assert symbol_of("XYZ" + suffixes[0].replace(".", "/")) == wanted
    # A symbol is read as itself, and is valid in queries.
    assert symbol_of(wanted) == wanted


def test_each_share_class_has_its_own_symbol():
    assert len({symbol_of(f"XYZ{suffixes[0]}") for suffixes in SUFFIXES}) == len(SUFFIXES)


@pytest.mark.parametrize(
    "name", ["", "X.", "X ", "AAPL  250221C00250000", "O:SPY", "AAPLx", "aapl", ".A", "1A", "A,B"]
)
def test_invalid_tickers_have_no_symbol(name):
    assert symbol_of(name) is None


@given(st.lists(st.from_regex(r"[A-Z]{1,5}([-^#+=.prw][A-Z]?)?", fullmatch=True) | st.none()))
def test_a_column_of_tickers_is_converted(tickers):
    column = pl.Series("t", tickers, pl.String)
    found = symbols_of(column)
    assert found.to_list() == [None if name is None else symbol_of(name) for name in tickers]
    assert all(name is None or re.fullmatch(r"[A-Z0-9.]+", name) for name in found)
