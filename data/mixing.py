"""Mixup and cutmix of training batches, a function of (seed, stream, epoch, batch number)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.data import Mixup
from torch import Tensor

from halut.data.randomness import fold, isolated
from halut.errors import HalutError

_MIXING = 1  # keeps these draws apart from those of the samples' augmentation


@dataclass(frozen=True)
class Mixing:
    """timm's Mixup with seeds. alpha 0 switches mixup or cutmix off; `prob` is per batch.

    Mixup: Zhang et al., ICLR 2018. Cutmix: Yun et al., ICCV 2019. Both pair a batch with its
    reverse, so the number of samples must be even.
    """

    mixup: float
    cutmix: float
    prob: float
    num_classes: int

    def __call__(self, images: Tensor, labels: Tensor, batch_key: tuple[int, ...]) -> list[Tensor]:
        """images [B, C, H, W], labels [B] -> mixed images and soft targets [B, num_classes].

        `batch_key` identifies the batch. Label smoothing belongs to the loss and is not applied.
        Raises HalutError if B is odd.
        """
        if len(images) % 2:
            raise HalutError(
                f"mixup and cutmix pair the samples of a batch: data.batch_size over the processes "
                f"must be even, got {len(images)}"
            )
        mix = Mixup(
            mixup_alpha=self.mixup,
            cutmix_alpha=self.cutmix,
            prob=self.prob,
            label_smoothing=0.0,
            num_classes=self.num_classes,
        )
        with isolated(int(fold(_MIXING, *batch_key)[0])):
            mixed, targets = mix(images.clone(), labels)  # timm mixes in place
        return [mixed, targets.to(torch.float32)]
