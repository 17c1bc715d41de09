"""Test accuracies of a finished run's networks, counted without Lightning and torchmetrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from halut.bundle import exact_network, load_bundle
from halut.training.bundle_data import data_of


@torch.no_grad()
def percent(network: nn.Module, data: Any, samples: int) -> float:
    """Percent of the first `samples` samples of the test split whose largest logit is the label."""
    right = seen = 0
    for images, labels in data.test_dataloader():
        right += int((network.eval()(images).argmax(1) == labels).sum())
        seen += len(labels)
        if seen >= samples:
            break
    assert seen == samples
    return 100 * right / samples


def measured(run: Path, samples: int | None = None) -> dict[str, float]:
    """By what report.json calls them: the base network's, the fine-tuned one's if the run has one,
    and the final network's, on the first `samples` samples; by default as many as the report says.
    """
    report = json.loads((run / "report.json").read_text())
    data_options = yaml.safe_load((run / "config.yaml").read_text())["data"]
    data = data_of(report, data_options, ())
    samples = samples or report["data"]["evaluated"]["test"]
    final, plan, _ = load_bundle(run)
    actual = {"final": percent(final, data, samples)}
    for part in ("base", "baseline"):
        weights = run / part / "weights.safetensors"
        if weights.exists():
            exact = exact_network(plan)
            exact.load_state_dict(load_file(weights))
            actual[part] = percent(exact, data, samples)
    return actual


def reported(run: Path) -> dict[str, float]:
    """The same of report.json, rounded as little as floats of percents need."""
    report = json.loads((run / "report.json").read_text())
    parts = {part: report.get(part) or {} for part in ("base", "baseline", "final")}
    actual = {part: values.get("test_accuracy") for part, values in parts.items()}
    return {part: accuracy for part, accuracy in actual.items() if accuracy is not None}
