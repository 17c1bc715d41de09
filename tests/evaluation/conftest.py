"""A bundle on the embedded digits, and the command that evaluates it."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch

from halut import data as datasets
from halut.bundle import save_bundle
from halut.models.build import build_model
from halut.replace import swap
from halut.replace.policy import resolve, simple_rules
from halut.sites.calibration import capture
from halut.sites.find import find_sites
from halut.training.bundle_data import settings_of
from tests.evaluation.digits_bundle import MODEL, SETTINGS


@pytest.fixture(scope="module")
def digits():
    made = datasets.build("digits", **SETTINGS)
    made.setup()
    return made


@pytest.fixture(scope="module")
def original(digits, tmp_path_factory):
    """A bundle as a run leaves it: two layers of an untrained network replaced."""
    torch.manual_seed(0)
    network = build_model("resnet8", 10, 1, width=4)
    sites, unsupported = find_sites(network, torch.zeros(1, 1, 8, 8))
    rules = simple_rules(sites, only=["stack1.conv1", "stack3.shortcut"])
    plan = resolve(sites, rules, "tree", {"K": 4}, unsupported, MODEL)
    plan = plan.with_stages({entry.site.name: 0 for entry in plan.replaced})
    images = next(digits.calibration_batches(128, seed=0))[0]
    for entry in plan.replaced:
        swap.replace_site(network, entry, capture(network, [entry.site], [images])[entry.site.name])
    report = {
        "data": {"name": "digits", "settings": settings_of(digits)},
        "final": {"test_accuracy": 12.5, "val_accuracy": 13.0},
        "base": {"test_accuracy": 98.25, "val_accuracy": 97.0},
        "baseline": {"test_accuracy": None},
    }
    folder = tmp_path_factory.mktemp("run")
    save_bundle(folder / "bundle", network, plan, report)
    return folder


@pytest.fixture
def run_folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


@pytest.fixture
def evaluate(capsys, monkeypatch, tmp_path):
    """`halut evaluate ARGS` in this process, from an empty working directory."""
    from hydra.core.global_hydra import GlobalHydra

    from halut.cli import main

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def call(*arguments):
        GlobalHydra.instance().clear()
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["halut"])
        try:
            code = main(["evaluate", "trainer.enable_progress_bar=false", *map(str, arguments)])
        except SystemExit as stop:
            code = stop.code
        written = capsys.readouterr()
        return code, written.out, written.err

    yield call
    GlobalHydra.instance().clear()
    assert list((tmp_path / "elsewhere").iterdir()) == []  # nothing is left where it was called
