"""Images held in memory as bytes; crop and flip of a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data.config import DataConfig
from data.randomness import Keys, integers, uniforms
from data.samples import Request, Samples
from halut.errors import HalutError


@dataclass
class ImageConfig(DataConfig):
    """Augmentation of images in memory: shift by up to `crop_padding` pixels, mirror.

    `crop_border`: what a shift brings in, "zeros" or "reflect".
    """

    crop_padding: int = 0
    crop_border: str = "zeros"
    flip: bool = False

    def check(self) -> None:
        super().check()
        if self.crop_padding < 0:
            raise HalutError(f"data.crop_padding must not be negative, got {self.crop_padding}")
        if self.crop_border not in ("zeros", "reflect"):
            raise HalutError(f"data.crop_border must be zeros or reflect, got {self.crop_border!r}")


class ArraySamples(Samples):
    """images [n, C, H, W] uint8 in 0..top, labels [n] -> (image / top - mean) / std."""

    def __init__(
        self,
        name: str,
        images: Tensor,
        labels: Tensor,
        statistics: tuple[Tensor, Tensor],
        config: ImageConfig,
        top: int = 255,
    ) -> None:
        self.name, self.images, self.labels, self.config = name, images, labels, config
        mean, std = statistics
        self._scale = (1 / (top * std)).view(-1, 1, 1)
        self._shift = (-mean / std).view(-1, 1, 1)
        if config.crop_padding >= min(images.shape[-2:]):
            raise HalutError(
                f"data.crop_padding must be smaller than the image {list(images.shape[-2:])}, "
                f"got {config.crop_padding}"
            )

    def identity(self, index: int) -> str:
        return f"{self.name}/{index}"

    def fetch(self, request: Request) -> Tensor:
        images = self.images[request.indices]
        if request.keys is not None:
            images = crop_flip(images, request.keys, self.config)
        return images.to(torch.float32).mul_(self._scale).add_(self._shift)


def crop_flip(images: Tensor, keys: Keys, config: ImageConfig) -> Tensor:
    """Crop padded images at a random place, mirror half of them: [B, C, H, W] uint8 -> same.

    Draws 0, 1 and 2 of a sample's key are its vertical and horizontal place and the mirroring.
    """
    B, C, H, W = images.shape
    pad = config.crop_padding
    rows = torch.arange(H).expand(B, H)
    columns = torch.arange(W).expand(B, W)
    if pad:
        rows = rows + torch.from_numpy(integers(keys, 0, 2 * pad + 1))[:, None]
        columns = columns + torch.from_numpy(integers(keys, 1, 2 * pad + 1))[:, None]
        images = _padded(images, pad, config.crop_border)
    if config.flip:
        mirrored = torch.from_numpy(np.less(uniforms(keys, 2), 0.5))[:, None]
        columns = torch.where(mirrored, columns.flip(1), columns)
    places = rows[:, :, None] * images.shape[-1] + columns[:, None, :]
    places = places.view(B, 1, H * W).expand(B, C, H * W)
    return images.flatten(2).gather(2, places).view(B, C, H, W)


def _padded(images: Tensor, pad: int, border: str) -> Tensor:
    if border == "zeros":
        return functional.pad(images, (pad, pad, pad, pad))
    H, W = images.shape[-2:]
    rows = (
        functional.pad(torch.arange(H)[None, None].float(), (pad, pad), "reflect").long().view(-1)
    )
    columns = functional.pad(torch.arange(W)[None, None].float(), (pad, pad), "reflect")
    return images[:, :, rows][:, :, :, columns.long().view(-1)]
