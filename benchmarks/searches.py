"""searches.md, out of what the shipped searches wrote.

python benchmarks/searches.py            (what benchmarks/searches.sh searched)

Of budgets: searches/NAME_SEED/search.json. Of trials: searches/NAME/search.json. No figure comes
from elsewhere.
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

HERE = Path(__file__).parent
FOLDER = HERE / "searches"


def spread(values: Iterable[float], form: str = "{:.2f}") -> str:
    """The mean, with the sample deviation of several."""
    every = list(values)
    mean = form.format(statistics.fmean(every))
    if len(every) < 2:
        return mean
    return f"{mean} ± {form.replace('+', '').format(statistics.stdev(every))}"


def uniform_accuracy(outcome: Mapping[str, Any]) -> float:
    """Validation accuracy of the run of the best option everywhere."""
    plans = [run for run in outcome["verified"] if len(set(run["options"].values())) == 1]
    return float(plans[0]["val_accuracy"])


def budgets(name: str, seeds: Sequence[int]) -> list[str]:
    """A row for each budget: the searched plan, one option everywhere, and random plans."""
    searches = [read_json(FOLDER / f"{name}_{seed}" / "search.json") for seed in seeds]
    rows = []
    for index, first in enumerate(searches[0]["budgets"]):
        ((resource, limit),) = first["budget"].items()
        own = [search["budgets"][index] for search in searches]
        ours = [outcome["run"]["val_accuracy"] for outcome in own]
        theirs = [uniform_accuracy(outcome) for outcome in own]
        gains = [a - b for a, b in zip(ours, theirs, strict=True)]
        random = [outcome["random"] for outcome in own]
        rows.append(
            [
                f"{resource} {limit:,.6g}",
                *(spread(theirs), spread(ours), spread(gains, "{:+.2f}")),
                spread(outcome["run"]["test_accuracy"] for outcome in own),
                spread(outcome["lost"] for outcome in own),
                spread(each["best"]["lost"] for each in random),
                spread(each["rank_correlation"]["predicted"] for each in random),
            ]
        )
    head = [
        *("budget", "one option: validation", "searched", "gain", "searched: test"),
        *("searched: lost", "best of 100 random: lost", "rank correlation"),
    ]
    return [*markdown(head, rows), *(f"    {search['command']}" for search in searches), ""]


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
        lines += [f"## {entry['title']}", "", entry["text"], *budgets(name, entry["seeds"])]
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
