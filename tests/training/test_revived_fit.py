"""A stopped fit in which prototypes move ends as the uninterrupted one, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch

import halut.training.lightning.fit as fitting
from halut.data import build
from halut.replace.schedule import ROLES
from halut.training.config.run_config import LossConfig, TrainerConfig
from halut.training.lightning.module import Recipe
from halut.training.logging.metrics import RunLogger
from tests.training.test_losses import replaced

LOSS = LossConfig(distill=0.0, reconstruction=0.1, commitment=0.1)
RECIPE = Recipe("adamw", dict.fromkeys(ROLES, 0.01), dict.fromkeys(ROLES, 0.0), loss=LOSS)
SETTINGS = TrainerConfig(
    accelerator="cpu",
    limit_train_batches=4,
    limit_val_batches=1,
    enable_progress_bar=False,
    checkpoint_every=5,
)


def fit(network, folder):
    network = copy.deepcopy(network)
    data = build("digits", batch_size=16, eval_batch_size=8, train_samples=100, val_samples=20)
    data.setup()
    logger = RunLogger([])
    fitting.fit(network, data, folder, 2, RECIPE, SETTINGS, logger, select="last", log_every=1)
    return network.state_dict()


@pytest.mark.parametrize("estimator", ["soft", "diveq"])
def test_a_resumed_fit_moves_the_same_prototypes(tmp_path, monkeypatch, estimator):
    options = {"estimator": estimator, "parameterization": "derived", "revive_every": 3}
    network, _ = replaced("stack[23].conv1", "pq", K=8, **options)
    with torch.no_grad():
        network.stack3.conv1.encoder.prototypes[0, 5] = 9.0
    expected = fit(network, tmp_path / "whole")
    assert bool((expected["stack3.conv1.encoder.prototypes"][0, 5] < 8).any())  # after 6 of 8 steps

    class Stopping(fitting.LayerFigures):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 7:
                raise RuntimeError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(fitting, "LayerFigures", Stopping)
        with pytest.raises(RuntimeError, match="stopped"):
            fit(network, tmp_path / "stopped")
    actual = fit(network, tmp_path / "stopped")
    assert int(actual["stack3.conv1.revival.steps"]) == 8
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name
