"""Trade classification of a few prints."""

import pytest

from flowtape.errors import UsageError
from flowtape.orderflow.classify import RULES, sides, sign
from tapes import T0, frame, row


@pytest.mark.parametrize(
    ("changes", "side"),
    [
        ({"price": 13_000}, "buy"),
        ({"price": 11_000}, "sell"),
        ({"price": 12_000}, "mid"),
        ({"price": 12_001}, "buy"),
        ({"price": 13_000, "condition": "MFSL"}, "mid"),
        ({"price": 13_000, "bid": None, "ask": None}, "mid"),
        ({"price": 13_000, "bid": 14_000}, "mid"),
        ({"price": 13_000, "bid": 12_000, "ask": 12_000}, "buy"),
        ({"price": 13_000, "quote_ts": T0 + 1}, "mid"),
        ({"price": 13_000, "quote_ts": T0 - 86_400 * 10**9}, "mid"),
        ({"price": 13_000, "quote_ts": T0 - 3_600 * 10**9}, "buy"),
    ],
)
def test_the_quote_rule_compares_price_with_the_midpoint(changes: dict[str, object], side: str) -> None:
    assert sign(frame([row(**changes)]))["side"].to_list() == [side]


@pytest.mark.parametrize("rule", RULES)
def test_sides_equals_the_column_that_sign_adds(rule: str) -> None:
    prints = frame([row(ts=T0 + seq, seq=seq, price=11_000 + 137 * seq % 2_100) for seq in range(1, 40)])
    assert sides(prints, rule).equals(sign(prints, rule)["side"])


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="rule: 'x' is not one of quote, "):
        sides(frame([row()]), "x")
