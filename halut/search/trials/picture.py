"""The best accuracies so far as a picture: a line for each curve and sampler, a band over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halut.analysis.sweep_plot import COLORS, new_figure, save

OBJECTIVES = {
    "val_accuracy": "best validation accuracy so far in %",
    "base.val_accuracy": "best validation accuracy so far, exact network, in %",
    "swapped_accuracy": "best validation accuracy so far, before retraining, in %",
}


def draw(path: Path, curves: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> None:
    """Write the picture in the format of the path's suffix: PNG, SVG or PDF.

    Raises HalutError without matplotlib.
    """
    figure = new_figure(7, 4.2)
    from matplotlib.ticker import MaxNLocator  # which is installed, then

    axes = figure.add_subplot()
    several = len({curve["sampler"] for curve in curves} - {""}) > 1
    for index, curve in enumerate(curves):
        points = curve["points"]
        if not points:
            continue
        x = [point["trial"] for point in points]
        level = not curve["sampler"]  # the exact networks
        color = "black" if level else COLORS[index % len(COLORS)]
        names = [curve["curve"], curve["sampler"] if several or not curve["curve"] else ""]
        label = ", ".join(name for name in names if name)
        mean = [point["mean"] for point in points]
        line = {"linestyle": "--", "linewidth": 1.0} if level else {"linewidth": 1.8}
        axes.step(x, mean, where="post", color=color, label=label, **line)
        low, high = ([point[end] for point in points] for end in ("low", "high"))
        if len(curve["seeds"]) > 1 and not level:
            axes.fill_between(x, low, high, step="post", color=color, alpha=0.15, linewidth=0)
    axes.set_xlabel("trials")
    words = list(dict.fromkeys(OBJECTIVES[name] for name in objectives))
    axes.set_ylabel(words[0] if len(words) == 1 else OBJECTIVES["val_accuracy"])
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, loc="lower right")
    save(figure, path)
