"""Budgets in words."""

from __future__ import annotations

import pytest

from halut.errors import HalutError
from halut.search.budget import budgets_of
from halut.search.command import asked


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("bytes:60k,120000", [{"bytes": 6e4}, {"bytes": 1.2e5}]),
        ("energy:1.5u", [{"energy": 1.5e-6}]),
        ("bytes:1M+bops:2G", [{"bytes": 1e6, "bops": 2e9}]),
        ("lost:1,1.0,2", [{"lost": 1.0}, {"lost": 2.0}]),
    ],
)
def test_what_budgets_mean(text, limits):
    assert [dict(budget.limits) for budget in budgets_of(text)] == limits


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("120000", "write RESOURCE:LIMIT; resources: bytes, table_bytes, operations"),
        ("byte:120000", "did you mean bytes"),
        ("bytes:many", "'many' is no number"),
        ("bytes:0", "above 0"),
        ("bytes:-4k", "above 0"),
        ("bytes:nan", "no number"),
        ("bytes:1,2+bops:3", "each has one limit"),
        ("bytes:1+bytes:2", "twice"),
        ("bytes:1+lost:2", "lost stands alone"),
        ("bytes:", "no number"),
    ],
)
def test_what_is_no_budget(text, says):
    with pytest.raises(HalutError) as refusal:
        budgets_of(text)
    assert says in str(refusal.value)


def test_words_of_the_command():
    budgets, minimize, others = asked(["data=digits", "budget=lost:2", "minimize=bops"])
    assert (str(budgets[0]), minimize, others) == ("lost <= 2", "bops", ["data=digits"])
    with pytest.raises(HalutError, match="give budget=RESOURCE:LIMIT"):
        asked(["data=digits"])
    with pytest.raises(HalutError, match="minimize=size"):
        asked(["budget=lost:2", "minimize=size"])
