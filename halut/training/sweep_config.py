"""How the runs of a sweep are shown; it changes nothing in a run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class SweepConfig:
    """Axes of the table and of the picture.

    `x`: the key the curves are drawn over (null: that with most numbers); `y`: a figure of
    halut.analysis.run_figures; `words`: what to call a key (KEY: axis label) and a value of it
    (KEY=VALUE).
    """

    x: str | None = None
    y: str = "test_accuracy"
    words: dict[str, str] = field(default_factory=dict)
