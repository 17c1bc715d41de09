"""The importable configurations hold the options and the defaults of the registries' operators."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import halut
from halut.codecs.factors import option_types
from halut.configs import CONFIGS, Binary, Chain, CodecConfig, FactorConfig, Integer, Tree
from halut.errors import HalutError
from halut.option import default_of
from halut.replace.operator_registry import (
    config_of,
    config_type,
    make_operator,
    operator_names,
    operator_of,
)
from halut.training.config.hydra_schemas import conf_dir


def test_every_operator_has_one():
    assert sorted(CONFIGS) == operator_names()


@pytest.mark.parametrize("name", operator_names())
def test_a_configuration_is_the_schema_and_survives_plain_values(name):
    kind = config_type(name)
    assert kind is CONFIGS[name]
    assert kind().name == name
    again = config_of(name, kind().options())
    assert again.options() == kind().options()
    assert type(again) is kind


@pytest.mark.parametrize("name", operator_names())
def test_every_option_stands_in_the_docstring_and_in_its_yaml(name):
    kind = CONFIGS[name]
    text = (Path(conf_dir()) / "halut" / f"{name}.yaml").read_text()
    values = OmegaConf.to_container(OmegaConf.create(text))
    flat = " ".join(text.replace("#", " ").split())
    for field in dataclasses.fields(kind):
        if field.name == "name":
            continue
        assert f"    {field.name}: " in (kind.__doc__ or ""), field.name
        default = default_of(field)
        shown = {"name": default.name} if isinstance(default, FactorConfig) else default
        assert values[field.name] == shown, field.name
        assert " ".join(field.metadata["help"].split()) in flat, field.name


@pytest.mark.parametrize("kind", [FactorConfig, Chain])
def test_a_factor_and_a_chain_have_the_options_of_every_codec(kind):
    assert option_types(kind) == {}


def test_a_factor_takes_another_config_a_name_a_mapping_or_none():
    options = Integer(weight=Binary(per="channel"), activation=None, bias="integer").options()
    specs = make_operator("integer", **options).specs
    assert (specs["weight"]["name"], specs["weight"]["per"]) == ("binary", "channel")
    assert specs["activation"] is None
    assert specs["bias"]["name"] == "integer"
    same = Integer(weight={"name": "same", "width": 3})
    assert make_operator("integer", **same.options()).specs["weight"]["width"] == 3


def test_a_wrong_value_is_refused_by_name():
    with pytest.raises(TypeError, match="unexpected keyword argument 'D'"):
        Tree(D=3)  # type: ignore[call-arg]
    with pytest.raises(HalutError, match=r"halut\.K must be in 2\.\.256"):
        Tree(K=1)
    with pytest.raises(HalutError, match="choose the operator by halut=pq"):
        operator_of(Tree(name="pq"))


def test_all_are_importable_from_the_package():
    for kind in CONFIGS.values():
        assert getattr(halut, kind.__name__) is kind
    assert issubclass(halut.LQNet, CodecConfig)
