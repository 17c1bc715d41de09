"""searches.md, out of what the shipped searches wrote.

python benchmarks/searches.py            (what benchmarks/searches.sh searched)

Of budgets: searches/NAME_SEED/search.json, and the store of runs of one C, searches/uniform. Of
trials: searches/NAME/search.json. No figure comes from elsewhere.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from studies import markdown

from halut.io import read_json, write_bytes
from halut.results.store import Store

HERE = Path(__file__).parent
FOLDER = HERE / "searches"
SPLITS = ("val", "test")
ENCODERS = {"tree": "trees", "pq": "prototypes"}
"""Encoders of uniform runs, the better one last."""


def spread(values: Iterable[float], form: str = "{:.2f}") -> str:
    """The mean, with the sample deviation of several."""
    every = list(values)
    mean = form.format(statistics.fmean(every))
    if len(every) < 2:
        return mean
    return f"{mean} ± {form.replace('+', '').format(statistics.stdev(every))}"


Accuracies = Sequence[Mapping[str, float]]
"""val_accuracy and test_accuracy of a run of each seed."""


def both(runs: Accuracies) -> str:
    """Validation / test."""
    return " / ".join(spread(run[f"{split}_accuracy"] for run in runs) for split in SPLITS)


def gains(ours: Accuracies, theirs: Accuracies) -> str:
    """By how many points each seed's run is better, validation / test."""
    keys = [f"{split}_accuracy" for split in SPLITS]
    pairs = list(zip(ours, theirs, strict=True))
    return " / ".join(spread((a[key] - b[key] for a, b in pairs), "{:+.2f}") for key in keys)


def uniform_runs(folder: str, encoder: str, table_bytes: float, seeds: Sequence[int]) -> Accuracies:
    """The runs of the most codebooks at all layers within so many bytes of tables."""
    records = Store(FOLDER / folder).read().records
    runs = []
    for seed in seeds:
        own = [r for r in records if (r.operator, r.seed) == (encoder, seed)]
        fitting = [r.figures for r in own if r.figures["table_bytes"] <= table_bytes]
        runs.append(max(fitting, key=lambda figures: figures["table_bytes"]))
    return runs


def budgets(name: str, entry: Mapping[str, Any]) -> list[str]:
    """Two tables of a row for each budget: runs, and plans as they were measured; the commands."""
    seeds = entry["seeds"]
    searches = [read_json(FOLDER / f"{name}_{seed}" / "search.json") for seed in seeds]
    head = ["budget", "one option everywhere", "searched", "gain"]
    if "uniform" in entry:
        named = [f"the same C, {title}" for title in ENCODERS.values()]
        head = ["budget", *named, *head[1:], f"gain over {named[-1]}"]
    runs, plans = [], []
    for index, first in enumerate(searches[0]["budgets"]):
        ((resource, limit),) = first["budget"].items()
        label = f"{resource} {limit:,.6g}"
        own = [search["budgets"][index] for search in searches]
        ours = [outcome["run"] for outcome in own]
        theirs = [outcome["uniform"]["run"] for outcome in own]
        cells = [both(theirs), both(ours), gains(ours, theirs)]
        if "uniform" in entry:
            same = [uniform_runs(entry["uniform"], each, limit, seeds) for each in ENCODERS]
            cells = [*map(both, same), *cells, gains(ours, same[-1])]
        runs.append([label, *cells])
        random = [outcome["random"] for outcome in own]
        plans.append(
            [
                label,
                *(spread(outcome[key] for outcome in own) for key in ("predicted", "rise", "lost")),
                spread(outcome["uniform"]["lost"] for outcome in own),
                spread(each["best"]["lost"] for each in random),
                spread(each["rank_correlation"]["predicted"] for each in random),
            ]
        )
    count = len(searches[0]["budgets"][0]["random"]["plans"])
    head_of_plans = [
        *("budget", "searched: predicted rise", "measured rise", "lost", "one option: lost"),
        *(f"best of {count} random: lost", "rank correlation"),
    ]
    commands = [f"    {search['command']}" for search in searches]
    return [*markdown(head, runs), "", *markdown(head_of_plans, plans), "", *commands, ""]


def trials(name: str) -> list[str]:
    """The command, the picture, and a row for each curve and sampler."""
    search = read_json(FOLDER / name / "search.json")
    rows = []
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for study in search["studies"]:
        groups.setdefault((study["curve"], study["sampler"]), []).append(study)
    chosen = search["chosen"]
    for (curve, sampler), studies in groups.items():
        own = [c for c in chosen if (c["curve"], c["sampler"]) == (curve, sampler)]
        states = [trial["state"] for study in studies for trial in study["trials"]]
        rows.append(
            [
                ", ".join(each for each in (curve, sampler) if each),
                f"{len(studies)} x {studies[0]['total']}",
                *(str(states.count(state)) for state in ("pruned", "fail")),
                spread(c["val_accuracy"] for c in own),
                spread(c["test_accuracy"] for c in own),
                spread((c["figures"]["bytes"] for c in own), "{:,.0f}"),
            ]
        )
    head = ["curve", "trials", "over budget", "failed", "best: validation", "test", "bytes"]
    return [
        f"    {search['command']}",
        "",
        f"![{name}: best so far](searches/{name}/curves.png)",
        "",
        *markdown(head, rows),
    ]


def text() -> str:
    """searches.md."""
    content = yaml.safe_load((HERE / "searches.yaml").read_text())
    lines = ["# Searches, measured", "", content["head"]]
    for name, entry in content["budgets"].items():
        lines += [f"## {entry['title']}", "", entry["text"], *budgets(name, entry)]
        lines += [entry["showed"]]
    for name, entry in content["trials"].items():
        lines += [f"## {entry['title']}", "", entry["text"], *trials(name), entry["showed"]]
    return "\n".join(lines).rstrip("\n") + "\n"


def main() -> int:
    """Write searches.md."""
    write_bytes(HERE / "searches.md", text().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
