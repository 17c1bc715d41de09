"""Display options of a sweep; they change nothing in a run."""

from __future__ import annotations

from dataclasses import dataclass

from halut.option import option


@dataclass
class SweepConfig:
    """Axes of the table and of the picture."""

    x: str | None = option(None, "key or figure the curves are drawn over; null: most numbers")
    y: str = option("test_accuracy", "figure that is drawn, or a number of report.json by its path")
    picture: str = option("curve.png", "the picture's file: .png, .svg or .pdf")
    words: dict[str, str] = option(
        {}, "what to call a key (KEY: axis label) and a value of it (KEY=VALUE)"
    )
