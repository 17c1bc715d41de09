"""Base LightningDataModule of every data set: splits, loaders, calibration, mixing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from halut.data.config import DataConfig
from halut.data.loader import Batch, BatchLoader, TrainLoader
from halut.data.mixing import Mixing
from halut.data.sampler import OrderedBatches, TrainBatches, rank_and_world
from halut.data.samples import Split
from halut.data.shared_memory import check_shared_memory
from halut.data.splits import balanced_subset, stratified_split
from halut.data.uncertainty import FEW_SAMPLES, margin
from halut.errors import HalutError
from halut.registry import Registry

log = logging.getLogger("halut")


@dataclass(frozen=True)
class Pools:
    """What a data set's files hold. Without `val`, validation is split off from `train`.

    `partial`: the network may have classes that no training sample is of.
    """

    train: Split
    test: Split
    class_names: list[str]
    val: Split | None = None
    partial: bool = False


class DataModule(LightningDataModule):
    """Training, validation and test batches of one data set: images [B, C, H, W], labels [B].

    Every training batch is a function of (seed, stream, epoch, position). `stream` is set by the
    stage loop before each fit, so that every stage sees another shuffle and augmentation, and so is
    `batch_size` where stages have their own.

    Subclasses give `Config`, `load` and, where they can, `download`. After `setup`: `class_names`,
    `num_classes`, `input_shape` (C, H, W), `mean` and `std`.
    """

    Config: ClassVar[type[DataConfig]] = DataConfig
    allow_zero_length_dataloader_with_multiple_devices = True  # fewer test samples than processes
    class_names: list[str]
    num_classes: int
    input_shape: tuple[int, int, int]
    mean: list[float]
    std: list[float]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.config = self.Config.of(options)
        self.stream = 0
        self.batch_size: int = self.config.batch_size
        self.splits: dict[str, Split] = {}
        self._digests: dict[str, str] = {}
        self._train_loader: TrainLoader | None = None

    def load(self) -> Pools:
        """Read or list the files; sets mean and std. HalutError naming what is missing or bad."""
        raise NotImplementedError

    def download(self) -> None:
        """Fetch the files into the root; called only with download=true."""
        raise HalutError(f"data.{self.config.name} cannot be downloaded: set data.download=false")

    def prepare_data(self) -> None:
        """Download if asked to (on one process of each machine)."""
        if self.config.download:
            self.download()

    def setup(self, stage: str | None = None) -> None:
        """Load once, check and split."""
        if self.splits:
            return
        pools = self.load()
        if not isinstance(pools, Pools):
            raise HalutError(f"{self.config.name}: load() must return Pools, got {pools!r:.80}")
        splits = {"training": pools.train, "validation": pools.val, "test": pools.test}
        for name, split in splits.items():
            if split is not None:
                self._check_classes(name, split, pools)
        train, val = pools.train, pools.val
        if val is None:
            train_positions, val_positions = stratified_split(
                train.labels, self.config.val_fraction, self.config.split_seed
            )
            train, val = train.take(train_positions), train.take(val_positions)
        train = self._subset("train_samples", train)
        val = self._subset("val_samples", val)
        self.class_names, self.num_classes = pools.class_names, len(pools.class_names)
        self.check_batch_size("data.batch_size", self.config.batch_size)
        self.input_shape = tuple(train[0][0].shape)  # type: ignore[assignment]  # always three
        check_shared_memory(self.config, self.input_shape)
        self.splits = {"train": train, "val": val, "test": pools.test}
        self._warn_of_few()

    def digests(self) -> dict[str, str]:
        """What identifies the samples of every split; equal for the same files and split."""
        if not self._digests:
            self._digests = {name: split.digest() for name, split in self.splits.items()}
        return self._digests

    def split_files(self) -> dict[str, list[str]] | None:
        """Where the split is drawn from a folder of files: those of each part, by name."""
        return None

    def train_dataloader(self) -> TrainLoader:
        """Shuffled, augmented batches of this process' share, from the trainer's place on."""
        config = self.config
        batches = TrainBatches(
            self.splits["train"].indices, self.batch_size, config.seed, self.stream
        )
        if self.trainer is not None:
            # `processed`, not trainer.current_epoch: a checkpoint of an epoch's end was written
            # before Lightning counted that epoch as completed.
            progress = self.trainer.fit_loop.epoch_progress.state_dict()
            batches.set_epoch(progress["current"]["processed"])
        self._train_loader = TrainLoader(
            self.splits["train"], batches, config.workers, self._progress
        )
        return self._train_loader

    def val_dataloader(self) -> BatchLoader:
        """Validation samples in order; each on exactly one process."""
        return self._eval_loader("val")

    def test_dataloader(self) -> BatchLoader:
        """Test samples in order; each on exactly one process."""
        return self._eval_loader("test")

    def read_test(self, batches: int | None = None) -> None:
        """Read the test samples of this process, at most `batches`; HalutError naming a bad one."""
        test = self.splits["test"]
        requests = list(OrderedBatches(test.indices, self.config.eval_batch_size))[:batches]
        for _ in BatchLoader(test, requests, self.config.workers, persistent=False):
            pass

    def calibration_batches(
        self, samples: int, seed: int, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """About `samples` training samples, class-balanced, shuffled, without augmentation.

        The same on every process and in every call with the same arguments; all training samples,
        shuffled, if there are no more than `samples`. Batches of eval_batch_size; shard = (r, n):
        every n-th of them, from the r-th on.
        """
        if samples < 1:
            raise HalutError(f"calibration needs at least 1 sample, got {samples}")
        train = self.splits["train"]
        indices = train.indices[balanced_subset(train.labels, samples, seed)]
        batches = list(OrderedBatches(indices, self.config.eval_batch_size, shard=(0, 1)))
        mine = batches[shard[0] :: shard[1]]
        yield from BatchLoader(train, mine, self.config.workers, persistent=False)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Mix training batches, where mixup or cutmix is on: labels become soft [B, classes]."""
        mixing = self._mixing()
        training = self.trainer is not None and self.trainer.training
        if mixing is None or not training or self._train_loader is None:
            return batch
        images, labels = batch
        place = (self.config.seed, self.stream, *self._train_loader.handed_out)
        return mixing(images, labels, place)

    def _mixing(self) -> Mixing | None:
        config = self.config
        if config.mixup_prob == 0 or (config.mixup == 0 and config.cutmix == 0):
            return None
        return Mixing(config.mixup, config.cutmix, config.mixup_prob, self.num_classes)

    def check_batch_size(self, option: str, size: int) -> None:
        """Raise HalutError naming the option if training batches cannot have that size."""
        if self._mixing() is not None and size % 2:
            raise HalutError(f"{option} must be even with mixup or cutmix, got {size}")

    def _eval_loader(self, split: str) -> BatchLoader:
        part = self.splits[split]
        batches = OrderedBatches(part.indices, self.config.eval_batch_size)
        return BatchLoader(part, batches, self.config.workers)

    def _progress(self) -> tuple[int, float]:
        """(batches processed in this epoch, batches per epoch), as Lightning counts them."""
        if self.trainer is None:
            return 2**62, float("inf")
        loop = self.trainer.fit_loop
        return loop.epoch_loop.batch_progress.state_dict()["current"]["processed"], loop.max_batches

    def _subset(self, option: str, split: Split) -> Split:
        samples = getattr(self.config, option)
        if samples is None:
            return split
        if samples > len(split):
            raise HalutError(f"data.{option} must be in 1..{len(split)}, got {samples}")
        positions = balanced_subset(split.labels, samples, self.config.split_seed)
        return split.take(positions.sort().values)

    def _warn_of_few(self) -> None:
        few = {name: len(self.splits[name]) for name in ("val", "test")}
        messages = [
            f"{samples} {name} samples: +-{margin(samples):.0f} points"
            for name, samples in few.items()
            if samples < FEW_SAMPLES
        ]
        if messages and rank_and_world()[0] == 0:
            log.warning(
                "data.%s: few samples, so accuracies are uncertain (95 %%, worst case): %s",
                self.config.name,
                "; ".join(messages),
            )

    def _check_classes(self, name: str, split: Split, pools: Pools) -> None:
        class_names = pools.class_names
        counts = torch.bincount(split.labels, minlength=len(class_names))
        empty = [class_names[c] for c in range(len(class_names)) if counts[c] == 0]
        if name == "training" and empty and not pools.partial:
            raise HalutError(f"data.{self.config.name}: no {name} samples of class {empty[0]!r}")
        if len(split) == 0:
            raise HalutError(f"data.{self.config.name}: no {name} samples")


datasets: Registry[type[DataModule]] = Registry("data set")
"""Every data set; the `Config` of an entry is its schema."""


def image_statistics(config: DataConfig, channels: int) -> tuple[Tensor, Tensor]:
    """mean and std of the configuration, each [channels]; HalutError for another length."""
    values = []
    for field, default in (("mean", 0.0), ("std", 1.0)):
        value = getattr(config, field)
        value = [default] * channels if value is None else list(value)
        if len(value) != channels:
            raise HalutError(f"data.{field} must have {channels} values, got {len(value)}")
        values.append(torch.tensor(value))
    return values[0], values[1]
