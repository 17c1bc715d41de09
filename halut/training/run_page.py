"""report.html of a run that has finished, and what it measures for it in inspection.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from halut.analysis.inspection import SAMPLES, inspect
from halut.data.loader import BatchLoader
from halut.data.sampler import OrderedBatches
from halut.errors import message_of
from halut.page.document import write_page
from halut.page.gather import gather
from halut.page.runs import INSPECTION
from halut.training.calibrate import Context
from halut.training.logging.progress import log

PAGE = "report.html"
BATCH = 64


def write_run_page(context: Context, network: nn.Module) -> None:
    """Write inspection.json and report.html into the run's folder, on the main rank alone.

    What goes wrong is a warning: the run's results are safe without its page.
    """
    folder = context.folder
    try:
        folder.write(INSPECTION, _inspected(context.data, network))
        write_page(folder.path / PAGE, gather([Path(folder.path)]))
    except Exception as error:
        log.warning("%s has no %s: %s", folder.path, PAGE, message_of(error))


def _inspected(data: Any, network: nn.Module) -> dict[str, Any]:
    """What halut.analysis.inspection has of the first validation samples, spread over the split."""
    part = data.splits["val"]
    indices = part.indices[:: max(1, len(part) // SAMPLES)][:SAMPLES]
    batches = BatchLoader(part, OrderedBatches(indices, BATCH, shard=(0, 1)))
    return inspect(network, batches, data.class_names, data.mean, data.std)
