"""searches.md and the pages of the shipped searches, out of what the searches wrote.

python benchmarks/searches.py            (what benchmarks/searches.sh searched)

Of budgets: searches/NAME_SEED/search.json, and the store searches/NAME_uniform, of runs with one
option at all layers. Of trials: searches/NAME/search.json. No figure comes from elsewhere.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from halut.errors import HalutError
from halut.io import read_json, write_bytes
from halut.page.document import write_page
from halut.page.gather import gather
from halut.results.record import Record
from halut.results.store import Store

HERE = Path(__file__).parent
FOLDER = HERE / "searches"
MARGIN = 1 + 1e-9


def spread(values: Iterable[float], form: str = "{:.2f}") -> str:
    """The mean, with the sample deviation of several."""
    every = list(values)
    mean = form.format(statistics.fmean(every))
    return f"{mean} ± {form.format(statistics.stdev(every))}" if len(every) > 1 else mean


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown, numbers to the right."""
    right = "|".join(["---"] + ["---:"] * (len(head) - 1))
    lines = [f"| {' | '.join(head)} |", f"|{right}|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def best_uniform(records: Sequence[Record], seed: int, resource: str, limit: float) -> Record:
    """The run of one option everywhere, within the limit, that is best on the validation split."""
    own = [
        record
        for record in records
        if record.seed == seed and (record.figures[resource] or 0.0) <= limit * MARGIN
    ]
    if not own:
        raise HalutError(
            f"no run of one option everywhere has seed {seed} and {resource} <= {limit}"
        )
    return max(own, key=lambda record: record.figures["val_accuracy"] or 0.0)


def budgets(name: str, seeds: Sequence[int]) -> list[str]:
    """A row for each budget: the searched plan, one option everywhere, and random plans."""
    searches = [read_json(FOLDER / f"{name}_{seed}" / "search.json") for seed in seeds]
    uniform = Store(FOLDER / f"{name}_uniform").read().records
    rows = []
    for index, first in enumerate(searches[0]["budgets"]):
        ((resource, limit),) = first["budget"].items()
        found = [search["budgets"][index] for search in searches]
        beside = [best_uniform(uniform, seed, resource, limit) for seed in seeds]
        row = [f"{resource} {limit:,.6g}"]
        for split in ("val", "test"):
            ours = [outcome["run"][f"{split}_accuracy"] for outcome in found]
            theirs = [float(record.figures[f"{split}_accuracy"] or 0.0) for record in beside]
            gains = [a - b for a, b in zip(ours, theirs, strict=True)]
            row += [spread(theirs), spread(ours), spread(gains, "{:+.2f}")]
        if all(outcome.get("random") for outcome in found):
            row += [
                spread(outcome["lost"] for outcome in found),
                spread(outcome["random"]["best"]["lost"] for outcome in found),
            ]
        rows.append(row)
    head = [
        *("budget", "one option: validation", "searched", "gain"),
        *("one option: test", "searched", "gain"),
    ]
    if any(len(row) > len(head) for row in rows):
        head += ["searched: lost of 2,000", "best of 100 random plans"]
    commands = dict.fromkeys(search["command"] for search in searches)
    return [*markdown(head, rows), *(f"    {command}" for command in commands), ""]


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


def main() -> int:
    """Write searches.md and a page for each search."""
    content = yaml.safe_load((HERE / "searches.yaml").read_text())
    lines = ["# Searches, measured", "", content["head"]]
    for name, entry in content["budgets"].items():
        lines += [f"## {entry['title']}", "", entry.get("text", "")]
        lines += budgets(name, entry["seeds"])
        pages = [FOLDER / f"{name}_{seed}" for seed in entry["seeds"]]
        write_page(FOLDER / f"{name}.html", gather(pages, entry["title"]))
        lines += [entry.get("showed", ""), ""]
    for name, entry in content["trials"].items():
        lines += [f"## {entry['title']}", "", entry.get("text", ""), *trials(name)]
        write_page(FOLDER / f"{name}.html", gather([FOLDER / name], entry["title"]))
        lines += [entry.get("showed", ""), ""]
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    write_bytes(HERE / "searches.md", (text.rstrip("\n") + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
