"""Labeled samples that are read by index, a batch at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from halut.data.files import printable
from halut.data.randomness import Keys
from halut.errors import HalutError


@dataclass(frozen=True)
class Request:
    """The samples of one batch: indices [B] into their source, and keys [B] uint64.

    keys None: no augmentation. Given: the augmentation of a sample is a function of its key.
    """

    indices: Tensor
    keys: Keys | None = None


class Samples:
    """A source of samples. `labels` [n] int64; subclasses read the images."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def identity(self, index: int) -> str:
        """A name that no other sample of the data set has."""
        raise NotImplementedError

    def portable_name(self, index: int) -> str:
        """The identity as it is on every machine: of a file, its path below the root."""
        return self.identity(index)

    def size(self, index: int) -> int:
        """Bytes of a sample's file where they are known, else 0."""
        return 0

    def fetch(self, request: Request) -> Tensor:
        """Normalized images [B, C, H, W] float32; HalutError naming a file that is corrupt."""
        raise NotImplementedError


class Split(Dataset[tuple[Tensor, Tensor]]):
    """A part of a source: `indices` [n] int64 into it."""

    def __init__(self, source: Samples, indices: Tensor | None = None) -> None:
        self.source = source
        self.indices = torch.arange(len(source)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """One sample without augmentation: image [C, H, W] and its label []."""
        index = self.indices[position]
        return self._fetch(Request(index[None]))[0], self.source.labels[index]

    def __getitems__(self, request: Request) -> tuple[Tensor, Tensor] | HalutError:
        """One batch: images [B, C, H, W] and labels [B].

        An error is returned, for the loader to raise: a worker process would wrap what it raises
        in a traceback of its own, and bury the message.
        """
        try:
            return self._fetch(request), self.source.labels[request.indices]
        except HalutError as error:
            return error

    def _fetch(self, request: Request) -> Tensor:
        """The images [B, ...]; HalutError naming the first sample that is not finite."""
        images = self.source.fetch(request)
        if not np.isfinite(images.numpy().sum()):  # in numpy: see data/arrays.py
            finite = torch.isfinite(images).flatten(1).all(1)
            if not bool(finite.all()):
                index = int(request.indices[int(finite.logical_not().nonzero()[0])])
                name = printable(self.source.identity(index))
                raise HalutError(f"{name} holds NaN or infinity")
        return images

    @property
    def labels(self) -> Tensor:
        return self.source.labels[self.indices]

    def identities(self) -> list[str]:
        """The identity of every sample, in order."""
        return [self.source.identity(int(index)) for index in self.indices]

    def digest(self) -> str:
        """SHA-256 of the samples' names, labels and files' sizes, whatever their order."""
        source, labels = self.source, self.labels.tolist()
        lines = sorted(
            os.fsencode(f"{source.portable_name(index)}\t{label}\t{source.size(index)}\n")
            for index, label in zip(self.indices.tolist(), labels, strict=True)
        )
        return hashlib.sha256(b"".join(lines)).hexdigest()

    def take(self, positions: Tensor) -> Split:
        """The part of this split at `positions`."""
        return Split(self.source, self.indices[positions])


def as_fetched(batch: Sequence[Tensor]) -> Sequence[Tensor]:
    """The collate function of loaders over splits, which fetch whole batches."""
    return batch
