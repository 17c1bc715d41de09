"""Accuracy lost when each site is replaced alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

from torch import Tensor, nn

from halut.replace import swap
from halut.sites.eval_mode import eval_mode
from halut.sites.plan import Entry, Plan


def sensitivity(
    network: nn.Module,
    plan: Plan,
    rows_of: Callable[[Entry], Tensor],
    score: Callable[[nn.Module], float],
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Score lost per replaced site, in the units of `score` (larger is better).

    Every site is learned from `rows_of(entry)` and swapped into a copy of `network`, which stays
    as it is; no batch-norm recalibration and no training, so the figure ranks sites and does not
    foretell the retrained accuracy.
    """
    base = score(network)
    accuracy_loss: dict[str, float] = {}
    for entry in plan.replaced:
        trial = copy.deepcopy(network)
        swap.replace_site(trial, entry, rows_of(entry), seed)
        accuracy_loss[entry.site.name] = base - score(trial)
        if progress is not None:
            progress(1)
    return accuracy_loss


def accuracy(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Top-1 accuracy in percent over (images, labels) batches, in evaluation mode."""
    right = total = 0
    with eval_mode(network) as device:
        for x, target in batches:
            right += int((network(x.to(device)).argmax(dim=1).cpu() == target).sum())
            total += len(target)
    return 100.0 * right / max(total, 1)
