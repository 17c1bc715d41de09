"""Cache of learned swaps: stages that would learn the same take it from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from halut import __version__
from halut.configs.tables import TableConfig
from halut.plugins import loading
from halut.replace.operator_registry import config_type
from halut.replace.schedule import Stage
from halut.replace.swap import digest
from halut.sites.plan import KEEP
from halut.training.calibrate import Context
from halut.training.config.run_config import plain_values
from halut.training.run_folder import MACHINE_OPTIONS, config_hash

TRAINING_OPTIONS = ("estimator", "noise", "quantize_from")
"""Options of tables that nothing learned before training depends on."""


def cached_swap(context: Context, network: nn.Module, index: int, stage: Stage) -> Path | None:
    """Where schedule.cache keeps what stage `index` learns on `network`; None without a cache.

    The name is the hash of all that decides it: both networks' tensors, the samples, the plan up to
    the stage without what only training reads, and the settings of calibration.
    """
    config = context.config
    if config.schedule.cache is None or not stage.sites:
        return None
    plan = context.plan.to_dict()
    unread = (*MACHINE_OPTIONS, "batch_size")
    data = {k: v for k, v in plain_values(config.data).items() if k not in unread}
    relevant = {
        "version": __version__,
        "networks": [digest(module) for module in (network, context.exact)],
        "samples": context.data.digests(),
        "data": data,
        "model": plan["model"],
        "plugins": {name: loading.source_digest(name) for name in context.plan.plugins},
        "entries": [_learned(entry, index) for entry in plan["entries"]],
        "stage": index,
        "calibrate": stage.calibrate,
        "refit": config.schedule.refit,
        "capture": plain_values(config.capture),
        "recalibrate": config.recalibrate * config.data.batch_size,
        "precision": config.trainer.precision,
        "seed": config.seed,
    }
    return Path(config.schedule.cache) / config_hash(relevant) / "swapped.safetensors"


def _learned(entry: dict[str, Any], index: int) -> dict[str, Any]:
    """An entry of a plan as stage `index` sees it: later ones are kept until then."""
    stage, operator, options = entry["stage"], entry["operator"], entry["options"]
    if stage is not None and stage > index:
        operator, options = KEEP, {}
    elif operator != KEEP and issubclass(config_type(operator), TableConfig):
        options = {k: v for k, v in options.items() if k not in TRAINING_OPTIONS}
    return {**entry, "reason": "", "operator": operator, "options": options}
