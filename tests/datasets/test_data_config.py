"""Every conf/data file composes with its schema, refuses mistakes and builds its data set."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf

from halut import data

CONF = Path(__file__).parents[2] / "conf" / "data"


@pytest.fixture
def composed():
    store = ConfigStore.instance()
    for name, schema in data.schemas().items():
        store.store(group="schema", name=name, node=schema)

    def config(name, *overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(name, list(overrides))

    return config


def test_every_data_set_has_a_file_and_no_other():
    assert sorted(path.stem for path in CONF.glob("*.yaml")) == sorted(data.datasets)


@pytest.mark.parametrize("name", sorted(data.datasets))
def test_file_composes_and_builds(composed, name):
    config = composed(name, "batch_size=6", "train_samples=20")
    assert OmegaConf.get_type(config) is data.schemas()[name]
    module = data.build(**OmegaConf.to_container(config))
    assert module.config.batch_size == 6
    assert module.config.name == name


@pytest.mark.parametrize("override", ["batch_size=many", "bath_size=3", "mean=[a]"])
def test_mistakes_are_refused(composed, override):
    with pytest.raises((ConfigCompositionException, HydraException)):
        composed("digits", override)
