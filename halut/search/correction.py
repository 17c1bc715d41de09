"""Scores corrected by what plans were seen to lose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halut.search.knapsack import Array

SPREAD = 0.5
"""Standard deviation of an option's loss in a plan, relative to its loss alone."""
FLOOR = 0.02
"""The same at least, relative to the median of all losses that are not 0."""
NOISE = 0.05
"""Standard deviation of a plan's measured loss, relative to it."""


class Correction:
    """Losses of options, as a linear model of the losses of plans.

    A plan loses the sum of what its options lose. Losses alone are the prior, independent Gaussians
    whose deviation is SPREAD of the loss; every plan that was measured is an observation of a sum,
    by which the mean and covariance of its options change (Kalman's update):

        m += P a (a' P a + s^2)^-1 (seen - a' m),   P -= P a (a' P a + s^2)^-1 a' P,

    a the indicator of the plan's options. Options that lose nothing alone, such as keeping a site,
    lose nothing, for certain.
    """

    def __init__(self, losses: Sequence[Array]) -> None:
        self.sizes = [len(each) for each in losses]
        self.mean = np.concatenate(losses) if losses else np.zeros(0)
        median = float(np.median(np.abs(self.mean[self.mean != 0]))) if self.mean.any() else 0.0
        deviation = SPREAD * np.abs(self.mean) + FLOOR * median
        deviation[self.mean == 0] = 0.0
        self.covariance = np.diag(deviation**2)

    def losses(self) -> list[Array]:
        """The corrected losses of every item's options."""
        return list(np.split(self.mean, np.cumsum(self.sizes)[:-1]))

    def predict(self, options: Sequence[int]) -> float:
        """What a plan is now expected to lose."""
        return float(self.mean[self._places(options)].sum())

    def see(self, options: Sequence[int], loss: float) -> None:
        """A plan was measured."""
        places = self._places(options)
        gain = self.covariance[:, places].sum(axis=1)
        noise = (NOISE * loss) ** 2 + 1e-12
        certainty = float(gain[places].sum()) + noise
        self.mean = self.mean + gain * ((loss - self.mean[places].sum()) / certainty)
        self.covariance = self.covariance - np.outer(gain, gain) / certainty

    def _places(self, options: Sequence[int]) -> list[int]:
        starts = np.cumsum([0, *self.sizes[:-1]])
        return [int(start) + option for start, option in zip(starts, options, strict=True)]
