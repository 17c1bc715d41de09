"""The verb `halut sensitivity`: what replacing each site alone costs, for a list of options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from halut.analysis.sensitivity import SCORES
from halut.analysis.variants import counted
from halut.studies.measuring import Setup, add_flags, at_least, begin, measure
from halut.studies.ranks import Ranks
from halut.studies.sensitivity_table import show
from halut.training.logging.progress import log

EPILOG = """\
examples:
  halut sensitivity data=digits base.epochs=3 --options 'tree C=4,16 K=16' 'integer width=4,8'
  halut sensitivity data=fashion_mnist model=resnet8 --sites 'stack3.*' --options 'pq K=8,16'
  halut sensitivity runs/20260101-120000-0123456789 --scores fisher

Nothing is retrained. `measured` evaluates the network with the one site replaced; `fisher` predicts
the rise of the loss from gradients of the exact network, which serve all options of a site. Records
are appended to the store one by one, and what it holds is not measured again: the same command as
several processes or jobs at once shares the work. Ranks that torchrun or srun starts divide the
sites: torchrun --nproc-per-node 4 -m halut.cli sensitivity ...; the first prints the table.
"""


def parser() -> argparse.ArgumentParser:
    """The verb's flags."""
    flags = argparse.ArgumentParser(
        prog="halut sensitivity",
        description="Accuracy and loss when each site alone is replaced, for a list of options.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(flags, samples=1000)
    add = flags.add_argument
    add("--scores", nargs="+", choices=SCORES, default=list(SCORES), help="both by default")
    add("--calibration", type=at_least(1), help="images learned from; by default capture.samples")
    add(
        "--fisher-samples",
        type=at_least(1),
        default=512,
        help="of those, images whose gradients are taken (%(default)s)",
    )
    add("--seed", type=at_least(0), help="of what is drawn; by default the configuration's")
    add(
        "--tolerance",
        type=float,
        default=1.0,
        help="points that a site of the suggested rule may lose alone (%(default)s)",
    )
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each site alone, show the table, and the rule that the measurements suggest."""
    options = parser().parse_intermixed_args(arguments)
    ranks = Ranks.join()
    subject, choices, store = begin(options, ranks)
    config = subject.config
    setup = Setup(
        "sensitivity",
        options.samples,
        options.calibration or config.capture.samples,
        options.rows,
        options.fisher_samples,
        config.seed if options.seed is None else options.seed,
    )
    scores = [score for score in SCORES if score in options.scores]
    records = measure(subject, [setup], choices, scores, store, options.batch, ranks)
    if ranks.rank > 0:
        return 0
    show(records, options.tolerance)
    log.info("%s in %s", counted(len(records), "record"), store.path)
    return 0
