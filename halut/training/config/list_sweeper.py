"""`hydra/sweeper=list`: Hydra's basic sweeper over the configurations that a file lists."""

from __future__ import annotations

from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins

from halut.training.config.overrides import combined, parsed_overrides, values_of
from halut.training.config.sweep_list import read_list
from halut.training.config.sweeper_config import SWEEPER

BasicSweeper: Any = Plugins.instance().class_name_to_class[
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
]
"""Not imported: Hydra executes the modules of its plugins anew as it starts, and the class that was
imported before is then another."""


class ListSweeper(BasicSweeper):
    """Launches every listed configuration, in each combination with what the command line sweeps.

    Where both set an option, the listed one counts.
    """

    def __init__(
        self,
        file: str,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.entries = [parsed_overrides(entry) for entry in read_list(file)]

    def split_arguments(
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Overrides of every value, in batches of at most `max_batch_size` (None: one batch)."""
        common = {each.get_key_element().lstrip("+~"): each for each in overrides}
        values = [value for each in combined(common, self.entries) for value in values_of(each)]
        return [list(batch) for batch in self.split_overrides_to_chunks(values, max_batch_size)]


def register() -> None:
    """Let Hydra find the class: it knows plugins by their names alone."""
    classes: dict[str, Any] = Plugins.instance().class_name_to_class
    classes[SWEEPER] = ListSweeper
