"""Which loggers a run's figures go to."""

from __future__ import annotations

from typing import Any

from halut.training.config.logger_names import names_of, options_by_name
from halut.training.config.run_config import TrainConfig
from halut.training.logging.lightning_logger import LightningLogger
from halut.training.logging.metrics import MetricsCsv, StageLogger
from halut.training.parallel.distributed import is_main
from halut.training.run_folder import RunFolder


def make_loggers(
    config: TrainConfig, plain: dict[str, Any], folder: RunFolder
) -> list[StageLogger]:
    """metrics.csv, and those of `logger.name`; on the main rank only."""
    if not is_main():
        return []
    loggers: list[StageLogger] = [MetricsCsv(folder.path / "metrics.csv")]
    options = options_by_name(names_of(config.logger.name), config.logger.options)
    for name, values in options.items():
        if name.startswith("wandb"):
            from halut.training.logging.wandb_logger import WandbStageLogger

            offline = name == "wandb_offline"
            loggers.append(WandbStageLogger(config.logger, plain, folder, offline, values))
        else:
            loggers.append(LightningLogger(name, values, plain, folder))
    return loggers
