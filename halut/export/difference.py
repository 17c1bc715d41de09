"""How far an export's answers are from the network's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from halut.errors import HalutError


@dataclass(frozen=True)
class Difference:
    """Distances between the answers of an export and of its network to the same inputs.

    largest: the largest |a - b| over the largest |b|, of every tensor the network answers, the
    worst of them; same_top1: the share of samples, 0..1, whose largest entry of the first answer is
    the same one, None where answers are no rows [N, classes]; equal: whether all bits are.
    """

    samples: int
    largest: float
    same_top1: float | None
    equal: bool

    def __str__(self) -> str:
        if self.equal:
            return f"equal bits on {self.samples} samples"
        top1 = "" if self.same_top1 is None else f", top-1 equal for {100 * self.same_top1:.2f} %"
        return f"{self.largest:.2e} of the largest answer on {self.samples} samples{top1}"


def difference(ours: Any, theirs: Any, samples: int) -> Difference:
    """The distances of the answers `ours` of an export from `theirs`, of its network.

    Any nesting of tensors. Raises HalutError where their number or shapes differ, or where one has
    NaN or infinite entries that the other has not.
    """
    a, b = ([x for x in tree_leaves(each) if isinstance(x, Tensor)] for each in (ours, theirs))
    if [x.shape for x in a] != [x.shape for x in b]:
        shapes = " and ".join(str([list(x.shape) for x in each]) for each in (a, b))
        raise HalutError(f"the export answers shapes otherwise than the network: {shapes}")
    pairs = list(zip(a, b, strict=True))
    return Difference(
        samples,
        max((_largest(x, y) for x, y in pairs), default=0.0),
        _same_top1(*pairs[0]) if pairs else None,
        all(torch.equal(x, y) for x, y in pairs),
    )


def _largest(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    finite = b.isfinite()
    if not torch.equal(a.isfinite(), finite):
        raise HalutError("the export answers NaN or infinity elsewhere than the network")
    if not finite.any():
        return 0.0
    a, b = a[finite], b[finite]
    return float((a - b).abs().max() / b.abs().max().clamp_min(torch.finfo(torch.float32).tiny))


def _same_top1(a: Tensor, b: Tensor) -> float | None:
    if a.ndim != 2 or a.shape[1] < 2 or not len(a):
        return None
    return float((a.argmax(1) == b.argmax(1)).float().mean())
