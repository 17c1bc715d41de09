"""One run folder as plain data for the page."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from halut.analysis.run_figures import (
    FINISHED,
    RunRecord,
    mapping,
    mappings,
    normalized_mse_of,
    read_run,
)
from halut.analysis.variants import variants
from halut.errors import HalutError
from halut.io import read_json, reading
from halut.page.operators import site_operators
from halut.page.shapes import sizes
from halut.sites.plan import KEEP

POINTS = 300
"""Points of a curve on the page; more are averaged in groups of as many steps."""
CURVES = ("train/", "val/")
"""What metrics.csv's keys begin with that the page draws."""
INSPECTION = "inspection.json"
"""What a run measures of its network for the page: code use, errors, confusions, worst images."""


def read_run_folder(path: Path, name: str, notes: list[str]) -> dict[str, Any]:
    """A run for the page; what is missing or damaged is left out and said in `notes`.

    {"name", "status", "subject", "model", "data", "seed", "command", "config", "variants",
    "stages", "curves", "borders", "sites", "plan", "unsupported", "confusion", "worst", "versions",
    "classes", "energies", "seconds"}; variants as halut.analysis.variants has them.
    """
    record = read_run(path)
    if record.status != FINISHED:
        notes.append(f"{name}: {record.status}: {record.error}")
    report = _file(path / "report.json", name, notes)
    plan = _file(path / "plan.json", name, notes)
    inspection = _file(path / INSPECTION, name, notes)
    curves, borders = _curves(path / "metrics.csv", name, notes)
    run = {
        "name": name,
        "status": record.status,
        **_facts(record, report),
        "variants": _guarded(lambda: variants(report), [], name, notes) if report else [],
        "stages": mappings(report.get("stages")),
        "curves": curves,
        "borders": borders,
        "plan": plan or None,
        "unsupported": mapping(plan.get("unsupported")),
        "confusion": inspection.get("confusion"),
        "worst": inspection.get("worst"),
    }
    lost = _file(path / "sensitivity.json", name, notes)
    run["sites"] = _guarded(lambda: site_rows(plan, report, curves, lost), [], name, notes)
    weights = path / "bundle" / "model.safetensors"
    operators: dict[str, Any] = {}
    if weights.exists():
        operators = _guarded(lambda: site_operators(weights, plan), {}, name, notes)
    measured = mapping(inspection.get("sites"))
    run["details"] = {
        site["name"]: {**operators.get(site["name"], {}), **mapping(measured.get(site["name"]))}
        for site in run["sites"]
        if site["name"] in operators or site["name"] in measured
    }
    run["curves"] = {k: v for k, v in curves.items() if k.startswith(CURVES)}
    return run


def _facts(record: RunRecord, report: Mapping[str, Any]) -> dict[str, Any]:
    model, data = mapping(report.get("model")), mapping(report.get("data"))
    environment = mapping(report.get("environment"))
    energies = mapping(mapping(report.get("cost")).get("energies"))
    config = record.config
    return {
        "subject": record.subject
        or " on ".join(str(config[k]) for k in ("model.name", "data.name") if config.get(k)),
        "model": model.get("name", config.get("model.name")),
        "data": data.get("name", config.get("data.name")),
        "seed": report.get("seed", config.get("seed")),
        "command": report.get("command"),
        "config": config,
        "figures": record.figures,
        "versions": {k: v for k, v in environment.items() if isinstance(v, str | int | float)},
        "classes": data.get("classes"),
        "energies": f"{energies['name']}, {energies.get('source')}" if "name" in energies else None,
        "seconds": report.get("seconds"),
    }


def site_rows(
    plan: Mapping[str, Any],
    report: Mapping[str, Any],
    curves: Mapping[str, Any] = MappingProxyType({}),
    sensitivity: Mapping[str, Any] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """A row for every site of the plan, and for those that only the report names.

    `curves` are those of metrics.csv, {key: {"value"}}; `sensitivity` is points lost by site.
    """
    reported = {site["name"]: site for site in mappings(report.get("sites"))}
    rows = []
    for entry in mappings(plan.get("entries")):
        site = mapping(entry["site"])
        row = reported.pop(site["name"], {})
        rows.append(_site(site, entry, row, curves, sensitivity))
    for name, row in reported.items():
        rows.append(_site({"name": name}, row, row, curves, sensitivity))
    return rows


def _site(
    site: Mapping[str, Any],
    entry: Mapping[str, Any],
    report: Mapping[str, Any],
    curves: Mapping[str, Any],
    sensitivity: Mapping[str, Any],
) -> dict[str, Any]:
    name, options = site["name"], mapping(entry.get("options"))

    def last(figure: str) -> float | None:
        curve = curves.get(f"layers/{name}/{figure}")
        return curve["value"][-1] if curve else None

    kind = site.get("kind")
    geometry = mapping(site.get("geometry"))
    return {
        "name": name,
        "kind": kind,
        "operator": entry.get("operator"),
        "D": site.get("D"),
        "M": site.get("M"),
        "groups": site.get("groups"),
        "rows": site.get("rows"),
        "kernel": geometry.get("kernel"),
        **sizes(entry.get("operator"), options, site.get("D")),
        "stage": entry.get("stage"),
        "bytes": report.get("bytes"),
        "exact_bytes": report.get("exact_bytes"),
        "int8_bytes": report.get("int8_bytes"),
        "normalized_mse": normalized_mse_of(report),
        "code_perplexity": report.get("code_perplexity"),
        "dead_prototypes": report.get("dead_prototypes"),
        "clipping_rate": last("clipping_rate"),
        "lost_alone": sensitivity.get(name),
        "reason": entry.get("reason") or None,
        "options": None if entry.get("operator") == KEEP else dict(options),
    }


def _curves(
    path: Path, name: str, notes: list[str]
) -> tuple[dict[str, dict[str, list[Any]]], list[dict[str, Any]]]:
    """{key: {"step", "value"}} over the monotonic step, and the first step of every stage."""
    raw: dict[str, list[tuple[int, float]]] = defaultdict(list)
    first: dict[str, int] = {}
    damaged = infinite = 0
    if not path.exists():
        return {}, []
    with path.open(newline="", errors="replace") as file:
        for row in csv.DictReader(file):
            try:
                step, value, key = int(row["step"]), float(row["value"]), row["key"]
                stage = row["stage"]
            except (TypeError, ValueError, KeyError):
                damaged += 1
                continue
            first[stage] = min(step, first.get(stage, step))
            if key.startswith((*CURVES, "layers/")):
                if math.isfinite(value):
                    raw[key].append((step, value))
                else:
                    infinite += 1
    if damaged:
        notes.append(f"{name}: metrics.csv: {damaged} damaged lines are left out")
    if infinite:
        notes.append(f"{name}: metrics.csv: {infinite} figures are not finite, and no points")
    borders = [{"stage": stage, "step": step} for stage, step in first.items()]
    return {key: thinned(sorted(points)) for key, points in raw.items()}, borders


def thinned(points: list[tuple[int, float]]) -> dict[str, list[Any]]:
    """{"step", "value"} of at most POINTS: means of groups of equally many, at their last step."""
    size = -(-len(points) // POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return {
        "step": [group[-1][0] for group in groups],
        "value": [math.fsum(v for _, v in group) / len(group) for group in groups],
    }


def _file(path: Path, name: str, notes: list[str]) -> dict[str, Any]:
    """A JSON object, {} where there is none."""
    try:
        content: dict[str, Any] = read_json(path, {})
        return content
    except FileNotFoundError:
        return {}
    except (HalutError, OSError) as error:
        notes.append(f"{name}: {str(error).replace(str(path), path.name)}")
        return {}


def _guarded(make: Any, default: Any, name: str, notes: list[str]) -> Any:
    """What `make` gives, or the default where a file holds other things than a run writes."""
    try:
        with reading(Path(name)):
            return make()
    except HalutError as error:
        notes.append(str(error))
        return default
