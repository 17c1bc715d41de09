"""Configuration dataclasses of evaluate.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore

from halut.analysis.runtime import ATTENTION, MODES
from halut.errors import HalutError
from halut.option import between, check_choices, option
from halut.training.config import hydra_schemas
from halut.training.config.run_config import DebugConfig, TrainerConfig, check_trainer

SPLITS = ("test", "val")


def while_running(own: Any, run: Any) -> str | None:
    """What is read where the prepared network is run."""
    return "it needs runtime=eager or runtime=compile" if own.mode == "none" else None


@dataclass
class RuntimeConfig:
    """How the prepared network is run on random inputs, timed beside eager and plain attention."""

    mode: str = option("none", "none (it is not), eager or compile", choices=MODES)
    attention: str | None = option(
        None,
        "attention's products; null: as the network has them",
        choices=ATTENTION,
        needs=while_running,
    )
    tolerance: float = option(
        1e-2, "difference of answers, of the largest one, that is an error", needs=while_running
    )
    batch: int = option(1, "inputs given at a time", needs=while_running)
    inputs: int = option(4, "inputs in all", needs=while_running)
    rounds: int = option(15, "rounds that warm times are medians of", needs=while_running)


@dataclass
class EvaluateConfig:
    """One evaluation of a run folder or a bundle."""

    trains: ClassVar[bool] = False

    run: str | None = option(None, "a run folder or a bundle; also as the first argument, a path")
    split: str = option("test", "samples that accuracy is measured on", choices=SPLITS)
    samples: int = option(256, "samples of the split for the errors of the layers; 0: no errors")
    latency: int = option(1, "images of the batch that is timed, prepared and exact; 0: no times")
    json: str | None = option(None, "file for the figures")
    plugins: list[str] = option([], "modules and .py files that the bundle may use")
    data: Any = option(None, "another data set, or fields of the bundle's: +data.FIELD=VALUE")
    runtime: RuntimeConfig = option(RuntimeConfig, "how the prepared network is run")
    trainer: TrainerConfig = option(TrainerConfig, "device, precision, batches")
    debug: DebugConfig = option(DebugConfig, "what helps to find a fault")

    def untrained(self) -> str:
        """Why nothing trains."""
        return "an evaluation trains nothing"


def check(config: EvaluateConfig) -> None:
    """Raise HalutError on values that no schema can refuse."""
    if config.run is None:
        raise HalutError("say what to evaluate: run=PATH, a run folder or a bundle")
    check_choices(config)
    between("samples", config.samples, 0)
    between("latency", config.latency, 0)
    check_runtime(config.runtime)
    check_trainer(config.trainer)
    if config.trainer.devices > 1 or config.trainer.num_nodes > 1:
        raise HalutError("an evaluation runs on one device; set trainer.devices=1")


def check_runtime(runtime: RuntimeConfig) -> None:
    """Raise HalutError on values that cannot be, or say nothing."""
    check_choices(runtime, "runtime.")
    if runtime.attention is not None and runtime.mode == "none":
        raise HalutError("runtime.attention needs runtime=eager or runtime=compile")
    between("runtime.tolerance", runtime.tolerance, 0)
    for name in ("batch", "inputs", "rounds"):
        between(f"runtime.{name}", getattr(runtime, name), 1)


def register() -> None:
    """File the schemas; safe to call again."""
    hydra_schemas.register()
    stored = ConfigStore.instance()
    stored.store(name="schema_evaluate", node=EvaluateConfig)
    stored.store(group="runtime/schema", name="runtime", node=RuntimeConfig)
