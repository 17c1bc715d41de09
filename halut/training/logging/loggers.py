"""Which sinks a run's figures go to."""

from __future__ import annotations

from typing import Any

from halut.training.config.run_config import TrainConfig
from halut.training.logging.metrics import CsvSink, Sink
from halut.training.parallel.distributed import is_main
from halut.training.run_folder import RunFolder


def make_sinks(config: TrainConfig, plain: dict[str, Any], folder: RunFolder) -> list[Sink]:
    """metrics.csv, and W&B by `logger.name`; on the main rank only."""
    if not is_main():
        return []
    sinks: list[Sink] = [CsvSink(folder.path / "metrics.csv")]
    if config.logger.name.startswith("wandb"):
        from halut.training.logging.wandb_logger import WandbSink

        sinks.append(WandbSink(config.logger, plain, folder))
    return sinks
