"""What the charts are made of: colors, themes and parts of Vega-Lite specifications."""

from __future__ import annotations

from typing import Any

GRAY = "#7a8699"
HUES = (*("#e0701a", "#2f86c9", "#1f9e89", "#c2588f", "#b5851a", "#8a74c9", "#c0453c", "#4a9db5"),)
"""Of operators, on both backgrounds."""
SHAPES = (
    *("circle", "diamond", "square", "triangle-up", "cross", "triangle-down"),
    *("triangle-right", "triangle-left"),
)
"""Of references and of operators, in this order."""
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


def chart(**parts: Any) -> dict[str, Any]:
    """A specification as wide as its place, of the rows that it is given later."""
    return {"width": "container", "data": {"name": "rows"}, **parts}


def quantitative(field: str, title: str, **more: Any) -> dict[str, Any]:
    """A channel of numbers."""
    return {"field": field, "type": "quantitative", "title": title, **more}


def nominal(field: str, title: str | None = None, **more: Any) -> dict[str, Any]:
    """A channel of words."""
    return {"field": field, "type": "nominal", "title": title, **more}
