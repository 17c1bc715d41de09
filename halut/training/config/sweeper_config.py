"""Options of `hydra/sweeper=list`."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

SWEEPER = "hydra_plugins.halut.ListSweeper"
"""The name by which Hydra knows halut.training.config.list_sweeper.ListSweeper: it takes none but
those that begin like this."""


@dataclass
class ListSweeperConfig:
    """A list of configurations in place of a cartesian product."""

    _target_: str = SWEEPER
    file: str = MISSING
    max_batch_size: int | None = None
    params: dict[str, str] | None = None
