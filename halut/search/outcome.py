"""What a search by budgets found: search.json, and plan files with the commands that run them."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halut.io import read_json, write_bytes
from halut.search.budgeted import Answer, Comparison, Measured, Search
from halut.search.options import Space
from halut.sites.plan import Plan
from halut.training.config.run_config import TrainConfig
from halut.training.run import run

DIGITS = 12
"""Of a plan's digest, in the names of its file and folder."""
PLANNED = ("policy", "halut=", "halut.", "plan=", "run_dir=", "results=")
"""Overrides, by how they begin, in whose place the plan and the search's own folders are."""
UNTRAINED = ("schedule", "baseline=", "ptq=", "loss.", "optim.")
"""Those that mean nothing where nothing is trained."""


@dataclasses.dataclass(frozen=True)
class PlanFiles:
    """Plans as OUT/plans/NAME.json, for `python train.py plan=FILE` with the search's `overrides`.

    What was measured of a plan is without training: so is its command.
    """

    space: Space
    out: Path
    overrides: Sequence[str]

    def write(self, name: str, plan: Plan) -> dict[str, str]:
        """Write the plan; {"plan": its file, "command": what gives its figures again}."""
        path = self.out / "plans" / f"{name}.json"
        plan.save(path)
        return {"plan": str(path), "command": command_of(self.overrides, path, train=False)}

    def measured(self, name: str, measured: Measured) -> dict[str, Any]:
        """Write a measured plan; its options by site, costs, prediction, figures and files."""
        plan = self.space.plan_of(measured.options)
        return {
            "options": self.space.labels_of(measured.options),
            "costs": measured.costs,
            "predicted": measured.predicted,
            **measured.figures,
            **self.write(name, plan),
        }


def verify(
    answer: Answer, search: Search, files: PlanFiles, config: TrainConfig, count: int, train: bool
) -> list[dict[str, Any]]:
    """Run the `count` best plans of a budget of resources, and the uniform one, as train.py does,
    without the test split; the best of them by validation becomes the answer.

    Returns {"options", "plan", "command", "val_accuracy"} of each, the best first. Plans of a
    budget of points lost are taken as they were measured.
    """
    if answer.best is None or answer.budget.lost is not None:
        return []
    best = search.ranked(answer.budget)[:count]
    beside = [answer.uniform] if answer.uniform is not None and answer.uniform not in best else []
    runs = []
    for each in [*best, *beside]:
        plan = files.space.plan_of(each.options)
        if not plan.replaced:
            continue
        written, final = _run(config, files, plan, train, test=False)
        labels, accuracy = files.space.labels_of(each.options), final["val_accuracy"]
        runs.append((each, {"options": labels, **written, "val_accuracy": accuracy}))
    if runs:
        runs.sort(key=lambda pair: -pair[1]["val_accuracy"])
        answer.best = runs[0][0]
    return [run for _, run in runs]


def outcome_of(
    answer: Answer,
    comparison: Comparison | None,
    files: PlanFiles,
    config: TrainConfig,
    train: bool,
    verified: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Write the plans of an answer, run it as train.py does, and say what came out.

    The best plan of one option everywhere was run beside it, and is read on the test split, too:
    what is chosen is chosen before.

    Files are called after the budget: NAME.json, with NAME.rules.yaml, is the answer;
    NAME_uniform.json, NAME_tried_I.json and NAME_random_I.json are what was measured beside it.
    """
    chosen = answer.best or answer.nearest
    assert chosen is not None
    name = answer.budget.name
    plan = files.space.plan_of(chosen.options)
    own = files.measured(name, chosen)
    path = Path(own["plan"])
    write_bytes(path.with_suffix(".rules.yaml"), rules_of(plan).encode())
    tried = {each.options: each for each in answer.tried if each.options != chosen.options}
    uniform = answer.uniform
    outcome: dict[str, Any] = {
        "label": str(answer.budget),
        "budget": dict(answer.budget.limits),
        "met": answer.best is not None,
        "missing": answer.missing,
        **own,
        "uniform": None
        if uniform is None
        else {
            "option": uniform_label(files.space, uniform),
            **files.measured(f"{name}_uniform", uniform),
        },
        "tried": [
            files.measured(f"{name}_tried_{index}", each)
            for index, each in enumerate(tried.values())
        ],
        "random": None if comparison is None else _random(name, comparison, files),
        "verified": list(verified),
    }
    if answer.best is not None and plan.replaced:
        outcome["run"] = _final(config, files, plan, path, train)
        if uniform is not None and verified:
            same, file = files.space.plan_of(uniform.options), Path(outcome["uniform"]["plan"])
            outcome["uniform"]["run"] = _final(config, files, same, file, train)
    return outcome


def uniform_label(space: Space, uniform: Measured) -> str:
    """The option that a uniform plan has everywhere."""
    return space.groups[0].labels[uniform.options[0]]


def _random(name: str, comparison: Comparison, files: PlanFiles) -> dict[str, Any]:
    """Random plans as search.json has them; correlations that are not there are null."""
    pairs = zip(comparison.plans, comparison.corrected, strict=True)
    plans = [
        {**files.measured(f"{name}_random_{index}", each), "corrected": corrected}
        for index, (each, corrected) in enumerate(pairs)
    ]
    best = comparison.best
    return {
        "cost_at_least": comparison.at_least,
        "plans": plans,
        "best": None if best is None else plans[comparison.plans.index(best)],
        "rank_correlation": {
            name: None if math.isnan(value) else value
            for name, value in comparison.rank_correlation.items()
        },
    }


def front_of(search: Search, resource: str, points: int) -> list[dict[str, Any]]:
    """The predicted trade-off of a resource: what plans cost, and are predicted to lose."""
    return [
        {
            resource: cost,
            "predicted_rise": rise,
            "predicted_lost": search.points_of(rise),
            "options": search.space.labels_of(options),
        }
        for options, cost, rise in search.front(resource, points)
    ]


def _final(
    config: TrainConfig, files: PlanFiles, plan: Plan, path: Path, train: bool
) -> dict[str, Any]:
    """The command that runs a plan's file, and the accuracies of both splits that it ends with."""
    _, final = _run(config, files, plan, train, test=config.test)
    accuracies = {key: final[key] for key in ("val_accuracy", "test_accuracy")}
    return {"command": command_of(files.overrides, path, train), **accuracies}


def _run(
    config: TrainConfig, files: PlanFiles, plan: Plan, train: bool, test: bool
) -> tuple[dict[str, str], dict[str, Any]]:
    """What `files` wrote of a plan, and the final accuracies of its run, in a folder called after
    what the plan says: whichever budgets it is of, it runs once."""
    name = plan.digest[:DIGITS]
    written = files.write(name, plan)
    settings = run_config(config, Path(written["plan"]), files.out / "runs" / name, train)
    return written, dict(run(dataclasses.replace(settings, test=test))["final"])


def run_config(config: TrainConfig, plan: Path, folder: Path, train: bool) -> TrainConfig:
    """The configuration of `command_of`."""
    schedule = config.schedule
    if not train:
        schedule = dataclasses.replace(
            schedule, order="all_at_once", epochs=0, final_epochs=None, stages=[]
        )
    return dataclasses.replace(
        config,
        plan=str(plan),
        run_dir=str(folder),
        schedule=schedule,
        baseline=config.baseline and train,
        ptq=config.ptq if train else "none",
    )


def command_of(overrides: Sequence[str], plan: Path, train: bool) -> str:
    """What a user types to have the plan's figures again; `overrides` of a run folder, alone, are
    those of the run's own command."""
    if len(overrides) == 1 and (report := Path(overrides[0]) / "report.json").is_file():
        words = shlex.split(read_json(report).get("command") or "")
        overrides = [each for each in words if "=" in each]
    dropped = PLANNED if train else (*PLANNED, *UNTRAINED)
    own = [each for each in overrides if not each.lstrip("+").startswith(dropped)]
    untrained = ["schedule=all_at_once", "schedule.epochs=0", "baseline=false", "ptq=none"]
    words = [*own, f"plan={plan}", *([] if train else untrained)]
    return shlex.join(["python", "train.py", *words])


def rules_of(plan: Plan) -> str:
    """The plan as `policy.rules`, in YAML."""
    import yaml

    rules: list[dict[str, Any]] = []
    for entry in plan:
        rule: dict[str, Any] = {"name": entry.site.name, "operator": entry.operator}
        if entry.replaced:
            rule["options"] = entry.options
        rules.append(rule)
    share = {"share": True} if any(entry.shares for entry in plan) else {}
    text = yaml.safe_dump(
        {"policy": {**share, "rules": rules}}, sort_keys=False, default_flow_style=None
    )
    return str(text)
