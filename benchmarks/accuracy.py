"""Accuracy of recipes: the runs of accuracy.yaml, one after the other, and their tables.

python benchmarks/accuracy.py ablation            (runs what is missing of a group, then writes)
python benchmarks/accuracy.py --write             (writes accuracy.json and accuracy.md alone)

A run that was cut off goes on where it stopped, and one that is finished is only read. Several
commands may work on one folder at once: a run belongs to the one that holds its lock. Beside other
work: OMP_NUM_THREADS=1, and trainer.threads=1 among --options, which no result depends on but by
rounding. Groups that choose (`chooses: true`) show validation accuracy alone.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from halut.errors import HalutError
from halut.io import read_json, write_bytes, write_json

HERE = Path(__file__).parent
ROOT = HERE.parent


@dataclass
class Row:
    """One line of a table: a command without its seeds, and what it found with each."""

    group: str
    name: str
    what: str
    options: list[str]
    seeds: list[int]
    curve: str | None = None
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def command(self) -> str:
        """What a user types for all seeds."""
        several = ["-m"] if len(self.seeds) > 1 else []
        seeds = "seed=" + ",".join(map(str, self.seeds))
        return shlex.join(["python", "train.py", *several, *self.options, seeds])

    def folder(self, runs: Path, seed: int) -> Path:
        """The run's folder."""
        return runs / self.group / f"{self.name}-s{seed}"


def read_rows(path: Path) -> tuple[dict[str, dict[str, Any]], list[Row]]:
    """The groups, by name, and all rows; HalutError for a file that is none of rows."""
    try:
        groups = yaml.safe_load(path.read_text())["groups"]
        rows = [
            Row(
                name,
                row["name"],
                row["what"],
                [*shlex.split(group.get("common", "")), *shlex.split(row.get("options", ""))],
                row.get("seeds", group.get("seeds", [0])),
                row.get("curve"),
            )
            for name, group in groups.items()
            for row in group["rows"]
        ]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise HalutError(f"{path} holds no rows: {error!r}") from error
    names = [(row.group, row.name) for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise HalutError(f"{path}: two rows of {name[0]} are called {name[1]}")
    return groups, rows


def run(row: Row, runs: Path, options: list[str]) -> Iterator[str]:
    """Run what is missing of a row; says what became of each seed."""
    for seed in row.seeds:
        folder = row.folder(runs, seed)
        if (folder / "report.json").exists():
            continue
        command = [sys.executable, "train.py", *row.options, f"seed={seed}", f"run_dir={folder}"]
        log = folder.with_name(folder.name + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            code = subprocess.run(
                [*command, *options], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False
            ).returncode
        state = "done" if code == 0 else f"ended with {code}, see {log}"
        yield f"{row.group} {row.name} seed={seed}: {state}"


def result_of(folder: Path, seed: int) -> dict[str, Any] | None:
    """The figures of a finished run; None if it is not."""
    report = folder / "report.json"
    if not report.exists():
        return None
    report = read_json(report)
    stages, baseline = report["stages"], report["baseline"]
    last = {"exact": baseline if baseline["epochs"] else report["base"], "tables": report["final"]}
    table_bytes = sum(site["bytes"] for site in report["sites"] if site["bytes"] is not None)
    return {
        "seed": seed,
        "swap": stages[0]["val_accuracy_after_swap"] if len(stages) == 1 else None,
        **{
            f"{who}_{split}": figures[f"{split}_accuracy"]
            for who, figures in last.items()
            for split in ("val", "test")
        },
        "epochs": sum(stage["epochs"] for stage in stages),
        "steps": sum(stage["steps"] for stage in stages),
        "seconds": sum(stage["seconds"] for stage in stages),
        "table_bytes": table_bytes,
        "threads": report["environment"]["threads"],
        "commit": report["environment"]["commit"],
    }


def spread(values: list[float]) -> str:
    """ "mean ± sample deviation", or the one value."""
    if not values:
        return "-"
    mean = statistics.fmean(values)
    return f"{mean:.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def table(group: dict[str, Any], rows: list[Row]) -> list[str]:
    """A group's lines in Markdown."""
    chooses = group.get("chooses", False)
    lines = [f"## {group['title']}", "", group["text"].strip(), ""]
    if common := group.get("common"):
        lines += [f"All rows have `{common.strip()}`.", ""]
    head = ["what", "after the swap", "validation"]
    head += [] if chooses else ["test", "exact, test", "lost", "bytes"]
    head += ["steps", "minutes", "seeds", "options"]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        found = row.results
        figures = [
            spread([r[key] for r in found if r[key] is not None]) for key in ("swap", "tables_val")
        ]
        if not chooses:
            lost = [r["exact_test"] - r["tables_test"] for r in found]
            figures += [spread([r[key] for r in found]) for key in ("tables_test", "exact_test")]
            figures += [spread(lost), f"{found[0]['table_bytes']:,}"]
        minutes = statistics.fmean([r["seconds"] for r in found]) / 60
        figures += [f"{found[0]['steps']:,}", f"{minutes:.0f}", str(len(found))]
        own = row.options[len(shlex.split(group.get("common", ""))) :]
        options = f"`{shlex.join(own)}`" if own else ""
        lines.append(f"| {row.what} | {' | '.join(figures)} | {options} |")
    return [*lines, ""]


def draw(path: Path, rows: list[Row]) -> None:
    """A picture of the test accuracy over the bytes of the replaced layers, a line per curve.

    The exact networks of the rows are a horizontal line: they were trained on for as long.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = path.name  # the same figures give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for curve in dict.fromkeys(row.curve for row in rows if row.curve):
        points = sorted(
            (r["table_bytes"], r["tables_test"])
            for row in rows
            if row.curve == curve
            for r in row.results
        )
        axes.plot(*zip(*points, strict=True), marker="o", label=curve)
    exact = statistics.fmean(r["exact_test"] for row in rows for r in row.results)
    axes.axhline(exact, color="gray", linestyle=":", label="exact")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="bytes of the replaced layers", ylabel="test accuracy in %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def write(groups: dict[str, dict[str, Any]], rows: list[Row], runs: Path, folder: Path) -> None:
    """accuracy.json and accuracy.md of finished runs; results of runs that are elsewhere stay."""
    path = folder / "accuracy.json"
    known = {(r["group"], r["name"]): r for r in read_json(path)["rows"]} if path.exists() else {}
    for row in rows:
        fresh = [result_of(row.folder(runs, seed), seed) for seed in row.seeds]
        row.results = [result for result in fresh if result is not None]
        if groups[row.group].get("chooses", False):  # of a part of the test split, or none
            row.results = [
                {k: v for k, v in result.items() if not k.endswith("_test")}
                for result in row.results
            ]
        before = known.get((row.group, row.name), {})
        if not row.results and before.get("command") == row.command:
            row.results = before["results"]
    done = [row for row in rows if row.results]
    entries = [
        {
            "group": r.group,
            "name": r.name,
            "what": r.what,
            "command": r.command,
            "results": r.results,
        }
        for r in done
    ]
    write_json(path, {"rows": entries})
    head = yaml.safe_load((HERE / "accuracy.yaml").read_text())["head"]
    lines = ["# Accuracy, measured", "", head.strip(), ""]
    for name, group in groups.items():
        if own := [row for row in done if row.group == name]:
            lines += table(group, own)
            if picture := group.get("picture"):
                draw(folder / picture, own)
                lines += [f"![{group['title']}]({picture})", ""]
    write_bytes(folder / "accuracy.md", "\n".join(lines).encode())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="groups of accuracy.yaml to run")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these the rows of this name")
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy"), help="folder of runs")
    parser.add_argument("--options", default="", help="further options of every run")
    parser.add_argument("--write", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    try:
        groups, rows = read_rows(HERE / "accuracy.yaml")
        for name in arguments.groups:
            if name not in groups:
                raise HalutError(f"unknown group {name!r}; choose from: {', '.join(groups)}")
        chosen = [r for r in rows if r.group in arguments.groups]
        if arguments.only:
            for name in arguments.only:
                if name not in {r.name for r in chosen}:
                    names = ", ".join(r.name for r in chosen)
                    raise HalutError(f"unknown row {name!r}; choose from: {names}")
            chosen = [r for r in chosen if r.name in arguments.only]
        if not chosen and not arguments.write:
            raise HalutError(f"give groups to run, or --write; groups: {', '.join(groups)}")
        for row in [] if arguments.write else chosen:
            for line in run(row, arguments.runs.resolve(), shlex.split(arguments.options)):
                print(line, flush=True)
        write(groups, rows, arguments.runs.resolve(), HERE)
    except HalutError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
