"""Scores corrected by what plans were seen to lose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halut.search.knapsack import Array

PLAN_SPREAD, SITE_SPREAD, OPTION_SPREAD = 0.5, 0.3, 0.3
"""Standard deviations, relative to losses alone: of what all losses of a plan are more or less by,
of those of a site, and of an option's own."""
FLOOR = 0.02
"""An option's own at least, relative to the median of all losses that are not 0."""
NOISE = 0.05
"""Standard deviation of a plan's measured loss, relative to it."""


class Correction:
    """Losses of options, as a linear model of the losses of plans.

    A plan loses the sum of what its options lose. Losses alone, m, are the prior: Gaussians of
    covariance

        P = p^2 m m' + s^2 m m' within each site + diag(o m + floor)^2,

    for layers that are replaced together lose more, or less, than alone, and all of them do; with
    independent ones, options that were not seen yet would seem better than those that were. Every
    plan that was measured is an observation of a sum, by which both change (Kalman's update):

        m += P a (a' P a + n^2)^-1 (seen - a' m),   P -= P a (a' P a + n^2)^-1 a' P,

    a the indicator of the plan's options. Options that lose nothing alone, such as keeping a site,
    lose nothing, for certain.
    """

    def __init__(self, losses: Sequence[Array]) -> None:
        self.sizes = [len(each) for each in losses]
        self.mean = np.concatenate(losses) if losses else np.zeros(0)
        median = float(np.median(np.abs(self.mean[self.mean != 0]))) if self.mean.any() else 0.0
        own = OPTION_SPREAD * np.abs(self.mean) + FLOOR * median
        own[self.mean == 0] = 0.0
        site = np.repeat(np.arange(len(self.sizes)), self.sizes)
        together = PLAN_SPREAD**2 + SITE_SPREAD**2 * (site[:, None] == site[None, :])
        self.covariance = together * np.outer(self.mean, self.mean) + np.diag(own**2)

    def losses(self) -> list[Array]:
        """The corrected losses of every item's options."""
        return list(np.split(self.mean, np.cumsum(self.sizes)[:-1]))

    def draw(self, generator: np.random.Generator) -> list[Array]:
        """Losses as they may be, by what is known of them: a draw of their distribution."""
        values, vectors = np.linalg.eigh(self.covariance)
        scale = np.sqrt(np.maximum(values, 0.0)) * generator.standard_normal(len(values))
        return list(np.split(self.mean + vectors @ scale, np.cumsum(self.sizes)[:-1]))

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
