"""A run that is killed and continued ends with the weights of the whole run, bit for bit."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from halut import data
from halut.errors import HalutError

STEPS = 5  # batches of an epoch
OPTIONS = {
    "batch_size": 16,
    "train_samples": 16 * STEPS + 3,
    "val_samples": 20,
    "crop_padding": 1,
    "flip": True,
    "mixup": 0.4,
    "cutmix": 1.0,
}


class Killed(RuntimeError):
    pass


class Network(LightningModule):
    """A linear network that notes every batch, and dies before batch number `die_at`."""

    def __init__(self, die_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(64, 10)
        self.die_at = die_at
        self.seen: list[tuple[int, int, float]] = []

    def training_step(self, batch, batch_idx):
        if self.die_at is not None and self.global_step == self.die_at:
            raise Killed
        images, targets = batch
        self.seen.append((self.current_epoch, batch_idx, float(images.sum() + targets[:, 3].sum())))
        return nn.functional.cross_entropy(self.head(images.flatten(1)), targets)

    def validation_step(self, batch, batch_idx):
        self.log("val", self.head(batch[0].flatten(1)).mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(folder, network, workers=0, ckpt_path=None, checkpoint=None, limit=1.0, **options):
    trainer = Trainer(
        max_epochs=3,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        callbacks=[checkpoint or ModelCheckpoint(folder, every_n_train_steps=1)],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_train_batches=limit,
    )
    module = data.build("digits", workers=workers, **{**OPTIONS, **options})
    module.stream = 7
    trainer.fit(network, module, ckpt_path=ckpt_path)
    return network


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("whole"), Network())


def continued(tmp_path, die_at, save_every=1, **kwargs):
    first, second = Network(die_at), Network()
    with pytest.raises(Killed):
        fit(tmp_path, first, checkpoint=checkpoints(tmp_path, save_every), **kwargs)
    [saved] = tmp_path.glob("*.ckpt")
    fit(tmp_path, second, ckpt_path=saved, **kwargs)
    return first, second


def checkpoints(folder, save_every):
    return ModelCheckpoint(folder, every_n_train_steps=save_every, save_top_k=1)


@pytest.mark.parametrize("die_at", range(1, 3 * STEPS))
def test_continues_after_any_step(tmp_path, whole, die_at):
    first, second = continued(tmp_path, die_at)
    assert first.seen + second.seen == whole.seen
    assert torch.equal(second.head.weight, whole.head.weight)


@pytest.mark.parametrize("die_at", [3, STEPS, STEPS + 3])
def test_continues_with_workers(tmp_path, whole, die_at):
    first, second = continued(tmp_path, die_at, workers=2)
    assert first.seen + second.seen == whole.seen
    assert torch.equal(second.head.weight, whole.head.weight)


@pytest.mark.parametrize("die_at", [4, STEPS + 1, 2 * STEPS + 4])
def test_repeats_only_what_came_after_the_checkpoint(tmp_path, whole, die_at):
    first, second = continued(tmp_path, die_at, save_every=3)
    saved = die_at // 3 * 3
    assert first.seen == whole.seen[:die_at]
    assert second.seen == whole.seen[saved:]
    assert torch.equal(second.head.weight, whole.head.weight)


@pytest.mark.parametrize("at_train_epoch_end", [True, False])
@pytest.mark.parametrize("limit", [1.0, 4])
def test_continues_after_an_epochs_end(tmp_path, at_train_epoch_end, limit):
    def saving():
        return ModelCheckpoint(tmp_path, save_on_train_epoch_end=at_train_epoch_end)

    reference = fit(tmp_path / "whole", Network(), limit=limit)
    steps = len(reference.seen) // 3
    first, second = Network(die_at=steps + 2), Network()
    with pytest.raises(Killed):
        fit(tmp_path, first, checkpoint=saving(), limit=limit)
    [saved] = tmp_path.glob("*.ckpt")
    fit(tmp_path, second, ckpt_path=saved, checkpoint=saving(), limit=limit)
    assert second.seen == reference.seen[steps:]
    assert torch.equal(second.head.weight, reference.head.weight)


def test_epochs_and_batches_differ(whole):
    assert len({value for _, _, value in whole.seen}) == 3 * STEPS


def test_refuses_to_continue_mid_epoch_with_another_batch_size(tmp_path):
    with pytest.raises(Killed):
        fit(tmp_path, Network(die_at=3), checkpoint=checkpoints(tmp_path, 1))
    [saved] = tmp_path.glob("*.ckpt")
    with pytest.raises(HalutError, match=r"batch_size 16 \(now 8\)"):
        fit(tmp_path, Network(), ckpt_path=saved, batch_size=8)
