"""Accuracy of integer networks (halut export --to packed) beside the prepared ones.

python benchmarks/packed.py runs/0 runs/1 runs/2      (run folders; --split val)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from halut.bundle import load_bundle
from halut.export.packed.lowering import integer_network
from halut.inference import prepare
from halut.sites.calls import Call
from halut.training.bundle_data import data_of, recorded_root
from halut.training.config.run_config import TrainerConfig
from halut.training.lightning.fit import split_accuracy

CALIBRATION = 512
"""Training samples that ranges of activations are those of."""
COLUMNS = ("run", "network", "prepared in INT8", "integers alone", "integers less prepared")


def forms(run: Path) -> tuple[dict[str, nn.Module], Any]:
    """The network of a run, its INT8 and its integer-only form, and the run's data."""
    network, _, report = load_bundle(run)
    name = report["data"]["name"]
    data = data_of(report, {"root": recorded_root(run, name)}, ())
    batches = [images for images, _ in data.calibration_batches(CALIBRATION, seed=0)]
    calibration = torch.cat(batches)
    prepared = prepare(network, calibration=calibration)
    integers = integer_network(network, Call(calibration))
    return {"network": network, "prepared": prepared, "integers": integers}, data


def main() -> None:
    """Print one row of a table for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--split", choices=("val", "test"), default="test")
    own = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}")
    for run in own.runs:
        networks, data = forms(run)
        settings = TrainerConfig(enable_progress_bar=False)
        found = {n: split_accuracy(net, data, own.split, settings) for n, net in networks.items()}
        cells = [f"{value:.2f}" for value in found.values()]
        print(f"| {run} | {' | '.join(cells)} | {found['integers'] - found['prepared']:+.2f} |")


if __name__ == "__main__":
    main()
