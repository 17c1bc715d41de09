"""How the runs of a sweep are shown; it changes nothing in a run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class SweepConfig:
    """Axes of the table and of the picture.

    `x`: the key or figure that curves are drawn over (null: the key with most numbers); `y`: a
    figure. Figures are those of halut.analysis.run_figures, and every number of report.json by its
    path. `picture`: the picture's file; .png, .svg or .pdf. `words`: what to call a key (KEY: axis
    label) and a value of it (KEY=VALUE).
    """

    x: str | None = None
    y: str = "test_accuracy"
    picture: str = "curve.png"
    words: dict[str, str] = field(default_factory=dict)
