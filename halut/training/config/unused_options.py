"""Checks for options without effect, on the command line and in the user's files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from halut.errors import HalutError
from halut.option import options_of, without_effect
from halut.replace.operator_registry import operator_of
from halut.replace.recalibrate import running_norms
from halut.sites.plan import Plan
from halut.training.config.overrides import (
    combined,
    given_overrides,
    listed_overrides,
    sweep_size,
    values_of,
)

LAUNCHING = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweep")
"""How options of launchers and sweepers begin."""
MAX_CHECKED_RUNS = 100
"""Values of a sweep that are looked at before it begins."""


def typed() -> dict[str, str]:
    """The options of the command line, by key; the text of each."""
    if not HydraConfig.initialized():
        return {}
    task = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    return {o.key_or_group: text(o) for o in task if not o.is_delete()}


def text(override: Override) -> str:
    """KEY=VALUE as it was typed, less a + in front."""
    return str(override.input_line).lstrip("+")


def check_effect(config: Any) -> None:
    """Raise HalutError for an option of the command line, or of an experiment's file, that has no
    effect; of a sweep's value none is refused: see `check_sweep`.

    An experiment has to make sense by itself; what the command line lays over it may make some of
    its options moot.
    """
    overrides = typed()
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return
    refuse_launcher()
    refuse(overrides, ineffective(config, overrides))
    set_by_files = {
        each.path: each.value
        for each in options_of(config)
        if each.value != each.default
        and each.path not in overrides
        and not each.path.startswith(("sweep.", "search."))  # an experiment can be run once
    }
    reasons = ineffective(config, set_by_files)
    alone = experiment_alone() if reasons else None
    if alone is None:
        return
    values = {each.path: each.value for each in options_of(alone)}
    for key, reason in ineffective(alone, reasons).items():
        if values.get(key) == set_by_files[key]:
            raise HalutError(f"{key}={values[key]} of the files in conf/ {no_effect(reason)}")


def refuse(overrides: Mapping[str, str], reasons: Mapping[str, str]) -> None:
    """Raise HalutError for the first of the options that have no effect."""
    for key, reason in reasons.items():
        raise HalutError(f"{overrides.get(key, key)} {no_effect(reason)}")


def no_effect(reason: str) -> str:
    """has no effect, and why."""
    return f"has no effect: {reason}"


def refuse_launcher() -> None:
    """Raise HalutError for options of launchers and sweepers where one run is started."""
    if not HydraConfig.initialized():
        return
    for line in HydraConfig.get().overrides.hydra:
        if line.lstrip("+").startswith(LAUNCHING):
            raise HalutError(f"{line} {no_effect('this is one run; it needs a sweep: -m')}")


def ineffective(config: Any, keys: Iterable[str]) -> dict[str, str]:
    """Those of the keys that have no effect in a training configuration, with the reasons."""
    keys = list(keys)
    reasons = without_effect(config, keys)
    for key in keys:
        group, _, path = key.partition(".")
        if group == "halut" and path and key not in reasons:
            value = _at(config.halut.options(), path)
            default = _at(type(config.halut)().options(), path)
            if value is None or (value is False and default is False):
                continue
            reason = operator_of(config.halut).without_effect(path)
            if reason is not None:
                reasons[key] = reason
    return reasons


def _at(options: Any, path: str) -> Any:
    for name in path.split("."):
        options = options.get(name) if isinstance(options, dict) else None
    return options


def experiment_alone() -> Any:
    """The configuration of the files alone, with the experiment that was chosen; None if it does
    not compose."""
    hydra = HydraConfig.get()
    experiments = [o for o in hydra.overrides.task if o.lstrip("+").startswith("experiment=")]
    return composed(str(hydra.job.config_name), [*experiments, "hydra.mode=RUN"])


def composed(name: str, overrides: Sequence[str]) -> Any:
    """The configuration of these overrides as dataclasses; None if it does not compose."""
    loader = GlobalHydra.instance().config_loader()
    try:
        config = loader.load_configuration(name, list(overrides), run_mode=RunMode.RUN)
        OmegaConf.set_struct(config, False)
        config.pop("hydra")
        return OmegaConf.to_object(config)
    except (HydraException, OmegaConfBaseException, HalutError):
        return None


def check_sweep(config: DictConfig) -> None:
    """Raise HalutError for an option of a sweep that has no effect in any value that sets it.

    Sweeps of more than MAX_CHECKED_RUNS values are not looked at.
    """
    if sweep_size(config) > MAX_CHECKED_RUNS:
        return
    lines: dict[str, str] = {}
    reasons: dict[str, str] = {}
    effective: set[str] = set()
    for overrides in combined(given_overrides(config), listed_overrides(config)):
        lines |= {key: text(override) for key, override in overrides.items()}
        keys = [key for key in overrides if not key.startswith("sweep")]
        for value in values_of(overrides):
            settings = composed(str(config.hydra.job.config_name), value)
            if settings is None:
                continue
            try:
                here = ineffective(settings, keys)
            except HalutError:  # what is wrong with this value is told when its turn comes
                continue
            effective.update(key for key in keys if key not in here)
            reasons |= here
            if effective.issuperset(keys):
                break
    refuse(lines, {key: why for key, why in reasons.items() if key not in effective})


def check_default_operator(config: Any, plan: Plan) -> None:
    """Raise HalutError if options of the group halut are typed, and no layer has its operator."""
    name = config.halut.name
    if config.plan is not None or any(entry.operator == name for entry in plan.replaced):
        return
    for key, line in typed().items():
        if key.split(".")[0] == "halut":
            there = ", ".join(sorted({entry.operator for entry in plan.replaced}))
            raise HalutError(
                f"{line} {no_effect(f'policy.rules replace every layer by {there}')}; give options "
                "in the rule"
            )


def check_effect_on_network(config: Any, plan: Plan, network: nn.Module) -> None:
    """Raise HalutError for typed options that the network leaves without effect.

    Of a sweep none is refused: another value may have another network.
    """
    overrides = typed()
    if not overrides or HydraConfig.get().mode == RunMode.MULTIRUN:
        return
    reasons = {}
    if "recalibrate" in overrides and config.recalibrate and not running_norms(network):
        reasons["recalibrate"] = "the network has no batch norms with running statistics"
    if "policy.share" in overrides and config.policy.share and not any(e.shares for e in plan):
        reasons["policy.share"] = "no layers to be replaced alike read the very same input"
    refuse(overrides, reasons)
