"""The page's charts as SVG, PDF and PNG files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from halut.errors import HalutError
from halut.io import write_bytes
from halut.option import unknown
from halut.page import charts, search_charts, vega
from halut.page.columns import as_rows
from halut.page.outcomes import COSTS, EXTRA, UNITS

STAGE_KEYS = ("val_accuracy_before", "val_accuracy_after_swap", "val_accuracy_after_training")
FORMATS = ("svg", "pdf", "png")
WIDTH = 560
"""Pixels of a chart's plane."""


def write_pictures(folder: Path, page: Mapping[str, Any], formats: Sequence[str]) -> list[str]:
    """Every chart that has data as FOLDER/NAME.FORMAT; the names. HalutError on another format."""
    import vl_convert

    for each in formats:
        if each not in FORMATS:
            raise HalutError(unknown("format of pictures", each, FORMATS))
    draw = {
        "svg": lambda spec: vl_convert.vegalite_to_svg(spec).encode(),
        "pdf": lambda spec: vl_convert.vegalite_to_pdf(spec),
        "png": lambda spec: vl_convert.vegalite_to_png(spec, scale=2),
    }
    written = []
    for name, spec in specifications(page):
        for each in formats:
            write_bytes(folder / f"{name}.{each}", draw[each](spec))
            written.append(f"{name}.{each}")
    return written


def specifications(page: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, chart with its data) of every chart that has any."""
    lines, records = as_rows(page["headline"]), as_rows(page["records"])
    series = [row["series"] for row in lines]
    for cost in [k for k in page["headline"]["columns"] if _is_cost(k)]:
        rows = [r for r in lines if r.get(cost) and r.get("accuracy") is not None]
        if rows:
            title = {**COSTS, **EXTRA}.get(cost, cost.replace("_", " "))
            own = {row["series"] for row in rows}
            front = charts.front(cost, title, UNITS.get(cost, ""), series, own)
            yield f"front-{cost}", _filled(front, rows)
    measured = [r for r in records if r["kind"] == "sensitivity" and r.get("lost") is not None]
    if measured:
        many = len({row["option"] for row in measured}) > len(vega.PALETTES["light"])
        yield "sensitivity", _filled(charts.dots() if many else charts.bars(), measured)
        squares = [row for row in measured if row.get("C") and row.get("K")]
        if squares:
            for family in dict.fromkeys(row["family"] for row in squares):
                cells = [row for row in squares if row["family"] == family]
                if len({(row["C"], row["K"]) for row in cells}) > 1:
                    name = "-".join(re.findall(r"[\w.]+", family))
                    yield f"codebooks-{name}", _filled(charts.heat(), cells)
    drawn = [r for r in records if r["kind"] == "convergence" and r.get("accuracy") is not None]
    if drawn:
        rows = [{**row, "series": f"{row['site']} {row['option']}"} for row in drawn]
        yield "convergence", _filled(charts.convergence(), rows)
    if rows := stage_rows(page["runs"]):
        yield "stages", _filled(charts.stages(), rows)
    for key in dict.fromkeys(key for run in page["runs"] for key in run["curves"]):
        rows = curve_rows(page["runs"], key)
        yield f"curve-{key.replace('/', '-')}", _filled(charts.curves(key), rows)
    for search in page["searches"]:
        name = "-".join(("search", *re.findall(r"[\w.]+", search["name"])))
        pictures = _of_budgets if search["kind"] == "budget" else _of_trials
        for ending, spec, rows in pictures(search):
            yield f"{name}-{ending}", _filled(spec, rows)


Picture = tuple[str, dict[str, Any], list[dict[str, Any]]]
"""End of a name, chart and rows."""


def _of_budgets(search: Mapping[str, Any]) -> Iterator[Picture]:
    """The front of each resource, and the predictions of each budget with random plans."""
    plans, fronts = as_rows(search["plans"]), as_rows(search["fronts"])
    drawn = list(dict.fromkeys(row["kind"] for row in plans))
    for resource, cost in search["resources"].items():
        rows = [row for row in fronts if row["resource"] == resource] + plans
        yield resource, search_charts.plans(resource, **cost, kinds=drawn), rows
    for number, budget in enumerate(as_rows(search["budgets"])):
        correlation = budget.get("rank_correlation")
        if correlation is None:
            continue
        own = [row for row in plans if row["kind"] == "random" and row["budget"] == budget["label"]]
        chart = search_charts.predictions(search["figure"], kinds=["random"])
        words = f"{budget['label']}, {len(own)} random plans: rank correlation {correlation:.2f}"
        rows = [{**row, "x": row["predicted"]} for row in own]
        yield f"predictions-{number}", {**chart, "title": words}, rows


def _of_trials(search: Mapping[str, Any]) -> Iterator[Picture]:
    """The best so far, and the trials over each cost that is made small."""
    if curves := as_rows(search["curves"]):
        yield "progress", search_charts.progress(search["objective"]), curves
    trials = [row for row in as_rows(search["trials"]) if row.get("value") is not None]
    for cost, words in search["minimize"].items() if trials else ():
        yield cost, search_charts.trials(cost, **words, objective=search["objective"]), trials


def _is_cost(name: str) -> bool:
    return not name.endswith("_std") and (
        name in COSTS or name == "energy" or name.startswith("latency")
    )


def _filled(spec: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    colors = {**vega.config("light"), "background": "white"}
    return {**spec, "width": WIDTH, "data": {"values": list(rows)}, "config": colors}


def stage_rows(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """{"run", "stage", "phase", "accuracy", "sites"}, three for every stage of every run."""
    return [
        {
            "run": run["name"],
            "stage": f"{index:02d}",
            "phase": phase,
            "accuracy": stage[key],
            "sites": ", ".join(map(str, stage.get("sites", []))),
        }
        for run in runs
        for index, stage in enumerate(run["stages"])
        for key, phase in zip(STAGE_KEYS, charts.PHASES, strict=True)
        if stage.get(key) is not None
    ]


def curve_rows(runs: Sequence[Mapping[str, Any]], key: str) -> list[dict[str, Any]]:
    """{"run", "step", "value"} of one key, and {"run", "border", "stage"} where stages begin."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        curve = run["curves"].get(key)
        if curve is None:
            continue
        points = zip(curve["step"], curve["value"], strict=True)
        rows += [{"run": run["name"], "step": s, "value": v} for s, v in points]
        rows += [
            {"run": run["name"], "border": border["step"], "stage": border["stage"]}
            for border in run["borders"]
        ]
    return rows
