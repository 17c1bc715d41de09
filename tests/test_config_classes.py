"""The importable configurations hold the options and the defaults of the registries' operators."""

from __future__ import annotations

import dataclasses
import typing

import pytest

import halut
from halut.configs import CONFIGS, Binary, CodecConfig, Integer, Tree
from halut.errors import HalutError
from halut.replace.operator_registry import operator_names, operator_type
from halut.sites.operator import checked_options

FACTORS = ("weight", "activation", "bias")


def test_every_operator_has_one():
    assert sorted(CONFIGS) == operator_names()


@pytest.mark.parametrize("name", operator_names())
def test_options_and_defaults_are_the_operators(name):
    config, schema = CONFIGS[name](), operator_type(name).Options
    fields = {f.name for f in dataclasses.fields(schema)}
    assert {f.name for f in dataclasses.fields(config)} == fields
    settled = dataclasses.asdict(checked_options(schema, config.options()))
    assert settled == dataclasses.asdict(schema())
    ours, theirs = typing.get_type_hints(type(config)), typing.get_type_hints(schema)
    for field in fields.difference(FACTORS):
        assert ours[field] == theirs[field], field
    operator_type(name)(**config.options())


@pytest.mark.parametrize("name", operator_names())
def test_every_option_is_told_in_the_docstring(name):
    kind = CONFIGS[name]
    text = "".join(base.__doc__ or "" for base in kind.__mro__)
    for field in dataclasses.fields(kind):
        assert f"        {field.name}: " in text, field.name


def test_a_factor_takes_another_config_a_name_a_mapping_or_none():
    options = Integer(weight=Binary(per="channel"), activation=None, bias="integer").options()
    specs = operator_type("integer")(**options).specs
    assert (specs["weight"]["name"], specs["weight"]["per"]) == ("binary", "channel")
    assert specs["activation"] is None
    assert specs["bias"]["name"] == "integer"
    same = Integer(weight={"name": "same", "width": 3})
    assert operator_type("integer")(**same.options()).specs["weight"]["width"] == 3


def test_a_wrong_value_is_refused_by_name():
    with pytest.raises(TypeError, match="unexpected keyword argument 'D'"):
        Tree(D=3)  # type: ignore[call-arg]
    with pytest.raises(HalutError, match=r"halut\.K must be in 2\.\.256"):
        operator_type("tree")(**Tree(K=1).options())


def test_all_are_importable_from_the_package():
    for kind in CONFIGS.values():
        assert getattr(halut, kind.__name__) is kind
    assert issubclass(halut.LQNet, CodecConfig)
