"""The configuration of an evaluation as dataclasses, and its place in Hydra's store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from halut.errors import HalutError
from halut.training import store
from halut.training.config import DebugConfig, TrainerConfig, between, choice

SPLITS = ("test", "val")


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
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)


def check(config: EvaluateConfig) -> None:
    """Raise HalutError on values that no schema can refuse."""
    if config.run is None:
        raise HalutError("say what to evaluate: run=PATH, a run folder or a bundle")
    choice("split", config.split, SPLITS)
    between("samples", config.samples, 0)
    between("latency", config.latency, 0)
    if config.trainer.devices > 1 or config.trainer.num_nodes > 1:
        raise HalutError("an evaluation runs on one device; set trainer.devices=1")


def register() -> None:
    """File the schemas; safe to call again."""
    store.register()
    ConfigStore.instance().store(name="schema_evaluate", node=EvaluateConfig)
