"""Revival of prototypes that training has left without inputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from halut.encoders import Encoder
from halut.ops.geometry import ConvGeometry
from halut.ops.lookup.columns import row_count
from halut.prototypes.buckets import bucket_sizes

ROWS = 4096
"""Rows of a batch, in whole images, that codes are counted of and prototypes drawn from."""
COUNTS = 16
"""Steps between two revivals whose codes are counted."""
DEAD = 0.01
"""Share of an even use, rows / K, below which a prototype counts as unused."""


class Moved(NamedTuple):
    """Which prototypes [GC, K] have moved, to which inputs `to` [GC, K, V], and the codes `source`
    [GC, K] int64 that those had before; of others `to` and `source` mean nothing."""

    which: Tensor
    source: Tensor
    to: Tensor

    @classmethod
    def none(cls, P: Tensor) -> Moved:
        """No prototype of P [GC, K, V]."""
        return cls(
            torch.zeros(P.shape[:2], dtype=torch.bool, device=P.device),
            torch.zeros(P.shape[:2], dtype=torch.int64, device=P.device),
            torch.zeros_like(P),
        )

    def entries(self, values: Tensor) -> Tensor:
        """values [GC, K, ...], with those of the source in place of the moved ones'."""
        shape = (*self.which.shape, *(1,) * (values.ndim - 2))
        source = self.source.view(shape).expand_as(values)
        return torch.where(self.which.view(shape), values.gather(1, source), values)


class Revival(nn.Module):
    """Moves unused prototypes of an encoder onto inputs, every `every` steps.

    The codes of a part of some batches are counted. A prototype with less than DEAD of an even use
    takes the place of an input of the last batch, drawn with the probability of its squared
    distance to its own prototype, seeded by the step. Rank 0 draws for all ranks. `usage` [GC, K]
    and `steps` are part of the state: a resumed run revives what the uninterrupted one would have.
    """

    usage: Tensor
    steps: Tensor

    def __init__(self, every: int, total: int, K: int) -> None:
        super().__init__()
        self.every = every
        self.register_buffer("usage", torch.zeros(total, K, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._known_steps: int | None = None
        self._batch: tuple[Tensor, ConvGeometry | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_batch": None, "_known_steps": None}

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._known_steps = None

    def _steps_done(self) -> int:
        """`steps` as a number, read once: a GPU would be waited for in every step."""
        if self._known_steps is None:
            self._known_steps = int(self.steps)
        return self._known_steps

    def _counts(self, step: int) -> bool:
        return step % max(1, self.every // COUNTS) == 0 or step % self.every == 0

    @torch.no_grad()
    def note(self, x: Tensor, geometry: ConvGeometry | None) -> None:
        """Keep a part of the encoder's input x for `after_step`, if that will count its codes."""
        if self._counts(self._steps_done() + 1):
            per_item = max(1, row_count(x[:1], geometry)) if len(x) else 1
            self._batch = x[: -(-ROWS // per_item)].detach().clone(), geometry

    @torch.no_grad()
    def after_step(self, encoder: Encoder) -> Moved | None:
        """Count codes, and when it is time move prototypes of the encoder; None if none was."""
        batch, self._batch = self._batch, None
        self._known_steps = step = self._steps_done() + 1
        self.steps += 1
        codes = None
        if batch is not None and len(batch[0]):
            codes = encoder.codes(*batch)
            self.usage += bucket_sizes(codes, encoder.K)
        if step % self.every:
            return None
        P = encoder.prototypes
        assert isinstance(P, Tensor)
        moved = Moved.none(P)
        if batch is not None and codes is not None:
            inputs = encoder.blocks.split(encoder.gather_columns(*batch)).transpose(0, 1)
            moved = self._draw(inputs.to(P.dtype), codes.long().t(), P, step)
        self.usage.zero_()
        if dist.is_available() and dist.is_initialized():
            for tensor in moved:
                dist.broadcast(tensor, 0)
        if not bool(moved.which.any()):
            return None
        P.copy_(torch.where(moved.which[:, :, None], moved.to, P))
        return moved

    def _draw(self, inputs: Tensor, codes: Tensor, P: Tensor, step: int) -> Moved:
        """Where unused prototypes P [GC, K, V] go; inputs [GC, n, V] with their codes [GC, n]."""
        K, V = P.shape[1:]
        dead = self.usage * K < DEAD * self.usage.sum(1, keepdim=True)
        q = P.gather(1, codes[:, :, None].expand(-1, -1, V))
        error = (inputs - q).square().sum(-1).nan_to_num(0.0, 0.0, 0.0)
        coded = error.sum(1, keepdim=True) == 0  # all inputs are prototypes: nothing is gained
        weights = error.masked_fill(coded, 1.0).cpu()
        generator = torch.Generator().manual_seed(step)
        drawn = torch.multinomial(weights, K, replacement=True, generator=generator).to(P.device)
        to = inputs.gather(1, drawn[:, :, None].expand(-1, -1, V))
        return Moved(dead & ~coded, codes.gather(1, drawn), to)
