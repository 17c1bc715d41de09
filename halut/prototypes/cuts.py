"""The best cut of a set of rows by one of their inputs, for all buckets of a tree level at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Cuts:
    """One cut per bucket: `gain` [B] is the fall of the bucket's squared error (0: no cut).

    A row is on the right of its bucket's cut if its input exceeds `thresholds` [B] float32.
    """

    gain: Floats
    thresholds: NDArray[np.float32]


class Buckets:
    """Rows x [V, N] float32 of one codebook, grouped by their codes [N] in [0, B).

    Errors are those of `targets` [R, N], by default x. An empty bucket has the mean that it
    inherits from its parent, [B, V].
    """

    def __init__(
        self,
        x: NDArray[np.float32],
        codes: NDArray[np.uint8],
        inherited: Floats,
        targets: NDArray[np.float32] | None = None,
    ) -> None:
        B = inherited.shape[0]
        self.x, self.codes, self.targets = x, codes, targets
        self.sizes = np.bincount(codes, minlength=B)
        self.ends = np.cumsum(self.sizes)
        self.starts = self.ends - self.sizes
        self.means = bucket_means(x, codes, self.sizes, inherited)  # [B, V]

    def center_inputs(self) -> Floats:
        """x [V, N] less the mean of each row's bucket."""
        return self._centered(self.x, self.means)

    def center(self) -> Floats:
        """Targets [R, N] less the mean of each row's bucket; their squares sum to the error."""
        if self.targets is None:
            return self.center_inputs()
        none = np.zeros((len(self.sizes), len(self.targets)))
        means = bucket_means(self.targets, self.codes, self.sizes, none)
        return self._centered(self.targets, means)

    def _centered(self, values: NDArray[np.float32], means: Floats) -> Floats:
        centered = values.astype(np.float64)
        for v in range(len(centered)):
            centered[v] -= np.take(means[:, v], self.codes)
        return centered

    def harmonic(self) -> Floats:
        """1/n_left + 1/n_right [N] of a cut after each row in the grouped order; 0 at the ends."""
        left = np.arange(1, len(self.codes) + 1) - np.repeat(self.starts, self.sizes)
        right = np.repeat(self.sizes, self.sizes) - left
        return np.divide(1.0, right, out=np.full(len(left), -1.0), where=right > 0) + 1.0 / left

    def group(self, order: Ints) -> Ints:
        """Row indices sorted by an input -> sorted by bucket, then by that input."""
        # A stable sort of small integers is one radix pass in numpy.
        return order[np.argsort(self.codes[order], kind="stable")]

    def cut(self, order: Ints, v: int, centered: Floats, harmonic: Floats, scratch: Floats) -> Cuts:
        """The cut of each bucket by input v that leaves the least squared error of the targets.

        With the left part's sum S of centered rows, a cut lowers the bucket's error by
        |S|^2 (1/n_left + 1/n_right). As each bucket's centered rows sum to zero, one running sum
        over the whole grouped order serves all buckets. A cut between equal values separates
        nothing and is not considered; among equals the lowest cut wins. `scratch`, of its shape, is
        overwritten.
        """
        values = self.x[v][order]
        # mode="clip" lets numpy write to `out` unbuffered.
        sums = np.take(centered, order, axis=1, out=scratch, mode="clip")
        for column in torch.from_numpy(sums):
            # Four times as fast as numpy's. One column runs on one thread: sharing out all of them
            # gained nothing, and took three times as long whenever another process ran.
            column.cumsum_(0)
        gain = np.einsum("vn,vn->n", sums, sums)
        gain *= harmonic
        gain[:-1][values[:-1] == values[1:]] = -np.inf
        best = np.zeros(len(self.sizes))
        thresholds = self.means[:, v].astype(np.float32)
        for b in np.flatnonzero(self.sizes):
            start, last = self.starts[b], self.ends[b] - 1
            at = start + int(np.argmax(gain[start:last])) if last > start else last
            if at < last and gain[at] >= 0:
                best[b] = gain[at]
                thresholds[b] = midpoint(values[at], values[at + 1])
            else:
                thresholds[b] = self._above(values[last], v)  # all rows are equal and go left
        return Cuts(best, thresholds)

    def _above(self, value: np.float32, v: int) -> np.float32:
        """A threshold over `value` of input v by half a step to the next of all rows.

        Rows of that value go left, and still do after rounding. Over the largest: half the range.
        """
        column = self.x[v]
        larger = column[column > value]
        step = larger.min() - value if len(larger) else value - column.min()
        return midpoint(value, value + step) if step > 0 else value


def bucket_means(
    x: NDArray[np.float32], codes: NDArray[np.uint8], sizes: Ints, inherited: Floats
) -> Floats:
    """Mean [B, V] float64 of the rows x [V, N] of each bucket, `inherited` where it is empty."""
    sums = np.stack([np.bincount(codes, weights=row, minlength=len(sizes)) for row in x], axis=1)
    return np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], inherited)


def midpoint(below: np.float32, above: np.float32) -> np.float32:
    """A float32 t with below <= t < above, so that rounding moves no row over its threshold."""
    t = np.float32((np.float64(below) + np.float64(above)) / 2)
    return t if below <= t < above else below
