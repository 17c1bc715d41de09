"""search.json of `halut search` as plain data for the page: plans under budgets, and trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halut.analysis.run_figures import FIGURES
from halut.errors import HalutError
from halut.io import read_json, reading
from halut.page.columns import as_columns
from halut.page.outcomes import COSTS, EXTRA, UNITS

FILE = "search.json"
SCHEMA = 1
TITLES = {**COSTS, **EXTRA, "table_bytes": "bytes of look-up tables"}
"""Of what searches make small or put under a budget."""


STATES = {"pruned": "pruned", "fail": "failed"}
"""Of trials that are not complete, in words."""


def search_folders(folder: Path) -> list[Path]:
    """The folders of searches at and below `folder`."""
    return sorted(path.parent for path in folder.rglob(FILE))


def read_search(folder: Path, name: str) -> dict[str, Any]:
    """A search for the page, by its kind as `_by_budget` and `_by_trials` have it.

    HalutError naming the file if it is damaged, or of another version.
    """
    path = folder / FILE
    content = read_json(path, {})
    if content.get("schema") != SCHEMA:
        version = f"schema {content['schema']}" if "schema" in content else "without a schema"
        raise HalutError(f"{path}: {version}: this version reads schema {SCHEMA}; search again")
    kinds = {"budget": _by_budget, "trials": _by_trials}
    with reading(path):
        if content.get("kind") not in kinds:
            raise ValueError(f"kind {content.get('kind')!r} is none of {', '.join(kinds)}")
        head = {"name": name, "kind": content["kind"], "command": content["command"]}
        return {**head, **kinds[content["kind"]](content)}


def _by_budget(content: Mapping[str, Any]) -> dict[str, Any]:
    """{"figure" that is predicted, "samples", "resources", "plans", "fronts", "budgets"}.

    A row of plans is a measured one: "label", "kind" (exact, INT8, INT4, random, tried, nearest,
    uniform, found), "budget", "operators", accuracy, lost, rise, loss, "predicted", "corrected",
    its costs, "command". A row of fronts is a point of the predicted trade-off: "resource", its
    cost by that name, and accuracy, lost and rise as predicted. A row of budgets is an answer.
    """
    figure = "lost" if content["score"] == "lost" else "rise"
    plans = [_plan(row, row["name"], row["name"], None) for row in content["references"]]
    for outcome in content["budgets"]:
        plans += _plans_of(outcome)
    fronts = [
        _front_point(point, resource, figure, content["exact"]["accuracy"])
        for resource, points in content["fronts"].items()
        for point in points
    ]
    return {
        "figure": figure,
        "samples": content["samples"],
        "resources": {name: _cost(name) for name in content["fronts"]},
        "plans": as_columns(plans),
        "fronts": as_columns(fronts),
        "budgets": as_columns([_answer(outcome) for outcome in content["budgets"]]),
    }


def _plans_of(outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those measured for a budget; what counts most stands last, and is drawn above the others."""
    budget = outcome["label"]

    def row(plan: Mapping[str, Any], kind: str, number: str = "") -> dict[str, Any]:
        return _plan(plan, f"{kind}{number}, {budget}", kind, budget)

    random = (outcome["random"] or {}).get("plans", [])
    rows = [row(plan, "random", f" {index}") for index, plan in enumerate(random)]
    rows += [row(plan, "tried", f" {index}") for index, plan in enumerate(outcome["tried"])]
    if outcome["uniform"] is not None:
        rows.append(row(outcome["uniform"], "uniform"))
    return [*rows, row(outcome, "found" if outcome["met"] else "nearest")]


def _plan(plan: Mapping[str, Any], label: str, kind: str, budget: str | None) -> dict[str, Any]:
    counts = Counter(plan.get("options", {}).values())
    return {
        "label": label,
        "kind": kind,
        "budget": budget,
        "operators": ", ".join(f"{count} x {option}" for option, count in counts.items()) or None,
        **{key: plan[key] for key in ("accuracy", "lost", "loss", "rise")},
        **{key: plan.get(key) for key in ("predicted", "corrected")},
        **plan["costs"],
        "command": plan["command"],
    }


def _front_point(
    point: Mapping[str, Any], resource: str, figure: str, exact: float
) -> dict[str, Any]:
    lost = point["predicted_lost"]
    return {
        "resource": resource,
        resource: point[resource],
        "accuracy": None if lost is None else exact - lost,
        "lost": lost,
        "rise": point["predicted_rise"] if figure == "rise" else None,
    }


def _answer(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What a budget got: figures of its plan, of the uniform and random ones beside it, its run."""
    uniform, random = outcome["uniform"] or {}, outcome["random"] or {}
    ran, beside = outcome.get("run", {}), uniform.get("run", {})
    missing = outcome["missing"]
    best = random.get("best") or {}
    correlations = random.get("rank_correlation", {})
    return {
        "label": outcome["label"],
        "missing": None
        if missing is None
        else f"no plan: misses by {missing[1]:,.6g} {missing[0]}",
        **{key: outcome[key] for key in ("accuracy", "lost")},
        **outcome["costs"],
        "uniform": uniform.get("option"),
        "uniform_lost": uniform.get("lost"),
        "random": len(random.get("plans", [])) or None,
        "random_lost": best.get("lost"),
        "rank_correlation": correlations.get("predicted"),
        "rank_correlation_corrected": correlations.get("corrected"),
        "val_accuracy": ran.get("val_accuracy"),
        "test_accuracy": ran.get("test_accuracy"),
        "uniform_val_accuracy": beside.get("val_accuracy"),
        "uniform_test_accuracy": beside.get("test_accuracy"),
        "command": ran.get("command", outcome["command"]),
    }


def _by_trials(content: Mapping[str, Any]) -> dict[str, Any]:
    """{"objective" in words, "minimize", "parameters", "trials", "curves", "chosen"}.

    A row of trials: "study", "series" (curve and sampler), "seed", "number", "state" (complete,
    over the budget, pruned, failed), "value" of the objective, "bytes" and what is made small,
    "parameters" as KEY=VALUE words and each as "parameter:KEY", "seconds", "reason", "best" (of
    its study, or on its front), "command". A row of curves is a point of the best so far.
    """
    studies = content["studies"]
    objectives = list(dict.fromkeys(study["objective"] for study in studies))
    minimize = list(dict.fromkeys(name for study in studies for name in study["minimize"]))
    parameters = dict.fromkeys(
        name for study in studies for trial in study["trials"] for name in trial["params"]
    )
    short = short_names(list(parameters))
    trials = [_trial(trial, study, short) for study in studies for trial in study["trials"]]
    curves = [
        {"series": _series(curve), "seeds": len(curve["seeds"]), **point}
        for curve in content["curves"]
        for point in curve["points"]
    ]
    parameters_of = {(row["study"], row["number"]): row["parameters"] for row in trials}
    return {
        "objective": _objective(objectives[0]) if len(objectives) == 1 else FIGURES["val_accuracy"],
        "minimize": {name: _cost(name) for name in minimize},
        "parameters": {f"parameter:{name}": short[name] for name in parameters},
        "studies": len(studies),
        "total": sum(study["total"] for study in studies),
        "trials": as_columns(trials),
        "curves": as_columns(curves),
        "chosen": as_columns([_chosen(each, parameters_of) for each in content["chosen"]]),
    }


def _trial(
    trial: Mapping[str, Any], study: Mapping[str, Any], short: Mapping[str, str]
) -> dict[str, Any]:
    values, figures, reason = trial["values"], trial["figures"], trial["reason"]
    complete = "complete" if reason is None else "over the budget"
    costs = ("bytes", *study["minimize"])
    return {
        "label": f"trial {trial['number']}, {_study(study)}",
        "study": _study(study),
        "series": _series(study),
        "seed": study["seed"],
        "number": trial["number"],
        "state": STATES.get(trial["state"], complete),
        "value": None if values is None else values[0],
        **{name: figures.get(name) for name in costs},
        "parameters": " ".join(f"{short[key]}={value}" for key, value in trial["params"].items()),
        **{f"parameter:{key}": value for key, value in trial["params"].items()},
        "seconds": trial["seconds"],
        "reason": reason,
        "best": "best" if trial["number"] in study["best"] else None,
        "command": trial["command"],
    }


def _chosen(trial: Mapping[str, Any], parameters: Mapping[tuple[str, int], str]) -> dict[str, Any]:
    study = _study(trial)
    return {
        "label": f"trial {trial['number']}, {study}",
        "study": study,
        "number": trial["number"],
        **{key: trial[key] for key in ("val_accuracy", "test_accuracy")},
        "bytes": trial["figures"].get("bytes"),
        "parameters": parameters.get((study, trial["number"])),
        "command": trial["command"],
    }


def _series(study: Mapping[str, Any]) -> str:
    return ", ".join(name for name in (study["curve"], study["sampler"]) if name)


def _study(study: Mapping[str, Any]) -> str:
    return f"{_series(study)}, seed {study['seed']}"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Parameters by the last part of their key, where that tells them apart.

    >>> short_names(["model.options.depth", "optim.lr.table", "base.lr.table"])
    {'model.options.depth': 'depth', 'optim.lr.table': 'optim.lr.table', 'base.lr.table': 'base.lr.table'}
    """  # noqa: E501
    last = {}
    for name in names:
        key, colon, rest = name.partition(":")
        last[name] = key.rpartition(".")[2] + colon + rest
    count = Counter(last.values())
    return {name: short if count[short] == 1 else name for name, short in last.items()}


def _objective(name: str) -> str:
    """A figure in words; base.NAME is that of the exact network."""
    if name.startswith("base."):
        return f"{FIGURES.get(name.removeprefix('base.'), name)}, exact network"
    return FIGURES.get(name, name)


def _cost(name: str) -> dict[str, str]:
    return {"title": TITLES[name], "unit": UNITS.get(name, "")}
