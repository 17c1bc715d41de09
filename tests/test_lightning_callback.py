"""HalutCallback in a LightningModule that knows nothing of halut."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch import nn

import halut
from halut.layers.lut import LUTLinear
from halut.lightning import HalutCallback

X = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.filterwarnings("ignore")


class Theirs(L.LightningModule):
    def __init__(self, replaced: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
        self.seen: list[float] = []
        if replaced:
            halut.replace_(self.net, halut.Tree(K=4, estimator="blend"), [X])

    def training_step(self, batch, batch_idx):
        if isinstance(self.net[2], LUTLinear):
            self.seen.append(self.net[2].blend.item())
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class TwoOptimizers(Theirs):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        first, second = self.optimizers()
        self.manual_backward(loss)
        first.step()
        second.step()

    def configure_optimizers(self):
        exact, own = self.net[0].parameters(), self.net[2].parameters()
        return torch.optim.SGD(exact, lr=0.01), torch.optim.SGD(own, lr=0.01)


def trainer(*callbacks, epochs=1, **options) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        **{"enable_checkpointing": False, **quiet, **options},
    )


def loader():
    return torch.utils.data.DataLoader(X, batch_size=8)


def test_every_step_moves_on_by_its_share():
    module, callback = Theirs(), HalutCallback()
    trainer(callback, epochs=2).fit(module, loader())
    assert module.seen == [step / 8 for step in range(8)]
    assert module.net[2].blend.item() == 1.0
    assert callback.handles == []


def test_accumulated_batches_are_one_step():
    module = Theirs()
    trainer(HalutCallback(), accumulate_grad_batches=2).fit(module, loader())
    assert module.seen == [0, 0, 0.5, 0.5]


def test_steps_of_the_optimizer_that_trains_the_layers_are_counted():
    module = TwoOptimizers()
    trainer(HalutCallback(steps=4)).fit(module, loader())
    assert module.seen == [0, 0.25, 0.5, 0.75]


def test_a_resumed_fit_goes_on_where_it_stopped(tmp_path):
    first = trainer(HalutCallback(steps=8), default_root_dir=tmp_path)
    first.fit(Theirs(), loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    module = Theirs()
    again = trainer(HalutCallback(steps=8), epochs=2)
    again.fit(module, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert module.seen == [0.5, 0.625, 0.75, 0.875]


def test_nothing_replaced_and_no_end_are_refused():
    with pytest.raises(halut.HalutError, match="no replaced layers"):
        trainer(HalutCallback()).fit(Theirs(replaced=False), loader())
    with pytest.raises(halut.HalutError, match=r"HalutCallback\(steps="):
        trainer(HalutCallback(), epochs=-1).fit(Theirs(), loader())
