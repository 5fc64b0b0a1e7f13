"""Properties of texts, cached for the process."""

import gc

import polars as pl

from flowtape.model.categories import TextRanks


def long(texts: pl.Series) -> pl.Series:
    return (texts.str.len_bytes() > 3).cast(pl.UInt8) + 1


def test_each_text_is_judged_once() -> None:
    ranks, asked = TextRanks(), []

    def rank(texts: pl.Series) -> pl.Series:
        asked.append(sorted(texts))
        return long(texts)

    for column in (["ab", "abcd"], ["ab", None], ["abc", "ab"], [None], []):
        values = pl.Series(column, dtype=pl.Categorical)
        expected = max((1 + (len(text) > 3) for text in column if text is not None), default=0)
        assert ranks.greatest(values, rank) == expected
    assert asked == [["ab", "abcd"], ["ab", "abc"]]
    assert ranks.seen == 3


def test_category_numbers_outlive_their_columns() -> None:
    ranks = TextRanks()
    for number in range(20):
        values = pl.Series([f"{number}", "long text"][: 1 + number % 2], dtype=pl.Categorical)
        assert ranks.greatest(values, long) == 1 + number % 2
        del values
        gc.collect()
