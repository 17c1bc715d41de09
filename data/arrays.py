"""Images held in memory as bytes; crop and flip of a whole batch at once.

In numpy, which stays on one thread: torch would split these small operations over all threads, and
on a busy machine waiting for the last of them costs twenty times the work itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halut.data.config import DataConfig
from halut.data.randomness import Keys, integers, uniforms
from halut.data.samples import Request, Samples
from halut.errors import HalutError
from halut.option import option, where, while_training

Pixels = NDArray[np.uint8]


@dataclass
class ImageConfig(DataConfig):
    """Augmentation of images in memory: shift and mirror."""

    crop_padding: int = option(
        0, "training images are shifted by up to so many pixels", needs=while_training
    )
    crop_border: str = option(
        "zeros",
        "what a shift brings in",
        choices=("zeros", "reflect"),
        needs=where(lambda own: own.crop_padding, "it needs data.crop_padding above 0"),
    )
    flip: bool = option(False, "half of the training images are mirrored", needs=while_training)

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
        self._pixels: Pixels = images.numpy()
        self._scale = (1 / (top * std)).view(-1, 1, 1).numpy()
        self._shift = (-mean / std).view(-1, 1, 1).numpy()
        if config.crop_padding >= min(images.shape[-2:]):
            raise HalutError(
                f"data.crop_padding must be smaller than the image {list(images.shape[-2:])}, "
                f"got {config.crop_padding}"
            )

    def identity(self, index: int) -> str:
        return f"{self.name}/{index}"

    def fetch(self, request: Request) -> Tensor:
        pixels = self._pixels[request.indices.numpy()]
        if request.keys is not None:
            pixels = crop_flip(pixels, request.keys, self.config)
        images = pixels.astype(np.float32)
        images *= self._scale
        images += self._shift
        return torch.from_numpy(images)


def crop_flip(pixels: Pixels, keys: Keys, config: ImageConfig) -> Pixels:
    """Crop padded images at a random place, mirror half of them: [B, C, H, W] uint8 -> same.

    Draws 0, 1 and 2 of a sample's key are its vertical and horizontal place and the mirroring.
    """
    B, C, H, W = pixels.shape
    pad = config.crop_padding
    rows = np.broadcast_to(np.arange(H), (B, H))
    columns = np.broadcast_to(np.arange(W), (B, W))
    if pad:
        rows = rows + integers(keys, 0, 2 * pad + 1)[:, None]
        columns = columns + integers(keys, 1, 2 * pad + 1)[:, None]
        mode: Literal["constant", "reflect"]
        mode = "constant" if config.crop_border == "zeros" else "reflect"
        pixels = np.pad(pixels, ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode=mode)
    if config.flip:
        mirrored = (uniforms(keys, 2) < 0.5)[:, None]
        columns = np.where(mirrored, columns[:, ::-1], columns)
    places = rows[:, :, None] * pixels.shape[-1] + columns[:, None, :]
    flat = pixels.reshape(B, C, -1)
    return np.take_along_axis(flat, places.reshape(B, 1, H * W), axis=2).reshape(B, C, H, W)
