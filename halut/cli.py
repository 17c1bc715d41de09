"""The console command `halut`: a verb of USAGE, and its arguments.

A verb gets its arguments as they stand, as most have a parser of their own: argparse's subparsers
refuse `halut train --cfg job` and `-m`, for REMAINDER takes no option in front, and Hydra reads
sys.argv alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from halut import __version__
from halut.errors import flush, quiet_pipes, report_error
from halut.option import unknown

USAGE = """\
usage: halut VERB [ARGUMENTS]

Replace a network's matrix products by look-up tables or cheaper formats, retrain it, and report.

verbs:
  train        compose a configuration and run it; arguments are those of `python train.py`
  evaluate     accuracy, errors and cost of a run folder or bundle; those of `python evaluate.py`
  search       which site becomes what: plans within a budget, or the best of trials
  sensitivity  what replacing each site alone costs, for a list of operators and options
  convergence  accuracy and error of sites against the number of calibration images
  cost         operations, bytes and energy of a network and its plan, before anything is learned
  sweep        every combination of values, or a list of configurations, into one store
  results      list, filter and export the records of a store, and import run folders into it
  report       one HTML page of records and runs, and its charts as SVG, PDF and PNG
  export       a run's network as files that run elsewhere: ONNX, torch.export, bundles
  table        gather the runs in a folder, of a sweep or of jobs: a table and a picture
  bench        times of tables against float32 and INT8; those of `python -m halut.bench`
  scaling      what more ranks gain: measured here, and computed for more
  env          versions, devices, plugins, and which kernels are active

`halut VERB --help` tells more. Every verb takes plugins=[my_module,./my_file.py]: encoders, codecs,
models and data sets of your own; those of installed packages are known by themselves.
"""
COMPOSING = ("train", "evaluate", "sweep")
"""Verbs whose arguments Hydra reads."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"halut {__version__}")
        return 0
    verbs: dict[str, Callable[[list[str]], int]] = {
        "train": train,
        "evaluate": evaluate,
        "sensitivity": sensitivity,
        "search": search,
        "convergence": convergence,
        "cost": cost,
        "sweep": sweep,
        "results": results,
        "report": report,
        "export": export,
        "table": table,
        "bench": bench,
        "scaling": scaling,
        "env": env,
    }
    if argv[0] not in verbs:
        print(f"halut: {unknown('verb', argv[0], list(verbs))}", file=sys.stderr)
        return 2
    traceback = "debug=traceback" in argv
    if argv[0] not in COMPOSING:  # those have an option of that name
        argv = [argument for argument in argv if argument != "debug=traceback"]
    try:
        with quiet_pipes():
            if argv[0] not in COMPOSING:  # those read them from Hydra's command line
                argv = with_plugins(argv)
            code = verbs[argv[0]](argv[1:])
            flush()
            return code
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130
    except Exception as error:
        report_error(error, print_error, traceback)
        return 1


def print_error(message: str) -> None:
    """One line on the standard error."""
    print(f"error: {message}", file=sys.stderr, flush=True)


def with_plugins(arguments: list[str]) -> list[str]:
    """The command line less `plugins=`, when what it names, and what is installed, is imported."""
    from halut.plugins import loading

    told = loading.load_entry_points()
    if any("plugins=" in argument for argument in arguments):
        from halut.training.config.plugin_options import asked

        names, arguments = asked(arguments)
        told += loading.without_entries(loading.load(names))
    for line in told:
        print(f"warning: {line}", file=sys.stderr)
    return arguments


def train(arguments: list[str]) -> int:
    """`halut train ARGS` is `python train.py ARGS`."""
    from halut.training.cluster import early_signals

    early_signals.install_signal_handlers()
    from halut.training.main import main as run

    sys.argv = ["halut train", *arguments]
    run()
    return 0


def evaluate(arguments: list[str]) -> int:
    """`halut evaluate ARGS` is `python evaluate.py ARGS`."""
    from halut.training.evaluate import main as run

    sys.argv = ["halut evaluate", *arguments]
    run()
    return 0


def sweep(arguments: list[str]) -> int:
    """`halut sweep ARGS`: `halut train -m ARGS`, or a list of configurations, into a store."""
    from halut.training.cluster import early_signals

    early_signals.install_signal_handlers()
    from halut.studies.sweep import main as run

    return run(arguments)


def table(arguments: list[str]) -> int:
    """Gather the runs at and below a folder: what differs among them, accuracy, cost, failures.

    Writes sweep.json, sweep.csv and, with matplotlib, curve.png there. Exits with 1 if any failed.
    """
    parser = argparse.ArgumentParser(prog="halut table", description=table.__doc__)
    parser.add_argument("folder", type=Path, help="a folder of run folders")
    parser.add_argument("--x", help="what the picture is over: an option, or a figure as for --y")
    parser.add_argument("--y", help="a figure (bytes, operations, ...), or a number of the reports")
    parser.add_argument("--picture", type=Path, help="its file, .png, .svg or .pdf")
    options = parser.parse_args(arguments)
    from halut.training.logging.progress import set_up_logging
    from halut.training.sweep import show

    set_up_logging()
    return 1 if show(options.folder, options.x, options.y, options.picture) else 0


def search(arguments: list[str]) -> int:
    """`halut search`: the plan that loses least within a budget, or the best of trials."""
    from halut.search.main import USAGE as WAYS
    from halut.search.main import way_of

    way = way_of(arguments)
    if way == "help":
        print(WAYS, end="")
        return 0 if arguments else 2
    if way == "trials":
        from halut.search.trials.command import main as run
    else:
        from halut.search.command import main as run
    return run(arguments)


def sensitivity(arguments: list[str]) -> int:
    """`halut sensitivity`: accuracy and loss when each site alone is replaced."""
    from halut.studies.sensitivity import main as run

    return run(arguments)


def convergence(arguments: list[str]) -> int:
    """`halut convergence`: accuracy and error against the number of calibration images."""
    from halut.studies.convergence import main as run

    return run(arguments)


def cost(arguments: list[str]) -> int:
    """`halut cost`: what a network and its plan cost, beside float32, INT8 and INT4."""
    from halut.studies.cost import main as run

    sys.argv = ["halut cost", *arguments]
    return run(arguments)


def results(arguments: list[str]) -> int:
    """`halut results`: the records of a store, and run folders imported into it."""
    from halut.results.main import main as run

    return run(arguments)


def report(arguments: list[str]) -> int:
    """`halut report`: stores of records and run folders on one HTML page."""
    from halut.page.command import main as run
    from halut.training.logging.progress import set_up_logging

    set_up_logging()
    return run(arguments)


def export(arguments: list[str]) -> int:
    """`halut export`: a run's network as files of a target, verified by running them."""
    from halut.export.command import main as run
    from halut.training.export_inputs import training_inputs
    from halut.training.logging.progress import set_up_logging

    set_up_logging()
    return run(arguments, training_inputs)


def bench(arguments: list[str]) -> int:
    """`halut bench ARGS` is `python -m halut.bench ARGS`."""
    from halut.bench.main import main as run

    return run(arguments)


def scaling(arguments: list[str]) -> int:
    """`halut scaling`: seconds of a step and of learning by the number of ranks."""
    from halut.bench.scaling import main as run

    return run(arguments)


def env(arguments: list[str]) -> int:
    """Versions, devices, by which kernel, on which instruction set, every operation runs, and the
    plugins with what they registered, or why they were left out.
    """
    parser = argparse.ArgumentParser(prog="halut env", description=env.__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    options = parser.parse_args(arguments)
    from halut.training.report import environment

    versions = environment()
    if options.json:
        print(json.dumps(versions, indent=2))
        return 0
    for key, value in versions.items():
        if isinstance(value, dict) and value:
            print(f"{key}:")
            for name, what in value.items():
                print(f"  {name:28s} {what}")
        else:
            print(f"{key:14s} {'none' if value == {} else value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
