"""Look-up table of a product: trained float entries and the entries that are read."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class LookupTable(NamedTuple):
    """y[n, g, m] = scale[g, m] * sum_c entries[g, c, codes[n, g, c], m] + shift[g, m].

    `lut` [G, C, K, M] is the float table, which gets the gradient straight through; `entries`, of
    its shape, are what the forward reads. With a scale [G * M] they are integers and
    lut ~ scale * entries + offset, offset [G, C, 1, M]; without one they stand for lut itself and
    there is no offset. shift [G * M]: the bias and the offsets of all codebooks, or None.
    """

    lut: Tensor
    entries: Tensor
    shift: Tensor | None = None
    scale: Tensor | None = None
    offset: Tensor | None = None

    def in_units_of_scale(self) -> tuple[Tensor, Tensor]:
        """(lut, entries) in units of the scale, both in lut's dtype."""
        if self.scale is None or self.offset is None:
            return self.lut, self.entries
        steps = self.scale.view(self.entries.shape[0], 1, 1, -1)
        return (self.lut - self.offset) / steps, self.entries.to(self.lut.dtype)

    def apply_scale(self, sums: Tensor) -> Tensor:
        """Rows of sums [N, G * M] as answers."""
        y = sums if self.scale is None else sums * self.scale
        return y if self.shift is None else y + self.shift
