"""Records selected and sorted by their fields."""

from __future__ import annotations

import pytest

from halut.errors import HalutError
from halut.results.mixed import mixed
from halut.results.select import fields_of, sort_by, text_of, value_of, where
from tests.results.stored import RECORDS, sensitivity

CONV1, STACK1, STACK2, FC = RECORDS


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("C=16", [CONV1, STACK1]),
        ("C=8,16", [CONV1, STACK1, STACK2]),
        ("options.C=8", [STACK2]),
        ("halut.C=8", [STACK2]),
        ("C != 16", [STACK2, FC]),
        ("C=null", [FC]),
        ("lost<1.5", [STACK1]),
        ("lost<=1.5", [STACK1, STACK2]),
        ("figures.lost>=1.5", [CONV1, STACK2]),
        ("site=stack1.*,fc", [STACK1, STACK2, FC]),
        ("activation.width==8", [CONV1, STACK1]),
        ("operator=pq", [FC]),
        ("commit=c0ff*", RECORDS),
        ("weights=bbbb", []),
    ],
)
def test_conditions(condition, expected):
    assert where(RECORDS, [condition]) == expected


def test_conditions_hold_together():
    assert where(RECORDS, ["C=16", "lost<1"]) == [STACK1]


def test_lists_and_truth_are_compared_as_they_are_typed():
    record = sensitivity("fc", 1.0, settings={"policy.keep": ["a", "b"], "baseline": False})
    assert where([record], ["policy.keep=[a, b]", "baseline=false"]) == [record]
    assert where([record], ["policy.keep=[a]"]) == where([record], ["baseline=0"]) == []
    assert text_of({"a": [1, None, True, 0.5]}) == "{a:[1,null,true,0.5]}"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("lots=1", r"unknown field 'lots'; did you mean lost\? choose one of: kind, model, .*lost"),
        ("C", "'C' is no condition NAME=VALUE; comparisons: != <= >= = < >"),
        ("site<fc", "'site<fc': < compares numbers, and 'fc' is none"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_line(condition, message):
    with pytest.raises(HalutError, match=message):
        where(RECORDS, [condition])


def test_sorting_puts_what_lacks_the_field_last():
    assert sort_by(RECORDS, "lost") == [STACK1, STACK2, CONV1, FC]
    assert sort_by(RECORDS, "lost", reverse=True) == [CONV1, STACK2, STACK1, FC]
    assert [each.site for each in sort_by(RECORDS, "site")] == sorted(r.site for r in RECORDS)
    with pytest.raises(HalutError, match="unknown field 'loss'"):
        sort_by(RECORDS, "loss")


def test_a_figure_goes_before_a_field_of_the_context_with_its_name():
    record = sensitivity("fc", 1.0, figures={"seconds": 1}, context={"seconds": 2})
    fields = fields_of(record)
    assert (value_of(fields, "seconds"), value_of(fields, "context.seconds")) == (1, 2)


def test_other_networks_and_other_data_are_named():
    assert mixed(RECORDS) == []
    other = sensitivity("fc", 1.0, network={"model": "resnet8", "options": {}, "weights": "bbbb"})
    fewer = sensitivity("fc", 1.0, data={**CONV1.data, "samples": 100})
    run = sensitivity("fc", 1.0, kind="run", data={**CONV1.data, "split": "test"})
    assert mixed([*RECORDS, run]) == []
    gradients = sensitivity("fc", 1.0, score="fisher", data={**CONV1.data, "split": "train"})
    assert mixed([*RECORDS, gradients]) == []  # other data by its nature
    network, data = mixed([*RECORDS, other, fewer])
    assert network.startswith("mixed: sensitivity, measured: 2 networks: ")
    assert "2 networks: resnet8 (weights aaaa); resnet8 (weights bbbb)" in network
    assert "digits val, 270 samples (dddd); digits val, 100 samples (dddd)" in data
