"""The overrides of a multirun: what its command line and its sweeper say, by key."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf


def given_overrides(config: DictConfig) -> dict[str, Override]:
    """Overrides of a multirun by key: the sweeper's own, then the command line's."""
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    task = list(config.hydra.overrides.task)
    return parsed_overrides([*(f"{key}={value}" for key, value in params.items()), *task])


def swept_values(config: DictConfig) -> dict[str, int]:
    """Number of values of every key that a multirun sweeps."""
    given = given_overrides(config).items()
    sweeps = {key: o for key, o in given if o.is_sweep_override()}
    return {key: len(list(o.sweep_string_iterator())) for key, o in sweeps.items()}


def parsed_overrides(overrides: Sequence[str]) -> dict[str, Override]:
    """Overrides by key; of several the last one counts, as in Hydra's own sweeper."""
    found = OverridesParser.create().parse_overrides(list(overrides))
    return {override.get_key_element().lstrip("+~"): override for override in found}
