"""How far an export's answers are from the network's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from halut.errors import HalutError

CLOSE = 1e-4
"""Of the largest answer: what rounding explains."""


@dataclass(frozen=True)
class Difference:
    """Distances between the answers of an export and of its network to the same inputs.

    largest: the largest |a - b| over the largest |b|, of every tensor the network answers, the
    worst of them; close: the share of samples, 0..1, that are no further away than CLOSE, as in
    others a rounding moved an input across a threshold; same_top1: the share whose largest entry of
    the first answer is the same one, None where that is no rows [N, classes]; equal: whether all
    bits are.
    """

    samples: int
    largest: float
    close: float
    same_top1: float | None
    equal: bool

    def __str__(self) -> str:
        if self.equal:
            return f"equal bits on {self.samples} samples"
        top1 = "" if self.same_top1 is None else f", top-1 equal for {100 * self.same_top1:.2f} %"
        return f"{self.largest:.2e} of the largest answer on {self.samples} samples{top1}"


def difference(ours: Any, theirs: Any, samples: int, in_floats: bool = True) -> Difference:
    """The distances of the answers `ours` of an export from `theirs`, of its network.

    Any nesting of tensors. Raises HalutError where their number or shapes differ, where one has NaN
    or infinite entries that the other has not, and, if the export computes `in_floats` as the
    network does, where most samples are not close: their rounding moves few, that of activations to
    integers all.
    """
    a, b = ([x for x in tree_leaves(each) if isinstance(x, Tensor)] for each in (ours, theirs))
    if [x.shape for x in a] != [x.shape for x in b]:
        shapes = " and ".join(str([list(x.shape) for x in each]) for each in (a, b))
        raise HalutError(f"the export answers shapes otherwise than the network: {shapes}")
    pairs = list(zip(a, b, strict=True))
    gaps = [_gaps(x, y) for x, y in pairs]
    by_sample = torch.zeros(samples, dtype=torch.float64)
    for gap in gaps:
        rows = gap.flatten(1).amax(1) if gap.ndim > 1 else gap
        by_sample = by_sample.maximum(rows if len(gap) == samples else gap.max())
    found = Difference(
        samples,
        max((float(gap.max()) for gap in gaps), default=0.0),
        float((by_sample <= CLOSE).double().mean()),
        _same_top1(*pairs[0]) if pairs else None,
        all(torch.equal(x, y) for x, y in pairs),
    )
    if in_floats and found.close < 0.5:
        raise HalutError(f"the export answers otherwise than the network: {found}")
    return found


def _gaps(a: Tensor, b: Tensor) -> Tensor:
    """|a - b| over the largest |b|, float64, at least of one dimension."""
    a, b = torch.atleast_1d(a.detach().double(), b.detach().double())
    finite = b.isfinite()
    if not torch.equal(a.isfinite(), finite):
        raise HalutError("the export answers NaN or infinity elsewhere than the network")
    largest = b.where(finite, 0.0).abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return (a - b).abs().where(finite, 0.0) / largest


def _same_top1(a: Tensor, b: Tensor) -> float | None:
    if a.ndim != 2 or a.shape[1] < 2 or not len(a):
        return None
    return float((a.argmax(1) == b.argmax(1)).float().mean())
