"""Averaged weights: what moves is averaged, what stands still stays to the bit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from halut.replace.schedule import ROLES
from halut.training import stage
from halut.training.config.run_config import LossConfig, TrainerConfig
from halut.training.lightning.averaging import AveragedWeights
from halut.training.lightning.fit import make_trainer
from halut.training.lightning.module import Recipe, StageModule


class State(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("dims", torch.arange(600))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("exponent", torch.linspace(-127, 127, 255))


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.9, 0.9999])
def test_only_what_moves_is_averaged(decay):
    model = State()
    average = AveragedModel(model, use_buffers=True, **AveragedWeights(decay)._kwargs)
    expected = model.weight.detach().clone()
    for step in range(50):
        with torch.no_grad():
            model.weight += 1.0
        average.update_parameters(model)
        now = model.weight.detach()
        expected = now.clone() if step == 0 else decay * expected + (1 - decay) * now
    torch.testing.assert_close(average.module.weight.detach(), expected)
    for name in ("dims", "mask", "exponent"):
        assert torch.equal(getattr(average.module, name), getattr(model, name)), name


def test_integers_follow_the_model():
    model = State()
    average = AveragedModel(model, use_buffers=True, **AveragedWeights(0.99)._kwargs)
    for _ in range(3):
        model.dims += 5
        average.update_parameters(model)
    assert torch.equal(average.module.dims, model.dims)


class Weights(Callback):
    """Notes the weight after every step, and the one that each validation measures."""

    def __init__(self):
        self.stepped, self.measured = [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.stepped.append(pl_module.network[0].weight.detach().clone())

    def on_validation_batch_start(self, trainer, pl_module, *_):
        self.measured.append(pl_module.network[0].weight.detach().clone())


def test_a_stage_measures_and_keeps_the_average():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 4, generator=generator), torch.arange(12) % 3
    network = nn.Sequential(nn.Linear(4, 3))
    rates, decays = dict.fromkeys(ROLES, 0.5), dict.fromkeys(ROLES, 0.0)
    recipe = Recipe(
        "sgd", rates, decays, LossConfig(distill=0.0), warmup=0.0, schedule="constant", steps=6
    )
    notes = Weights()
    settings = TrainerConfig(accelerator="cpu", devices=1)
    trainer = make_trainer(
        settings, None, [notes, AveragedWeights(0.75)], max_epochs=2, enable_checkpointing=False
    )
    loader, rest = DataLoader(TensorDataset(x, y), 4), DataLoader(TensorDataset(x, y), 12)
    trainer.fit(StageModule(network.train(), 3, recipe), loader, rest)
    average, expected = None, []
    for weight in notes.stepped:
        average = weight if average is None else 0.75 * average + 0.25 * weight
        expected.append(average)
    assert len(expected) == 6
    torch.testing.assert_close(notes.measured, [expected[2], expected[5]])
    torch.testing.assert_close(network[0].weight.detach(), expected[5])
    assert not torch.allclose(expected[5], notes.stepped[5])


@pytest.mark.parametrize(("before", "after"), [(50.0, 60.0), (50.0, 50.0), (60.0, 50.0)])
def test_norms_get_the_statistics_of_the_averaged_network(monkeypatch, before, after):
    """Unless validation accuracy falls by them."""
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    generator = torch.Generator().manual_seed(0)
    batches = [5 + torch.randn(8, 4, generator=generator) for _ in range(3)]
    accuracies = [before, after]
    monkeypatch.setattr(stage, "split_accuracy", lambda *_: accuracies.pop(0))
    asked = []

    def calibration_batches(samples, seed):
        asked.append((samples, seed))
        return [(x, None) for x in batches]

    data = SimpleNamespace(
        config=SimpleNamespace(batch_size=8), calibration_batches=calibration_batches
    )
    config = SimpleNamespace(recalibrate=3, trainer=None)
    stage.fit_norms(SimpleNamespace(config=config, data=data), network, seed=7)
    assert asked == [(24, 7)]
    assert accuracies == []
    outputs = [network[0](x) for x in batches]
    mean = torch.stack([y.mean(0) for y in outputs]).mean(0)
    variance = torch.stack([y.var(0) for y in outputs]).mean(0)
    if after < before:
        mean, variance = torch.zeros(3), torch.ones(3)
    torch.testing.assert_close(network[1].running_mean, mean)
    torch.testing.assert_close(network[1].running_var, variance)
    assert all(module.training for module in network.modules())
