"""The overrides of a multirun: what its command line, its sweeper and its list say, by key."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from halut.training.config.sweep_list import read_list
from halut.training.config.sweeper_config import SWEEPER

Overrides = dict[str, Override]


def given_overrides(config: DictConfig) -> Overrides:
    """Overrides of a multirun by key: the sweeper's own, then the command line's."""
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    task = list(config.hydra.overrides.task)
    return parsed_overrides([*(f"{key}={value}" for key, value in params.items()), *task])


def listed_overrides(config: DictConfig) -> list[Overrides] | None:
    """Overrides by key of every configuration that the sweeper's file lists; None without one."""
    if config.hydra.sweeper.get("_target_") != SWEEPER:
        return None
    return [parsed_overrides(entry) for entry in read_list(config.hydra.sweeper.file)]


def combined(common: Overrides, entries: list[Overrides] | None) -> list[Overrides]:
    """The common overrides with those of each listed configuration, which win, laid over them."""
    return [common] if entries is None else [{**common, **entry} for entry in entries]


def values_of(overrides: Overrides) -> Iterator[list[str]]:
    """Every value of a product, as overrides that each have one value."""
    choices = [
        [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
        if each.is_sweep_override()
        else [str(each.input_line)]
        for each in overrides.values()
    ]
    return (list(value) for value in itertools.product(*choices))


def sweep_keys(config: DictConfig) -> list[str]:
    """Every key in which the values of a multirun can differ."""
    keys = [key for key, o in given_overrides(config).items() if o.is_sweep_override()]
    entries = listed_overrides(config) or []
    return list(dict.fromkeys([*keys, *(key for entry in entries for key in entry)]))


def sweep_size(config: DictConfig) -> int:
    """The number of values of a multirun."""
    products = combined(given_overrides(config), listed_overrides(config))
    return sum(
        math.prod(
            len(list(o.sweep_string_iterator())) for o in each.values() if o.is_sweep_override()
        )
        for each in products
    )


def parsed_overrides(overrides: Sequence[str]) -> Overrides:
    """Overrides by key; of several the last one counts, as in Hydra's own sweeper."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {override.get_key_element().lstrip("+~"): override for override in parsed}
