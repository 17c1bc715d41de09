"""Charts of searches: plans under budgets and the predicted front, predictions, and trials."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from halut.page.vega import GRAY, HUES, chart, nominal, quantitative

KINDS = {
    "found": (HUES[0], "circle"),
    "uniform": (HUES[1], "square"),
    "nearest": (HUES[6], "diamond"),
    "random": (HUES[2], "circle"),
    "tried": (HUES[5], "triangle-up"),
    "exact": (GRAY, "circle"),
    "INT8": (GRAY, "square"),
    "INT4": (GRAY, "triangle-up"),
}
"""Color and shape of the measured plans of a search, by what they are."""
FIGURES = {"lost": "points lost", "rise": "rise of the loss"}
"""What a search predicts, and what is measured of it."""
HINT = {"calculate": "'copies the command'", "as": "hint"}
NEAR = {"zero": False, "nice": False, "padding": 12}
"""A scale of what is drawn and little more."""
STEP = {"type": "line", "interpolate": "step-after"}


def plans(
    cost: str = "bytes",
    title: str = "bytes of the network",
    unit: str = "",
    kinds: Collection[str] = tuple(KINDS),
) -> dict[str, Any]:
    """Accuracy over a cost: a point for every measured plan, a line for the predicted front.

    Rows: those of "plans" of a search (halut.page.searches), and of its "fronts", which have a
    "resource". The legend has `kinds`.
    """
    x = _cost(cost, title)
    y = quantitative("accuracy", "validation accuracy in %", scale=NEAR)
    line = {"x": x, "y": y, "order": quantitative(cost, title)}
    return chart(
        height=340,
        params=[{"name": "unit", "value": unit}],
        transform=[{"filter": f"isValid(datum.accuracy) && datum[{cost!r}] > 0"}, HINT],
        layer=[
            {
                "transform": [{"filter": "isValid(datum.resource)"}],
                "mark": {**STEP, "opacity": 0.6},
                "encoding": line,
            },
            {
                "transform": [{"filter": "isValid(datum.kind)"}],
                "mark": {"type": "point", "size": 90, "cursor": "pointer", "tooltip": True},
                "encoding": {
                    "x": x,
                    "y": y,
                    **_kind_channels(kinds),
                    "opacity": {
                        "condition": {"test": "datum.kind === 'random'", "value": 0.5},
                        "value": 1,
                    },
                    "tooltip": [
                        nominal("label", "plan"),
                        nominal("operators", "sites"),
                        quantitative("accuracy", "accuracy", format=".2f"),
                        quantitative("lost", "points lost", format=".2f"),
                        quantitative("rise", "rise of the loss", format=".4~f"),
                        quantitative(cost, title, format=",.6~g"),
                        nominal("hint", "click"),
                    ],
                },
            },
        ],
    )


def predictions(figure: str = "rise", kinds: Collection[str] = tuple(KINDS)) -> dict[str, Any]:
    """What plans were measured to lose over what was predicted, and the line where both are equal.

    Rows: plans of a search that have a prediction, as "x". The legend has `kinds`.
    """
    title = FIGURES[figure]
    x = quantitative("x", f"predicted {title}", scale=NEAR)
    y = quantitative(figure, f"measured {title}", scale=NEAR)
    ends = [
        {"op": op, "field": field, "as": f"{op}_{field}"}
        for op in ("min", "max")
        for field in ("x", figure)
    ]
    low = f"max(datum.min_x, datum[{'min_' + figure!r}])"
    high = f"min(datum.max_x, datum[{'max_' + figure!r}])"
    return chart(
        height=300,
        transform=[{"filter": f"isValid(datum.x) && isValid(datum[{figure!r}])"}, HINT],
        layer=[
            {
                "transform": [
                    {"aggregate": ends},
                    {"calculate": low, "as": "low"},
                    {"calculate": high, "as": "high"},
                    {"filter": "datum.low < datum.high"},
                ],
                "mark": {"type": "rule", "strokeDash": [4, 4], "opacity": 0.7},
                "encoding": {
                    "x": {**x, "field": "low"},
                    "x2": {"field": "high"},
                    "y": {**y, "field": "low"},
                    "y2": {"field": "high"},
                },
            },
            {
                "mark": {"type": "point", "size": 70, "cursor": "pointer", "tooltip": True},
                "encoding": {
                    "x": x,
                    "y": y,
                    **_kind_channels(kinds),
                    "tooltip": [
                        nominal("label", "plan"),
                        nominal("operators", "sites"),
                        quantitative("x", "predicted", format=".4~f"),
                        quantitative(figure, "measured", format=".4~f"),
                        nominal("hint", "click"),
                    ],
                },
            },
        ],
    )


def progress(title: str = "validation accuracy in %") -> dict[str, Any]:
    """The best objective after so many trials: a line for each series, a band over its seeds.

    Rows: "curves" of a search by trials, {"series", "seeds", "trial", "mean", "low", "high"}.
    """
    whole: dict[str, Any] = {"labelExpr": "datum.value % 1 ? '' : format(datum.value, 'd')"}
    whole |= {"grid": False, "ticks": False}
    x = quantitative("trial", "trials", axis=whole, scale={"nice": False, "zero": False})
    y = quantitative("mean", f"best {title}", scale={"zero": False})
    color = nominal("series", None, sort=None)
    tooltip = [
        nominal("series", "search"),
        quantitative("trial", "trials", format=","),
        quantitative("mean", "best so far, mean", format=".2f"),
        quantitative("low", "of the worst seed", format=".2f"),
        quantitative("high", "of the best seed", format=".2f"),
        quantitative("seeds", "seeds"),
    ]
    return chart(
        height=300,
        encoding={"x": x, "color": color},
        layer=[
            {
                "mark": {"type": "area", "interpolate": "step-after", "opacity": 0.2},
                "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}},
            },
            {"mark": STEP, "encoding": {"y": y}},
            {
                "mark": {"type": "point", "size": 16, "tooltip": True},
                "encoding": {"y": y, "tooltip": tooltip},
            },
        ],
    )


def trials(
    cost: str = "bytes",
    title: str = "bytes of the network",
    unit: str = "",
    objective: str = "validation accuracy in %",
) -> dict[str, Any]:
    """The objective over a cost: a point for each trial, and the line that none within the budget
    is above and left of.

    Rows: "trials" of a search by trials (halut.page.searches) that have an objective.
    """
    x = _cost(cost, title)
    y = quantitative("value", objective, scale=NEAR)
    return chart(
        height=320,
        params=[{"name": "unit", "value": unit}],
        transform=[{"filter": f"isValid(datum.value) && datum[{cost!r}] > 0"}, HINT],
        layer=[
            {
                "transform": [
                    {"filter": "datum.state === 'complete'"},
                    {
                        "window": [{"op": "max", "field": "value", "as": "most"}],
                        "sort": [{"field": cost}, {"field": "value", "order": "descending"}],
                    },
                ],
                "mark": {**STEP, "opacity": 0.5},
                "encoding": {"x": x, "y": {**y, "field": "most"}},
            },
            {
                "mark": {"type": "point", "size": 70, "cursor": "pointer", "tooltip": True},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": nominal("series", None, sort=None),
                    "opacity": {
                        "condition": {"test": "datum.state === 'complete'", "value": 0.8},
                        "value": 0.3,
                    },
                    "tooltip": [
                        nominal("label", "trial"),
                        nominal("state", "state"),
                        quantitative("value", objective, format=".2f"),
                        quantitative(cost, title, format=",.6~g"),
                        nominal("parameters", "parameters"),
                        nominal("hint", "click"),
                    ],
                },
            },
        ],
    )


def _cost(cost: str, title: str) -> dict[str, Any]:
    x = quantitative(cost, title, scale={"type": "log", "nice": False, "padding": 24})
    x["axis"] = {"tickCount": 6, "labelExpr": "format(datum.value, '~s') + unit"}
    x["axis"] |= {"labelOverlap": "greedy", "labelBound": True}
    return x


def _kind_channels(kinds: Collection[str]) -> dict[str, Any]:
    """Color and shape of KINDS."""
    domain = list(KINDS)
    legend = {"values": [kind for kind in domain if kind in kinds]}
    colors, shapes = map(list, zip(*KINDS.values(), strict=True))
    return {
        "color": nominal("kind", scale={"domain": domain, "range": colors}, legend=legend),
        "shape": nominal("kind", scale={"domain": domain, "range": shapes}, legend=legend),
    }
