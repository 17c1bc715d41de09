"""search.json of searches that measured nothing, with figures that follow a rule."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from halut.search.out import BUDGETS, write_search
from halut.search.trials import outcome as by_trials

EXACT = 90.0
COMMAND = "halut search budget=bytes:100 data=digits"


def figures(rise: float) -> dict[str, float]:
    """Of a plan that raises the loss so far: 20 points for a rise of 1."""
    return {"accuracy": EXACT - 20 * rise, "loss": 1 + rise, "lost": 20 * rise, "rise": rise}


def plan(name: str, size: float, rise: float, predicted: float | None = None) -> dict[str, Any]:
    """A measured plan of two sites, in search.json's own form."""
    costs = {"bytes": size, "operations": 10 * size}
    options = {"conv1": "keep", "conv2": f"tree C={name[-1]}"}
    files = {"plan": f"plans/{name}.json", "command": f"python train.py plan=plans/{name}.json"}
    line = {"options": options, "costs": costs, "predicted": predicted}
    return {**line, **figures(rise), **files}


def budget(path: Path, count: int = 20) -> Path:
    """A search within two budgets of bytes, one of which nothing meets; `count` random plans."""
    draw = random.Random(0)
    plans = []
    for index in range(count):
        rise = 0.5 + draw.random()
        each = plan(f"bytes_100_random_{index}", 90 + draw.random() * 9, rise, rise * 1.1)
        plans.append({**each, "corrected": rise + 0.01})
    drawn = {
        "cost_at_least": 0.9,
        "plans": plans,
        "best": min(plans, key=lambda each: each["rise"]),
        "rank_correlation": {"predicted": 0.875, "corrected": 1.0},
    }
    met = {
        "label": "bytes <= 100",
        "budget": {"bytes": 100.0},
        "met": True,
        "missing": None,
        **plan("bytes_100", 98, 0.25, 0.2),
        "uniform": {
            "option": "tree C=4",
            **plan("bytes_100_uniform", 95, 0.4, 0.45),
            "run": {"command": "python train.py one", "val_accuracy": 82.5, "test_accuracy": 81.0},
        },
        "tried": [plan("bytes_100_tried_0", 97, 0.3, 0.15)],
        "random": drawn,
        "run": {"command": "python train.py run", "val_accuracy": 84.5, "test_accuracy": 83.25},
    }
    nearest = {
        "label": "bytes <= 10",
        "budget": {"bytes": 10.0},
        "met": False,
        "missing": ["bytes", 20.0],
        **plan("bytes_10", 30, 1.5, 1.25),
        "uniform": None,
        "tried": [],
        "random": None,
    }
    names = {"exact": (400, 0.0), "INT8": (110, 0.05), "INT4": (60, 0.75)}
    beside = [{"name": name, **plan(name, *each)} for name, each in names.items()]
    points = [(30.0, 1.6, None), (60.0, 1.0, 20.0), (98.0, 0.25, 5.0), (400.0, 0.0, 0.0)]
    front = [{"bytes": b, "predicted_rise": r, "predicted_lost": lost} for b, r, lost in points]
    content = {
        "score": "loss",
        "samples": 500,
        "exact": figures(0.0),
        "references": beside,
        "budgets": [met, nearest],
        "fronts": {"bytes": front},
    }
    write_search(path, BUDGETS, COMMAND, content)
    return path


def trials(path: Path, count: int = 12, seeds: int = 2, minimize: bool = True) -> Path:
    """A search by two samplers, each seed's study of `count` trials: accuracy grows with bytes."""
    names = ["bytes"] if minimize else []
    studies = [
        _study(sampler, seed, count, names)
        for sampler in ("tpe", "random")
        for seed in range(seeds)
    ]
    chosen = [
        {
            **{key: study[key] for key in ("curve", "sampler", "seed")},
            "number": number,
            "val_accuracy": study["trials"][number]["values"][0],
            "test_accuracy": study["trials"][number]["values"][0] - 1.5,
            **{key: study["trials"][number][key] for key in ("figures", "command", "run")},
        }
        for study in studies
        for number in study["best"]
    ]
    by_trials.write_outcome(path, "halut search sampler=tpe,random", studies, chosen)
    return path


def _study(sampler: str, seed: int, count: int, minimize: list[str]) -> dict[str, Any]:
    draw = random.Random(f"{sampler} {seed}")
    lines = [_trial(number, sampler, seed, draw, minimize) for number in range(count)]
    return {
        "curve": "",
        "sampler": sampler,
        "seed": seed,
        "objective": "val_accuracy",
        "minimize": minimize,
        "budget": {},
        "total": count,
        "trials": lines,
        "best": [each["number"] for each in by_trials.best(lines, minimize)],
    }


def _trial(
    number: int, sampler: str, seed: int, draw: random.Random, minimize: list[str]
) -> dict[str, Any]:
    C = draw.choice([4, 8, 16, 32])
    accuracy, size = 60 + C / 2 + 10 * draw.random(), 1000.0 * C + 100 * draw.random()
    failed = number % 6 == 5
    words = f"seed={seed} halut.C={C} optim.lr.table={number}e-4"
    return {
        "number": number,
        "state": "fail" if failed else "complete",
        "values": None if failed else [accuracy, *([size] if minimize else [])],
        "params": {"halut.C": C, "optim.lr.table": f"{number}e-4"},
        "overrides": words.split(),
        "command": f"python train.py data=digits {words}",
        "run": f"{sampler}/trials/{number}",
        "reason": "the loss is not finite" if failed else None,
        "figures": {} if failed else {"val_accuracy": accuracy, "bytes": size},
        "seconds": 2.5 + number,
    }
