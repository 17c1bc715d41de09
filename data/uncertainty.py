"""Confidence interval of an accuracy measured on few samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Z = 1.96
FEW_SAMPLES = 100
"""Below so many samples an accuracy is uncertain by about ten points and more."""


def margin(samples: int, accuracy: float = 50.0) -> float:
    """Points by which an accuracy in percent is uncertain: half of its 95 % interval.

    Wilson's interval of a binomial share p, z sqrt(p (1 - p) / n + (z / 2n)^2) / (1 + z^2 / n) with
    z = 1.96; 50 % is the worst case.
    """
    share = min(max(accuracy / 100, 0.0), 1.0)
    spread = math.sqrt(share * (1 - share) / samples + (Z / (2 * samples)) ** 2)
    return 100 * Z * spread / (1 + Z**2 / samples)


def chance(labels: Tensor) -> float:
    """Accuracy in percent of always naming the most frequent class: labels [n] -> percent."""
    return 100 * float(torch.bincount(labels).max()) / len(labels)


def near_chance(accuracy: float, labels: Tensor) -> bool:
    """True if an accuracy on `labels` [n], in percent, is no better than `chance` for sure."""
    by_chance = chance(labels)
    return accuracy <= by_chance + margin(len(labels), by_chance)
