"""How much an accuracy on few samples says."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEW = 100
"""Below so many samples an accuracy is uncertain by ten points and more."""


def margin(samples: int, accuracy: float = 50.0) -> float:
    """Points by which an accuracy in percent is uncertain: half of its 95 % interval.

    By the normal approximation of the binomial, sqrt(p (1 - p) / n); 50 % is the worst case.
    """
    share = min(max(accuracy / 100, 0.0), 1.0)
    return 196 * math.sqrt(share * (1 - share) / samples)


def chance(labels: Tensor) -> float:
    """Accuracy in percent of always naming the most frequent class: labels [n] -> percent."""
    return 100 * float(torch.bincount(labels).max()) / len(labels)


def near_chance(accuracy: float, labels: Tensor) -> bool:
    """True if an accuracy on `labels` [n], in percent, is no better than `chance` for sure."""
    by_chance = chance(labels)
    return accuracy <= by_chance + margin(len(labels), by_chance)
