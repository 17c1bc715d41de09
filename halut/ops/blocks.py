"""Partition of the D inputs of a matrix product into the blocks of its codebooks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halut.errors import HalutError


@dataclass(frozen=True)
class Blocks:
    """C contiguous blocks over D inputs, once per group: the first D mod C are one wider.

    A grouped product has `groups` independent halves of D inputs and C codebooks each; its rows
    are [N, groups * D] and its codes [N, groups * C], both group-major.

    With `stages` above 1 there are C / stages blocks, and as many codebooks of every block as
    there are stages: those of the first stage, then those of the second, ... Each codes what the
    stages before it leave, so that a row is the sum of its prototypes (residual quantization).

    Raises HalutError unless 1 <= C / stages <= D, a whole number, and groups >= 1.
    """

    D: int
    C: int
    groups: int = 1
    stages: int = 1

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise HalutError(f"groups must be at least 1, got {self.groups}")
        if self.stages < 1 or self.C % self.stages:
            raise HalutError(f"stages must divide the {self.C} codebooks, got {self.stages}")
        if not 1 <= self.C // self.stages <= self.D:
            times = f"{self.stages} times " if self.stages > 1 else ""
            raise HalutError(f"{self.D} inputs: C must be {times}in 1..{self.D}, got {self.C}")

    @property
    def of_stage(self) -> Blocks:
        """The blocks of one stage: C / stages of them."""
        return Blocks(self.D, self.C // self.stages, self.groups)

    @property
    def total(self) -> int:
        """Codebooks over all groups."""
        return self.groups * self.C

    @property
    def inputs(self) -> int:
        """Columns of the rows over all groups."""
        return self.groups * self.D

    @property
    def widths(self) -> list[int]:
        """Inputs per codebook, [groups * C]."""
        spans = self.C // self.stages
        narrow, wider = divmod(self.D, spans)
        return [narrow + (c < wider) for c in range(spans)] * self.stages * self.groups

    @property
    def starts(self) -> list[int]:
        """First column of every codebook, [groups * C]."""
        starts, at = [], 0
        for width in self.widths[: self.C // self.stages]:
            starts.append(at)
            at += width
        return [g * self.D + start for g in range(self.groups) for start in starts * self.stages]

    @property
    def V(self) -> int:
        """Inputs of the widest codebook."""
        return -(-self.D // (self.C // self.stages))

    @property
    def even(self) -> bool:
        """True if all blocks are equally wide, so that rows.view(N, groups * C, V) holds."""
        return self.stages == 1 and self.D % self.C == 0

    def columns(self) -> Tensor:
        """Columns of every codebook, [groups * C, V] int64, and -1 where a block is narrower."""
        columns = torch.full((self.total, self.V), -1, device="cpu")
        for c, (start, width) in enumerate(zip(self.starts, self.widths, strict=True)):
            columns[c, :width] = torch.arange(start, start + width, device="cpu")
        return columns

    def split(self, rows: Tensor) -> Tensor:
        """rows [N, groups * D] -> [N, groups * C, V], zero where a block is narrower than V."""
        if self.even:
            return rows.reshape(rows.shape[0], self.total, self.V)
        columns = self.columns().to(rows.device)
        padded = torch.cat([rows, rows.new_zeros(rows.shape[0], 1)], dim=1)
        return padded[:, columns]  # column -1 is the appended zero

    def join(self, parts: Tensor) -> Tensor:
        """The inverse of `split`: [N, groups * C, V] -> rows [N, groups * D]."""
        flat = parts.reshape(parts.shape[0], -1)
        if self.even:
            return flat
        places = [c * self.V + i for c, width in enumerate(self.widths) for i in range(width)]
        return flat[:, torch.tensor(places, device=parts.device)]  # no mask: its size could be any


def check_rows(rows: Tensor, inputs: int) -> None:
    """Raise HalutError unless rows are [N >= 1, inputs], floating and finite."""
    if rows.ndim != 2 or rows.shape[1] != inputs or rows.shape[0] == 0:
        raise HalutError(f"rows must be [N >= 1, {inputs}], got {list(rows.shape)}")
    if not bool(torch.isfinite(rows).all()):
        raise HalutError("rows hold NaN or infinite values")
