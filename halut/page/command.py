"""`halut report`: one HTML file of stores, runs and searches, and its charts as files."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from halut.analysis.variants import counted
from halut.errors import HalutError
from halut.page.document import check_library, write_page
from halut.page.gather import gather
from halut.page.pictures import write_pictures
from halut.results.store import DEFAULT

log = logging.getLogger("halut")
EPILOG = """\
examples:
  halut report                              the store results/, into report.html
  halut report results runs/C -o study.html     a store and the runs of a sweep on one page
  halut report runs/a runs/b --pictures figures   two runs beside each other; SVG, PDF, PNG
  halut report runs/search                  what `halut search` wrote: plans and their front, trials
"""


def parser() -> argparse.ArgumentParser:
    """Arguments of `halut report`."""
    arguments = argparse.ArgumentParser(
        prog="halut report",
        description="One HTML file of records, runs and searches: it works without a network.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = arguments.add_argument
    add(
        "sources",
        nargs="*",
        type=Path,
        metavar="RUNS, STORE or SEARCH",
        help="folders (default: results)",
    )
    add("-o", "--output", type=Path, default=Path("report.html"), help="default: report.html")
    add("--title", help="default: the networks and data sets")
    add(
        "--pictures", type=Path, metavar="FOLDER", help="write the charts there as well, for papers"
    )
    add(
        "--formats",
        default="svg,pdf,png",
        help="of the pictures, separated by commas (default: svg,pdf,png)",
    )
    return arguments


def main(argv: Sequence[str]) -> int:
    """Write the page; 0, or HalutError where the sources cannot be read."""
    options = parser().parse_args(argv)
    if options.pictures is not None:
        check_library()
    if options.output.is_dir():
        raise HalutError(f"-o {options.output} is a folder; give a file such as report.html")
    page = gather(options.sources or [DEFAULT], options.title)
    charts = write_page(options.output, page)
    for note in page["notes"]:
        log.warning("%s", note)
    records, runs = page["records"]["count"], len(page["runs"])
    count = f"{counted(records, 'record')}, {counted(runs, 'run')}"
    if searches := len(page["searches"]):
        count += ", 1 search" if searches == 1 else f", {searches} searches"
    log.info("%s: %s%s", options.output, count, "" if charts else ", without charts")
    if options.pictures is not None:
        formats = [each for each in options.formats.split(",") if each]
        written = write_pictures(options.pictures, page, formats)
        log.info("%s: %s", options.pictures, ", ".join(written) or "no chart has data")
    return 0
