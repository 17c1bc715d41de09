"""How the runs of a sweep are shown; it changes nothing in a run."""

from __future__ import annotations

from dataclasses import dataclass

from halut.analysis.run_figures import FIGURES
from halut.option import option


@dataclass
class SweepConfig:
    """Axes of the table and of the picture."""

    x: str | None = option(None, "key the curves are drawn over; null: that with most numbers")
    y: str = option("test_accuracy", "figure that is drawn", choices=tuple(FIGURES))
    words: dict[str, str] = option(
        {}, "what to call a key (KEY: axis label) and a value of it (KEY=VALUE)"
    )
