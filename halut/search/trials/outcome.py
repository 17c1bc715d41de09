"""What a search by trials found: search.json, trials.csv, and the best accuracies so far."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halut.io import write_bytes
from halut.search.out import TRIALS, write_search
from halut.search.trials.space import EXACT
from halut.search.trials.study import SharedStudy

BASE = "base.val_accuracy"
"""Among a trial's figures: validation accuracy of the exact network."""
COLUMNS = ("curve", "sampler", "seed", "number", "state", "seconds", "reason", "command")


def study_content(study: SharedStudy) -> dict[str, Any]:
    """The study as search.json has it: its trials by number, and the numbers of the chosen."""
    spec = study.spec
    trials = [_trial(each) for each in study.finished()]
    return {
        "curve": spec.curve,
        "sampler": spec.sampler,
        "seed": spec.seed,
        "objective": spec.objective,
        "minimize": list(spec.minimize),
        "budget": dict(spec.limits),
        "total": study.total,
        "unrun": study.unrun(),
        "trials": trials,
        "best": [trial["number"] for trial in best(trials, spec.minimize)],
    }


def _trial(trial: Any) -> dict[str, Any]:
    attributes = trial.user_attrs
    complete = trial.state.name == "COMPLETE"
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "values": list(trial.values) if complete else None,
        "params": dict(trial.params),
        **{key: attributes.get(key) for key in ("overrides", "command", "run", "reason")},
        "figures": attributes.get("figures") or {},
        "seconds": None
        if trial.datetime_complete is None or trial.datetime_start is None
        else round((trial.datetime_complete - trial.datetime_start).total_seconds(), 2),
    }


def best(trials: Sequence[Mapping[str, Any]], minimize: Sequence[str]) -> list[Mapping[str, Any]]:
    """The trial of the best objective; with costs to make small, all than which none is better in
    everything. Trials over the budget, failed and ended ones are none."""
    complete = [t for t in trials if t["values"] is not None and t["reason"] is None]
    if not minimize:
        return [max(complete, key=lambda t: (t["values"][0], -t["number"]))] if complete else []

    def key(trial: Mapping[str, Any]) -> tuple[float, ...]:
        accuracy, *costs = trial["values"]
        return (-accuracy, *costs)

    front = []
    for trial in complete:
        own = key(trial)
        beaten = any(
            all(a <= b for a, b in zip(key(other), own, strict=True))
            and (key(other) != own or other["number"] < trial["number"])
            for other in complete
        )
        if not beaten:
            front.append(trial)
    return sorted(front, key=key)


def so_far(trials: Sequence[Mapping[str, Any]], total: int) -> list[float | None]:
    """The best objective after 1, 2, ... `total` trials; None before the first that has one, and
    after the last that has ended."""
    line: list[float | None] = []
    latest: float | None = None
    for trial in trials[:total]:
        if trial["values"] is not None and trial["reason"] is None:
            value = float(trial["values"][0])
            latest = value if latest is None else max(latest, value)
        line.append(latest)
    return line + [None] * (total - len(line))


def curves(studies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A curve for each curve and sampler: {"curve", "sampler", "seeds", "points"}, a point
    {"trial", "mean", "low", "high"} over the seeds that have one; those that stay out begin later.
    One more, level and without a sampler, is that of the exact networks, where all trials of a seed
    have the same.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for study in studies:
        groups.setdefault((study["curve"], study["sampler"]), []).append(study)
    result = []
    for (curve, sampler), own in groups.items():
        lines = [so_far(study["trials"], study["total"]) for study in own]
        points = []
        for index, column in enumerate(zip(*lines, strict=False)):
            values = [value for value in column if value is not None]
            if len(values) == len(lines):
                mean = statistics.fmean(values)
                points.append(
                    {"trial": index + 1, "mean": mean, "low": min(values), "high": max(values)}
                )
        seeds = [study["seed"] for study in own]
        result.append({"curve": curve, "sampler": sampler, "seeds": seeds, "points": points})
    return [*result, *_exact(studies)]


def _exact(studies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The accuracy of the exact networks as a curve like the others, level over all trials; none
    where they are searched, or what is searched is theirs."""
    accuracies: dict[int, set[float]] = {}
    for study in studies:
        figures = [trial["figures"] for trial in study["trials"]]
        known = {each[BASE] for each in figures if each.get(BASE) is not None}
        accuracies.setdefault(study["seed"], set()).update(known)
        if study["objective"] == BASE:
            return []
    if not accuracies or any(len(known) != 1 for known in accuracies.values()):
        return []
    values = [value for known in accuracies.values() for value in known]
    level = {"mean": statistics.fmean(values), "low": min(values), "high": max(values)}
    points = [{"trial": n + 1, **level} for n in range(max(study["total"] for study in studies))]
    return [{"curve": EXACT, "sampler": "", "seeds": list(accuracies), "points": points}]


def write_outcome(
    folder: Path, command: str, studies: Sequence[Mapping[str, Any]], chosen: Sequence[Any] = ()
) -> dict[str, Any]:
    """Write search.json and trials.csv; returns {"studies", "curves", "chosen"} of the first."""
    content = {"studies": list(studies), "curves": curves(studies), "chosen": list(chosen)}
    write_search(folder, TRIALS, command, content)
    write_bytes(folder / "trials.csv", _csv(studies).encode())
    return content


def _csv(studies: Sequence[Mapping[str, Any]]) -> str:
    trials = [(study, trial) for study in studies for trial in study["trials"]]
    parameters = list(dict.fromkeys(name for _, trial in trials for name in trial["params"]))
    names = list(dict.fromkeys(name for _, trial in trials for name in trial["figures"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *parameters, *names])
    for study, trial in trials:
        writer.writerow(
            [
                *(study.get(column, trial.get(column)) for column in COLUMNS),
                *(trial["params"].get(name) for name in parameters),
                *(trial["figures"].get(name) for name in names),
            ]
        )
    return text.getvalue()
