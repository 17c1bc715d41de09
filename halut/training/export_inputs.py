"""Inputs that exports of a run are verified on: images of its own data set."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.io import read_json
from halut.training.bundle_data import data_of, recorded_root
from halut.training.calibrate import CalibrationBatches

log = logging.getLogger("halut")


def training_inputs(run: Path, samples: int) -> Tensor | None:
    """About `samples` training images of a run's or a bundle's data set, as calibration has them.

    None, with a warning that says why, where the data set is not there or was not recorded.
    """
    folder = run / "bundle" if (run / "bundle").is_dir() else run
    try:
        report = read_json(folder / "report.json", {"data": dict})
        root = recorded_root(run, report["data"].get("name"))
        data = data_of(report, {"root": root}, ())
    except (HalutError, OSError) as error:
        log.warning("the run's own images are not at hand: %s", error)
        return None
    batches = CalibrationBatches(data, samples, 0)
    return torch.cat([images for images, _ in batches])
