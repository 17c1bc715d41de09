"""The verb `halut convergence`: accuracy and error against the number of calibration images."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from rich.table import Table

from halut.analysis.variants import counted
from halut.errors import HalutError
from halut.results.record import Record
from halut.studies.measuring import Setup, add_flags, at_least, begin, measure
from halut.studies.sensitivity_table import label_of, remarks, show_lines
from halut.training.logging.progress import console, log

EPILOG = """\
examples:
  halut convergence data=digits base.epochs=3 --images 16,64,256 --draws 3 --options 'tree K=16'
  halut convergence data=fashion_mnist model=resnet8 --sites 'stack2.*' --options 'pq K=8,16'

Each site alone is learned from each number of training images, drawn anew for every draw, and
measured on the same validation images. A site that reads many rows of an image takes --rows of
them, which the tables mark by *: raise it to see what more images bring there.
"""
SHOWN = {
    "lost": ("accuracy lost in points", "{:.2f}"),
    "normalized_mse": ("normalized squared error of the layer", "{:.3g}"),
}
"""Figures that are printed: their title and format."""


def parser() -> argparse.ArgumentParser:
    """The verb's flags."""
    flags = argparse.ArgumentParser(
        prog="halut convergence",
        description="Accuracy and layer error against the number of calibration images.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(flags, samples=1000)
    add = flags.add_argument
    add(
        "--images",
        type=numbers,
        default=[16, 64, 256, 1024],
        metavar="N,N,...",
        help="training images learned from (16,64,256,1024)",
    )
    add("--draws", type=at_least(1), default=3, help="draws of each number (%(default)s)")
    add("--seed", type=at_least(0), help="of the first draw; by default the configuration's")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every number of images and draw, and show mean and spread."""
    options = parser().parse_intermixed_args(arguments)
    subject, choices, store = begin(options)
    available = len(subject.data.splits["train"])
    if max(options.images) > available:
        raise HalutError(
            f"--images: there are {available} training images, got {max(options.images)}"
        )
    first = subject.config.seed if options.seed is None else options.seed
    setups = [
        Setup("convergence", options.samples, images, options.rows, seed=first + draw)
        for images in options.images
        for draw in range(options.draws)
    ]
    records = measure(subject, setups, choices, ["measured"], store, options.batch)
    show(records)
    log.info("%s in %s", counted(len(records), "record"), store.path)
    return 0


def numbers(text: str) -> list[int]:
    """N,N,... as rising numbers from 1, each once."""
    return sorted({at_least(1)(each.strip()) for each in text.split(",")})


def show(records: Sequence[Record]) -> None:
    """Print the tables, and what could not be measured."""
    for key in SHOWN:
        console.print(table_of(records, key))
    show_lines([*capped_lines(records), *remarks(records)])


def rows_of(record: Record) -> tuple[int, int]:
    """Rows that a site learned from, and those that its images had."""
    rows = record.detail.get("shape", {}).get("rows") or 0
    there = rows * (record.calibration or 0)
    taken = record.figures.get("calibration_rows") or record.settings.get("rows") or there
    return min(int(taken), there), there


def capped_lines(records: Sequence[Record]) -> list[str]:
    """A line for each site that learned from fewer rows than some number of images had."""
    most: dict[str | None, tuple[int, int, int]] = {}
    for record in records:
        taken, there = rows_of(record)
        if record.figures and taken < there:
            most[record.site] = max(
                most.get(record.site, (0, 0, 0)), (there, taken, record.calibration or 0)
            )
    return [
        f"* {site}: learned from {taken:,} of the {there:,} rows that {images} images have; more "
        f"images bring other rows, not more of them: --rows {there} takes all"
        for site, (there, taken, images) in most.items()
    ]


def table_of(records: Sequence[Record], key: str) -> Table:
    """Sites and options by number of images: mean and standard deviation of a figure over draws."""
    title, form = SHOWN[key]
    draws = len({record.seed for record in records})
    table = Table(title=f"{title}: mean +- deviation of {draws} draws", title_justify="left")
    table.add_column("site", overflow="fold")
    table.add_column("option", overflow="fold")
    images = sorted({r.calibration for r in records if r.calibration is not None})
    for number in images:
        table.add_column(f"{number} images", justify="right")
    for site, label in dict.fromkeys((r.site, label_of(r)) for r in records):
        own = [r for r in records if (r.site, label_of(r)) == (site, label)]
        cells = [_cell([r for r in own if r.calibration == n], key, form) for n in images]
        table.add_row(str(site), label, *cells)
    return table


def _cell(records: Sequence[Record], key: str, form: str) -> str:
    values = [value for r in records if (value := r.figures.get(key)) is not None]
    if not values:
        return "NaN" if any(record.not_finite for record in records) else "-"
    spread = form.format(statistics.stdev(values)) if len(values) > 1 else "?"
    capped = any(taken < there for taken, there in map(rows_of, records))
    return f"{form.format(statistics.fmean(values))} +- {spread}{'*' if capped else ''}"
