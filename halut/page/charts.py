"""Charts of the page and of papers, as Vega-Lite specifications without their data.

The page's script gives `data` the rows that its filters leave; halut.page.pictures gives it all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

REFERENCES = ("exact", "exact, fine-tuned", "INT8", "INT4")
"""Variants that ours are beside: gray, told apart by their shapes."""
GRAY = "#7a8699"
HUES = (*("#e0701a", "#2f86c9", "#1f9e89", "#c2588f", "#b5851a", "#8a74c9", "#c0453c", "#4a9db5"),)
"""Of operators, on both backgrounds."""
SHAPES = (
    *("circle", "diamond", "square", "triangle-up", "cross", "triangle-down"),
    *("triangle-right", "triangle-left"),
)
"""Of references and of operators, in this order."""
PHASES = ["before", "after swap", "after training"]
MARKS = [-1, 0, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9]
"""Of a symmetric logarithmic axis."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
THEMES = {
    "light": {"ink": "#1d2430", "soft": "#5b6675", "grid": "#e4e8ee", "paper": "transparent"},
    "dark": {"ink": "#e6eaf0", "soft": "#9aa6b5", "grid": "#2b333f", "paper": "transparent"},
}
PALETTES = {
    "light": [
        "#0b62a8",
        "#c8500a",
        "#00805f",
        "#a5467f",
        "#b07a00",
        "#3f97cf",
        "#6a55a4",
        "#5b6675",
    ],
    "dark": [
        "#5aaef0",
        "#f58a42",
        "#3cc79f",
        "#e08bbb",
        "#e3b341",
        "#9ad1f5",
        "#b3a1ea",
        "#9aa6b5",
    ],
}
"""Told apart with any color vision: the order of Okabe and Ito, each on its own background."""


def config(theme: str) -> dict[str, Any]:
    """Vega-Lite's configuration of a theme, light or dark."""
    colors, palette = THEMES[theme], PALETTES[theme]
    return {
        "background": colors["paper"],
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": colors["soft"],
            "titleColor": colors["soft"],
            "titleFontWeight": 500,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titlePadding": 10,
            "gridColor": colors["grid"],
            "domainColor": colors["grid"],
            "tickColor": colors["grid"],
            "labelLimit": 180,
        },
        "legend": {
            "labelColor": colors["ink"],
            "titleColor": colors["soft"],
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": 500,
            "orient": "top",
            "labelLimit": 260,
            "symbolOpacity": 1,
            "symbolBaseFillColor": colors["soft"],
            "symbolBaseStrokeColor": colors["soft"],
            "symbolStrokeWidth": 2,
        },
        "range": {"category": palette, "heatmap": {"scheme": "viridis"}},
        "title": {"color": colors["ink"], "fontSize": 13, "anchor": "start", "fontWeight": 600},
        "point": {"size": 70, "filled": True, "opacity": 1},
        "line": {"strokeWidth": 2},
        "rule": {"color": colors["soft"]},
        "text": {"color": colors["soft"], "fontSize": 11},
        "mark": {"color": palette[0]},
    }


def _chart(**parts: Any) -> dict[str, Any]:
    return {"width": "container", "data": {"name": "rows"}, **parts}


def _number(field: str, title: str, **more: Any) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "title": title, **more}


def _text(field: str, title: str | None = None, **more: Any) -> dict[str, Any]:
    return {"field": field, "type": "nominal", "title": title, **more}


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
    x = _number(cost, title, scale={"type": "log", "nice": False, "padding": 24})
    x["axis"] = {"tickCount": 6, "labelExpr": "format(datum.value, '~s') + unit"}
    y = _number("accuracy", "test accuracy in %", scale={"zero": False, "padding": 12})
    colors, shapes = series_scales(series)
    legend = {"values": [each for each in colors["domain"] if each in drawn]}
    color = _text("series", None, scale=colors, legend=legend)
    bars = {"y": {**y, "field": "low"}, "y2": {"field": "high"}, "x": x, "color": color}
    tooltip = [
        _text("label", "configuration"),
        _number("accuracy", "accuracy", format=".2f"),
        _number("accuracy_std", "deviation", format=".2f"),
        _number("lost", "points lost", format=".2f"),
        _number("bytes", "bytes", format=",.0f"),
        _number("operations", "operations", format=",.0f"),
        _number("bops", "bit operations", format=",.0f"),
        _number("seeds", "seeds"),
        _text("hint", "click"),
    ]
    return _chart(
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
                    "shape": _text("series", None, scale=shapes, legend=legend),
                    "tooltip": tooltip,
                },
            },
        ],
    )


def bars(figure: str = "lost", title: str = "points lost") -> dict[str, Any]:
    """Every site replaced on its own: a bar for each option, means over seeds and draws."""
    return _chart(
        height={"step": 12},
        mark={"type": "bar", "cornerRadiusEnd": 2},
        encoding={
            "y": _text("site", None, sort=None, axis={"labelPadding": 6, "domain": False}),
            "yOffset": _text("option", None, sort=None),
            "x": _number(
                figure, title, aggregate="mean", axis={"orient": "top", "tickCount": 6}, stack=None
            ),
            "color": _text("option", None, sort=None, legend={"columns": 1}),
            "tooltip": _of_one_option(figure, title),
        },
    )


def dots(figure: str = "lost", title: str = "points lost") -> dict[str, Any]:
    """As `bars`, where there are more options than colors: a row for each site, a dot for each
    option on a symmetric logarithmic scale, by the color and shape of its operator."""
    scale = {"type": "symlog", "constant": 1, "nice": False, "padding": 12}
    x = _number(figure, title, aggregate="mean", scale=scale)
    return _chart(
        height={"step": 30},
        mark={"type": "point", "size": 60, "opacity": 0.75},
        encoding={
            "y": _text("site", None, sort=None, axis={"labelPadding": 6, "grid": True}),
            "x": {
                **x,
                "axis": {"orient": "top", "values": MARKS, "labelOverlap": True, "format": "~g"},
            },
            "detail": _text("option"),
            "color": _text("operator", None, sort=None),
            "shape": _text("operator", None, sort=None),
            "tooltip": _of_one_option(figure, title),
        },
    )


def _of_one_option(figure: str, title: str) -> list[dict[str, Any]]:
    return [
        _text("site", "site"),
        _text("option", "option"),
        _number(figure, title, aggregate="mean", format=".4~f"),
        {"aggregate": "count", "type": "quantitative", "title": "records"},
    ]


def heat(figure: str = "lost", title: str = "points lost") -> dict[str, Any]:
    """Codebooks C times prototypes K of one family (halut.page.measurements): the mean over the
    sites and seeds that are shown. A cell of fewer sites than another one says of how many."""
    tooltip = [
        {"field": "C", "type": "ordinal"},
        {"field": "K", "type": "ordinal"},
        _number("mean", title, format=".4~f"),
        _number("sites", "sites"),
        _number("records", "records"),
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
    return _chart(
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
                "encoding": {"color": _number("mean", title, legend={"gradientLength": 160})},
            },
            {
                "mark": {"type": "text", "fontSize": 12},
                "encoding": {
                    "text": _number("mean", title, format=".3~g"),
                    "color": {"condition": {"test": bright, "value": "#111"}, "value": "#fff"},
                },
            },
            {
                "mark": {"type": "text", "fontSize": 9, "dy": 12},
                "encoding": {
                    "text": _text("fewer"),
                    "color": {"condition": {"test": bright, "value": "#111"}, "value": "#fff"},
                },
            },
        ],
    )


def convergence(figure: str = "accuracy", title: str = "accuracy in %") -> dict[str, Any]:
    """A figure over the number of calibration samples; bands are the deviation over draws."""
    x = _number("calibration", "calibration samples", scale={"type": "log", "nice": False})
    x["axis"] = {"format": "~s", "tickCount": 6}
    y = _number(figure, title, scale={"zero": False})
    color = _text("series")
    tooltip = [
        _text("series", "site"),
        _number("calibration", "samples", format=","),
        _number(figure, title, aggregate="mean", format=".4~f"),
    ]
    return _chart(
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
    y = _number("accuracy", "validation accuracy in %", scale={"zero": False, "padding": 10})
    tooltip = [
        _text("run", "run"),
        _text("stage", "stage"),
        _text("phase", "when"),
        _number("accuracy", "accuracy", format=".2f"),
        _text("sites", "replaced"),
    ]
    ends = [
        {"op": "min", "field": "accuracy", "as": "low"},
        {"op": "max", "field": "accuracy", "as": "high"},
    ]
    return _chart(
        height=260,
        transform=[{"joinaggregate": ends, "groupby": ["run", "stage"]}],
        encoding={"x": x, "xOffset": _text("run", None, sort=None)},
        layer=[
            {
                "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.25},
                "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "size": 80, "tooltip": True},
                "encoding": {
                    "y": y,
                    "color": _text("phase", None, scale={"domain": PHASES}),
                    "shape": _text("phase", None, scale={"domain": PHASES}),
                    "tooltip": tooltip,
                },
            },
        ],
    )


def curves(title: str = "value") -> dict[str, Any]:
    """A figure of metrics.csv over the step of the whole run; rules where a stage begins.

    Rows: {"run", "step", "value"}, and {"border", "stage"} for the rules.
    """
    x = _number("step", "step", axis={"format": "~s", "tickCount": 8}, scale={"nice": False})
    return _chart(
        height=260,
        layer=[
            {
                "transform": [{"filter": "isValid(datum.border)"}],
                "mark": {"type": "rule", "strokeDash": [3, 3], "opacity": 0.6},
                "encoding": {
                    "x": {**x, "field": "border"},
                    "color": _text("run", None, sort=None),
                    "tooltip": [_text("run", "run"), _text("stage", "begins")],
                },
            },
            {
                "transform": [{"filter": "isValid(datum.value)"}],
                "mark": {"type": "line", "tooltip": True},
                "encoding": {
                    "x": x,
                    "y": _number("value", title, scale={"zero": False}),
                    "color": _text("run", None, sort=None),
                    "tooltip": [
                        _text("run", "run"),
                        _number("step", "step", format=","),
                        _number("value", title, format=".4~f"),
                    ],
                },
            },
        ],
    )


def templates(series: Sequence[str] = ()) -> dict[str, Any]:
    """What the page's script fills: every chart, and the themes; `series` as `front` has it."""
    charts = (bars, dots, heat, convergence, stages, curves)
    return {
        "charts": {"front": front(series=series), **{c.__name__: c() for c in charts}},
        "themes": {theme: config(theme) for theme in THEMES},
    }
