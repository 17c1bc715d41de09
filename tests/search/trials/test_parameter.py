"""Parameters in the words of sweeps."""

from __future__ import annotations

import pytest

from halut.errors import HalutError
from halut.search.trials.parameter import Choices, Numbers, parameters_of


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2", ("1", "2")),
        ("tree,pq,tree", ("tree", "pq")),
        ("[a,b],[]", ("[a,b]", "[]")),
        ([1, 2.5, "x"], ("1", "2.5", "x")),
        ([["a", "b"], ["c"]], ("[a,b]", "[c]")),
        ([None, 3], ("null", "3")),
    ],
)
def test_choices_are_the_values_texts(text, values):
    (parameter,) = parameters_of("key", text)
    assert parameter.domain == Choices(values)
    assert (parameter.name, parameter.keys) == ("key", ("key",))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("range(1,9,2)", [1, 3, 5, 7]),
        ("range(4)", [0, 1, 2, 3]),
        ("range(0.1,0.5,0.1)", [0.1, 0.2, 0.3, 0.4]),
        ("int(interval(1,4))", [1, 2, 3, 4]),
        ("interval(0,1)", None),
        ("tag(log,interval(1e-3,1))", None),
    ],
)
def test_numbers(text, values):
    (parameter,) = parameters_of("key", text)
    assert isinstance(parameter.domain, Numbers)
    assert parameter.domain.values == values
    assert parameter.domain.log == ("log" in text)
    whole = text.startswith(("int(", "range(1", "range(4"))
    assert parameter.domain.whole is whole


def test_keys_share_a_value_and_a_sign_stays():
    (parameter,) = parameters_of("+a.x+b.y", "1,2")
    assert parameter.keys == ("+a.x", "+b.y")
    assert parameter.name == "a.x+b.y"


def test_a_subset_is_a_parameter_for_each_element():
    parameters = parameters_of("+m", "subset(x.0,y.1) if depth=2,3")
    assert [p.name for p in parameters] == ["m:x.0", "m:y.1"]
    assert all(p.domain == Choices(("false", "true")) for p in parameters)
    assert all(p.when == {"depth": ("2", "3")} for p in parameters)


def test_a_condition_holds_for_its_values_alone():
    (parameter,) = parameters_of("halut.V", "4,8 if halut=tree,pq and depth=2")
    assert parameter.active({"halut": "pq", "depth": 2})
    assert not parameter.active({"halut": "integer", "depth": 2})
    assert not parameter.active({"halut": "pq"})


def test_one_value_is_no_parameter():
    assert parameters_of("key", "5") == []
    assert parameters_of("key", "[1,2]") == []


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("k", "5 if a=1", "one value"),
        ("k", "1,2 if a", "write VALUES if KEY=A,B"),
        ("k", "[1,2", "cannot be read"),
        ("k", "glob(*)", "not a glob"),
        ("k", "interval(2,2)", "nothing to search between its ends"),
        ("k", "tag(log,interval(0,1))", "above 0"),
        ("k", "tag(lin,interval(0,1))", "unknown tag lin; choose log"),
        ("a+b", "subset(x,y)", "a subset has one key"),
    ],
)
def test_what_is_none_is_refused(key, text, says):
    with pytest.raises(HalutError, match=says):
        parameters_of(key, text)
