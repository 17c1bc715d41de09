"""The configuration of an evaluation as dataclasses, and its place in Hydra's store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from halut.analysis.runtime import ATTENTION, MODES
from halut.errors import HalutError
from halut.training import store
from halut.training.config import DebugConfig, TrainerConfig, between, check_trainer, choice

SPLITS = ("test", "val")


@dataclass
class RuntimeConfig:
    """How the prepared network is run on random inputs: `mode` none (it is not), eager or compile.

    `attention`: math or fused, null: as the network has it. Eager with plain attention is always
    measured beside; answers further from its than `tolerance`, of its largest one, are an error.
    `batch` inputs are given at a time, `inputs` times; warm times are medians of `rounds`.
    """

    mode: str = "none"
    attention: str | None = None
    tolerance: float = 1e-2
    batch: int = 1
    inputs: int = 4
    rounds: int = 15


@dataclass
class EvaluateConfig:
    """One evaluation. `run` is a run folder or a bundle; `data` overrides what the bundle says.

    `samples` of the split are read for the errors of the layers (0: none are taken); `latency` is
    the batch that the prepared and the exact network are timed on (0: they are not).
    """

    run: str | None = None
    split: str = "test"
    samples: int = 256
    latency: int = 1
    json: str | None = None
    data: Any = None
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)


def check(config: EvaluateConfig) -> None:
    """Raise HalutError on values that no schema can refuse."""
    if config.run is None:
        raise HalutError("say what to evaluate: run=PATH, a run folder or a bundle")
    choice("split", config.split, SPLITS)
    between("samples", config.samples, 0)
    between("latency", config.latency, 0)
    check_runtime(config.runtime)
    check_trainer(config.trainer)
    if config.trainer.devices > 1 or config.trainer.num_nodes > 1:
        raise HalutError("an evaluation runs on one device; set trainer.devices=1")


def check_runtime(runtime: RuntimeConfig) -> None:
    """Raise HalutError on values that cannot be, or say nothing."""
    choice("runtime.mode", runtime.mode, MODES)
    if runtime.attention is not None:
        choice("runtime.attention", runtime.attention, ATTENTION)
        if runtime.mode == "none":
            raise HalutError("runtime.attention needs runtime=eager or runtime=compile")
    between("runtime.tolerance", runtime.tolerance, 0)
    for name in ("batch", "inputs", "rounds"):
        between(f"runtime.{name}", getattr(runtime, name), 1)


def register() -> None:
    """File the schemas; safe to call again."""
    store.register()
    stored = ConfigStore.instance()
    stored.store(name="schema_evaluate", node=EvaluateConfig)
    stored.store(group="runtime/schema", name="runtime", node=RuntimeConfig)
