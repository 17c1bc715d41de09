"""Charts of the page and of papers, as Vega-Lite specifications without their data.

The page's script gives `data` the rows that its filters leave; halut.page.pictures gives it all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from halut.page.search_charts import plans, predictions, progress, trials
from halut.page.vega import GRAY, HUES, SHAPES, THEMES, chart, config, nominal, quantitative

REFERENCES = ("exact", "exact, fine-tuned", "INT8", "INT4")
"""Variants that ours are beside: gray, told apart by their shapes."""
PHASES = ["before", "after swap", "after training"]
MARKS = [-1, 0, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9]
"""Of a symmetric logarithmic axis."""


def series_scales(series: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scales of color and shape for REFERENCES and the operators among `series`.

    An operator's color and shape follow from its place in the sorted names; of more than there are
    hues, the next round has other shapes.
    """
    operators = sorted(set(series).difference(REFERENCES))
    rounds = [divmod(place, len(HUES)) for place in range(len(operators))]
    shapes = [SHAPES[(place + turn) % len(SHAPES)] for turn, place in rounds]
    domain = [*REFERENCES, *operators]
    colors = [GRAY] * len(REFERENCES) + [HUES[place] for _, place in rounds]
    return (
        {"domain": domain, "range": colors},
        {"domain": domain, "range": [*SHAPES[: len(REFERENCES)], *shapes]},
    )


def front(
    cost: str = "bytes",
    title: str = "bytes of the network",
    unit: str = "",
    series: Sequence[str] = (),
    drawn: Collection[str] = (),
) -> dict[str, Any]:
    """Accuracy over a cost, a point a configuration, and the line that none is above and left of.

    Rows: lines of the headline. Bars are the standard deviation over seeds. `unit` stands behind
    the cost's numbers; `series` are all that the page has, which decide the colors, and `drawn`
    those of the rows, which the legend lists.
    """
    x = quantitative(cost, title, scale={"type": "log", "nice": False, "padding": 24})
    x["axis"] = {"tickCount": 6, "labelExpr": "format(datum.value, '~s') + unit"}
    y = quantitative("accuracy", "test accuracy in %", scale={"zero": False, "padding": 12})
    colors, shapes = series_scales(series)
    legend = {"values": [each for each in colors["domain"] if each in drawn]}
    color = nominal("series", None, scale=colors, legend=legend)
    bars = {"y": {**y, "field": "low"}, "y2": {"field": "high"}, "x": x, "color": color}
    tooltip = [
        nominal("label", "configuration"),
        quantitative("accuracy", "accuracy", format=".2f"),
        quantitative("accuracy_std", "deviation", format=".2f"),
        quantitative("lost", "points lost", format=".2f"),
        quantitative("bytes", "bytes", format=",.0f"),
        quantitative("operations", "operations", format=",.0f"),
        quantitative("bops", "bit operations", format=",.0f"),
        quantitative("seeds", "seeds"),
        nominal("hint", "click"),
    ]
    return chart(
        height=340,
        params=[{"name": "unit", "value": unit}],
        transform=[
            {"filter": f"isValid(datum.accuracy) && datum[{cost!r}] > 0"},
            {"calculate": "datum.accuracy - (datum.accuracy_std || 0)", "as": "low"},
            {"calculate": "datum.accuracy + (datum.accuracy_std || 0)", "as": "high"},
            {"calculate": "'copies the command'", "as": "hint"},
        ],
        layer=[
            {
                "transform": [
                    {
                        "window": [{"op": "max", "field": "accuracy", "as": "best"}],
                        "sort": [{"field": cost}, {"field": "accuracy", "order": "descending"}],
                    }
                ],
                "mark": {"type": "line", "interpolate": "step-after", "opacity": 0.35},
                "encoding": {"x": x, "y": {**y, "field": "best"}},
            },
            {"mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.7}, "encoding": bars},
            {
                "mark": {"type": "point", "size": 110, "cursor": "pointer", "tooltip": True},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": color,
                    "shape": nominal("series", None, scale=shapes, legend=legend),
                    "tooltip": tooltip,
                },
            },
        ],
    )


def bars(figure: str = "lost", title: str = "points lost") -> dict[str, Any]:
    """Every site replaced on its own: a bar for each option, means over seeds and draws."""
    return chart(
        height={"step": 12},
        mark={"type": "bar", "cornerRadiusEnd": 2},
        encoding={
            "y": nominal("site", None, sort=None, axis={"labelPadding": 6, "domain": False}),
            "yOffset": nominal("option", None, sort=None),
            "x": quantitative(
                figure, title, aggregate="mean", axis={"orient": "top", "tickCount": 6}, stack=None
            ),
            "color": nominal("option", None, sort=None, legend={"columns": 1}),
            "tooltip": _of_one_option(figure, title),
        },
    )


def dots(figure: str = "lost", title: str = "points lost") -> dict[str, Any]:
    """As `bars`, where there are more options than colors: a row for each site, a dot for each
    option on a symmetric logarithmic scale, by the color and shape of its operator."""
    scale = {"type": "symlog", "constant": 1, "nice": False, "padding": 12}
    x = quantitative(figure, title, aggregate="mean", scale=scale)
    return chart(
        height={"step": 30},
        mark={"type": "point", "size": 60, "opacity": 0.75},
        encoding={
            "y": nominal("site", None, sort=None, axis={"labelPadding": 6, "grid": True}),
            "x": {
                **x,
                "axis": {"orient": "top", "values": MARKS, "labelOverlap": True, "format": "~g"},
            },
            "detail": nominal("option"),
            "color": nominal("operator", None, sort=None),
            "shape": nominal("operator", None, sort=None),
            "tooltip": _of_one_option(figure, title),
        },
    )


def _of_one_option(figure: str, title: str) -> list[dict[str, Any]]:
    return [
        nominal("site", "site"),
        nominal("option", "option"),
        quantitative(figure, title, aggregate="mean", format=".4~f"),
        {"aggregate": "count", "type": "quantitative", "title": "records"},
    ]


def heat(figure: str = "lost", title: str = "points lost") -> dict[str, Any]:
    """Codebooks C times prototypes K of one family (halut.page.measurements): the mean over the
    sites and seeds that are shown. A cell of fewer sites than another one says of how many."""
    tooltip = [
        {"field": "C", "type": "ordinal"},
        {"field": "K", "type": "ordinal"},
        quantitative("mean", title, format=".4~f"),
        quantitative("sites", "sites"),
        quantitative("records", "records"),
    ]
    means = [
        {"op": "mean", "field": figure, "as": "mean"},
        {"op": "distinct", "field": "site", "as": "sites"},
        {"op": "count", "as": "records"},
    ]
    span = [
        {"op": "min", "field": "mean", "as": "low"},
        {"op": "max", "field": "mean", "as": "top"},
        {"op": "max", "field": "sites", "as": "most"},
    ]
    fewer = "datum.sites < datum.most ? datum.sites + ' of ' + datum.most + ' sites' : ''"
    bright = "datum.mean - datum.low > 0.6 * (datum.top - datum.low)"
    x = {"field": "K", "type": "ordinal", "title": "K, prototypes a codebook"}
    y = {"field": "C", "type": "ordinal", "title": "C, codebooks", "sort": "descending"}
    return chart(
        height={"step": 40},
        transform=[
            {"aggregate": means, "groupby": ["C", "K"]},
            {"joinaggregate": span},
            {"calculate": fewer, "as": "fewer"},
        ],
        encoding={"x": {**x, "axis": {"labelAngle": 0}}, "y": y, "tooltip": tooltip},
        layer=[
            {
                "mark": {"type": "rect", "cornerRadius": 2},
                "encoding": {"color": quantitative("mean", title, legend={"gradientLength": 160})},
            },
            {
                "mark": {"type": "text", "fontSize": 12},
                "encoding": {
                    "text": quantitative("mean", title, format=".3~g"),
                    "color": {"condition": {"test": bright, "value": "#111"}, "value": "#fff"},
                },
            },
            {
                "mark": {"type": "text", "fontSize": 9, "dy": 12},
                "encoding": {
                    "text": nominal("fewer"),
                    "color": {"condition": {"test": bright, "value": "#111"}, "value": "#fff"},
                },
            },
        ],
    )


def convergence(figure: str = "accuracy", title: str = "accuracy in %") -> dict[str, Any]:
    """A figure over the number of calibration samples; bands are the deviation over draws."""
    x = quantitative("calibration", "calibration samples", scale={"type": "log", "nice": False})
    x["axis"] = {"format": "~s", "tickCount": 6}
    y = quantitative(figure, title, scale={"zero": False})
    color = nominal("series")
    tooltip = [
        nominal("series", "site"),
        quantitative("calibration", "samples", format=","),
        quantitative(figure, title, aggregate="mean", format=".4~f"),
    ]
    return chart(
        height=300,
        encoding={"x": x, "color": color},
        layer=[
            {
                "mark": {"type": "errorband", "extent": "stdev", "opacity": 0.2},
                "encoding": {"y": y},
            },
            {
                "mark": {"type": "line", "point": {"size": 45}},
                "encoding": {"y": {**y, "aggregate": "mean"}, "tooltip": tooltip},
            },
        ],
    )


def stages() -> dict[str, Any]:
    """Validation accuracy before every stage, after its swap and after its training.

    Colors are phases of one run, and runs where there are several.
    """
    x: dict[str, Any] = {"field": "stage", "type": "ordinal", "title": "stage", "sort": None}
    x["axis"] = {"labelAngle": 0}
    y = quantitative("accuracy", "validation accuracy in %", scale={"zero": False, "padding": 10})
    tooltip = [
        nominal("run", "run"),
        nominal("stage", "stage"),
        nominal("phase", "when"),
        quantitative("accuracy", "accuracy", format=".2f"),
        nominal("sites", "replaced"),
    ]
    ends = [
        {"op": "min", "field": "accuracy", "as": "low"},
        {"op": "max", "field": "accuracy", "as": "high"},
    ]
    return chart(
        height=260,
        transform=[{"joinaggregate": ends, "groupby": ["run", "stage"]}],
        encoding={"x": x, "xOffset": nominal("run", None, sort=None)},
        layer=[
            {
                "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.25},
                "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "size": 80, "tooltip": True},
                "encoding": {
                    "y": y,
                    "color": nominal("phase", None, scale={"domain": PHASES}),
                    "shape": nominal("phase", None, scale={"domain": PHASES}),
                    "tooltip": tooltip,
                },
            },
        ],
    )


def curves(title: str = "value") -> dict[str, Any]:
    """A figure of metrics.csv over the step of the whole run; rules where a stage begins.

    Rows: {"run", "step", "value"}, and {"border", "stage"} for the rules.
    """
    x = quantitative("step", "step", axis={"format": "~s", "tickCount": 8}, scale={"nice": False})
    return chart(
        height=260,
        layer=[
            {
                "transform": [{"filter": "isValid(datum.border)"}],
                "mark": {"type": "rule", "strokeDash": [3, 3], "opacity": 0.6},
                "encoding": {
                    "x": {**x, "field": "border"},
                    "color": nominal("run", None, sort=None),
                    "tooltip": [nominal("run", "run"), nominal("stage", "begins")],
                },
            },
            {
                "transform": [{"filter": "isValid(datum.value)"}],
                "mark": {"type": "line", "tooltip": True},
                "encoding": {
                    "x": x,
                    "y": quantitative("value", title, scale={"zero": False}),
                    "color": nominal("run", None, sort=None),
                    "tooltip": [
                        nominal("run", "run"),
                        quantitative("step", "step", format=","),
                        quantitative("value", title, format=".4~f"),
                    ],
                },
            },
        ],
    )


def templates(series: Sequence[str] = ()) -> dict[str, Any]:
    """What the page's script fills: every chart, and the themes; `series` as `front` has it."""
    charts = (bars, dots, heat, convergence, stages, curves)
    return {
        "charts": {
            "front": front(series=series),
            **{c.__name__: c() for c in charts},
            **{f"search-{c.__name__}": c() for c in (plans, predictions, progress, trials)},
        },
        "themes": {theme: config(theme) for theme in THEMES},
    }
