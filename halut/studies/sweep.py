"""`halut sweep`: many configurations, with or without retraining, into one store."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from halut.errors import HalutError
from halut.results.store import DEFAULT, Store
from halut.training.config.sweep_list import read_list
from halut.training.main import main as train

UNTRAINED = {
    "schedule.epochs": "0",
    "schedule.final_epochs": "null",
    "schedule.stages": "[]",
    "baseline": "false",
    "ptq": "none",
}
"""Options of runs whose stages learn and swap, and whose network nothing trains after that."""
EXAMPLES = """\
examples:
  halut sweep policy=conv3x3 halut=tree,pq halut.C=4,8 seed=0,1,2        every combination
  halut sweep --no-training policy=conv3x3 halut.C=8,16,32               swapped, not retrained
  halut sweep --list configurations.txt seed=0,1,2 run_dir=runs/chosen   a configuration a line:
                                                                           halut=tree halut.C=16
                                                                           halut=pq halut.V=4,8

Options are those of `halut train` (--help lists them); several values by commas. Every value is a
run in a folder of its own, below run_dir or runs/NAME-HASH of the command. The same command again
skips what is finished and tries again what failed. hydra/launcher=slurm makes jobs of them.
"""


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0, 1 if a run failed or the sweep is refused."""
    options, overrides = parser().parse_known_args(arguments)
    words = command(overrides, options.list, options.training, options.results)
    Store(options.results).prepare()
    sys.argv = ["halut train", *words]
    code = 0
    try:
        train()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    if Store(options.results).keys():
        print(f"records are in {options.results}; `halut results {options.results}` lists them")
    return code


def parser() -> argparse.ArgumentParser:
    """Arguments of `halut sweep`."""
    parser = argparse.ArgumentParser(
        prog="halut sweep",
        usage="halut sweep [OPTIONS] KEY=VALUE,VALUE...",
        description="Run every combination of the given values, or the configurations of a file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    text = "configurations: a line of options each, or a .yaml list; combined with those given here"
    parser.add_argument("--list", type=Path, metavar="FILE", help=text)
    text = "learn and swap, and train nothing after that"
    parser.add_argument("--no-training", dest="training", action="store_false", help=text)
    text = f"folder of the store (default: {DEFAULT})"
    parser.add_argument("--results", type=Path, default=DEFAULT, metavar="STORE", help=text)
    return parser


def command(
    overrides: Sequence[str],
    configurations: Path | None = None,
    training: bool = True,
    results: Path = DEFAULT,
) -> list[str]:
    """The arguments of `halut train` that make the sweep.

    `configurations` is a file as halut.training.config.sweep_list.read_list reads it. Raises
    HalutError for options that contradict each other.

    >>> command(["halut.C=4,8"], training=False)[-1]
    'results=results'
    """
    if stores := [each for each in overrides if each.lstrip("+").startswith("results=")]:
        raise HalutError(f"{stores[0]}: the store of a sweep is given as --results FOLDER")
    words = ["-m", *overrides]
    if configurations is not None:
        entries = read_list(configurations)
        words = ["-m", "hydra/sweeper=list", f"hydra.sweeper.file={quoted(configurations)}"]
        words += overrides
        if not training:
            _refuse_training([each for entry in entries for each in entry])
    if not training:
        _refuse_training(overrides)
        words += [f"{key}={value}" for key, value in UNTRAINED.items()]
    return [*words, f"results={quoted(results)}"]


def quoted(path: Path) -> str:
    """A path as a value of an override."""
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def _refuse_training(overrides: Sequence[str]) -> None:
    for each in overrides:
        key, _, value = each.lstrip("+").partition("=")
        if key in UNTRAINED and value != UNTRAINED[key]:
            raise HalutError(f"{shlex.quote(each)} contradicts --no-training")
