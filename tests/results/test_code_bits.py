"""The bits of tables and codecs are one field, whatever options they lie in."""

from __future__ import annotations

import csv
import io

import pytest

from halut.page.measurements import record_rows
from halut.replace.operator_registry import make_operator
from halut.results.code_bits import code_bits
from halut.results.export import as_csv
from halut.results.select import where
from halut.sites.find import Site
from tests.results.stored import sensitivity

LINEAR = Site("a", "linear", D=32, M=4)
ATTENTION = Site("b", "attention", D=8, M=4, groups=3, rows=8)
CASES = [
    ("tree", {"bits": 4}, 4),
    ("tree", {"bits": None}, 32),
    ("pq", {}, 8),
    ("integer", {"width": 6}, 6),
    ("integer", {"width": 6, "weight": {"width": 3}}, 3),
    ("integer", {"width": 6, "weight": None}, 32),
    ("mxint8", {}, 8),
    ("binary", {}, 1),
    ("binary_residual", {"levels": 3}, 3),
    ("lqnet", {"width": 2}, 2),
    ("prune", {"sparsity": 0.5}, 32),
    ("chain", {"codecs": ["prune", "log"], "sparsity": 0.5, "width": 5}, 5),
]


@pytest.mark.parametrize(("operator", "options", "bits"), CASES)
def test_bits_of_a_plan_s_options_and_of_those_that_were_typed(operator, options, bits):
    planned = make_operator(operator, **options).plan_options(LINEAR)
    assert code_bits(operator, planned) == bits
    assert code_bits(operator, options) == bits


def test_bits_of_a_run_s_options_by_dotted_key():
    options = {"width": 8, "weight.name": "same", "weight.width": 3, "activation.name": None}
    assert code_bits("integer", options) == 3


def test_attention_has_the_bits_of_its_factors():
    options = make_operator("integer", width=6).plan_options(ATTENTION)
    assert code_bits("integer", options) == 6


@pytest.mark.parametrize(
    ("operator", "options"),
    [(None, {}), ("keep", {}), ("another_s", {"width": 4}), ("integer", {"wide": 4})],
)
def test_what_is_not_known_has_none(operator, options):
    assert code_bits(operator, options) is None


def test_records_are_filtered_and_exported_by_bits():
    operators = (("tree", {"C": 4, "bits": 8}), ("integer", {"width": 4}), ("lqnet", {"width": 2}))
    records = [
        sensitivity("fc", 1.0, operator=name, options=make_operator(name, **o).plan_options(LINEAR))
        for name, o in operators
    ]
    assert [r.operator for r in where(records, ["bits<=4"])] == ["integer", "lqnet"]
    assert [r.operator for r in where(records, ["bits=8"])] == ["tree"]
    assert [row["bits"] for row in csv.DictReader(io.StringIO(as_csv(records)))] == ["8", "4", "2"]
    assert [row["bits"] for row in record_rows(records)] == [8, 4, 2]
