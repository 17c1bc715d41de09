"""Quantized look-up tables: integer entries, float scales, and a zero point that costs nothing.

An entry is approximated as lut[g, c, k, m] ~ scale * q[g, c, k, m] + offset[g, c, m] with q signed
integers of `bits` bits. The offset is the middle of the K entries of one codebook and one output,
so the integers are symmetric around zero and nothing saturates; summed over the codebooks it is one
number per output and folds into the bias. With a scale per layer or per output,

    y[n, m] = scale[m] * sum_c q[c, codes[n, c], m] + sum_c offset[c, m] + bias[m]

is an exact integer sum followed by one multiply-add (Jacob et al. 2018, section 2.2). A scale per
codebook is finer but moves the multiplication inside the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halut.errors import HalutError

SCALES = ("layer", "channel", "codebook")


@dataclass
class QuantizedTable:
    """q [G, C, K, M_g] integer-valued; scale and offset broadcast against it."""

    q: Tensor
    scale: Tensor
    offset: Tensor
    bits: int

    @property
    def integer_sums(self) -> bool:
        """True if the sum over codebooks can be taken over q alone."""
        return self.scale.shape[1] == 1

    def dequantize(self) -> Tensor:
        """The table as floats, [G, C, K, M_g]."""
        return self.q * self.scale + self.offset

    def folded_bias(self) -> Tensor:
        """sum_c offset[g, c, m], the part of the zero point that belongs into the bias, [G * M_g].

        Only meaningful where `integer_sums` holds or with dequantized entries less their offset.
        """
        return self.offset.sum(dim=1).reshape(-1)

    def output_scale(self) -> Tensor:
        """Scale per output [G * M_g] (requires `integer_sums`)."""
        G, _, _, M = self.q.shape
        return self.scale.expand(G, 1, 1, M).reshape(-1)


def quantize_table(
    lut: Tensor, bits: int, scale: str = "channel", clip: float | Tensor = 1.0
) -> QuantizedTable:
    """Quantize lut [G, C, K, M_g] to `bits` (2..8) signed bits with one scale per `scale`.

    `scale`: "layer" (one number), "channel" (one per output) or "codebook" (one per codebook).
    `clip` in (0, 1] shrinks the range; entries beyond it saturate.
    Returns integer-valued floats in the table's dtype; raises HalutError on an unknown option.
    """
    check_options(bits, scale)
    lut = lut.detach()
    highest, lowest = lut.amax(dim=2, keepdim=True), lut.amin(dim=2, keepdim=True)
    offset = (highest + lowest) / 2
    reach = (highest - lowest) / 2 * clip
    over = {"layer": (0, 1, 2, 3), "channel": (1, 2), "codebook": (2, 3)}[scale]
    limit = 2 ** (bits - 1) - 1
    steps = reach.amax(dim=over, keepdim=True) / limit
    steps = torch.where(steps > 0, steps, torch.ones_like(steps))
    q = torch.round((lut - offset) / steps).clamp_(-limit, limit)
    return QuantizedTable(q, steps, offset, bits)


def clipping_rate(lut: Tensor, table: QuantizedTable) -> float:
    """Share of the table's entries that lie beyond the range of the quantizer, 0..1."""
    limit = 2 ** (table.bits - 1) - 1
    beyond = ((lut - table.offset) / table.scale).abs() > limit + 0.5
    return float(beyond.float().mean())


def check_options(bits: int, scale: str) -> None:
    """Raise HalutError unless bits and scale name a quantizer."""
    if not 2 <= bits <= 8:
        raise HalutError(f"halut.bits must be in 2..8 or null for float tables, got {bits}")
    if scale not in SCALES:
        raise HalutError(f"unknown halut.scale {scale!r}; choose one of: {', '.join(SCALES)}")


def average_accumulate(codes: Tensor, table: Tensor, group: int) -> Tensor:
    """MADDNESS' averaging accumulator, for comparison only: biased, and 8 bits wide.

    codes [N, C], table [C, K, M] integer-valued in [-128, 127]. Entries are averaged pairwise as
    (a + b + 1) // 2 within runs of `group` codebooks, the averages of the runs are added and
    multiplied back by `group`. Each level rounds up, so a run's estimate of its mean is too large
    by log2(group) / 4 on average and the sum by C * log2(group) / 4 (Blalock and Guttag 2021,
    section 4.4). Returns [N, M]. Raises HalutError unless group is a power of two that divides C.
    """
    C = table.shape[0]
    if group < 1 or group & (group - 1) or C % group:
        raise HalutError(f"the averaging group must be a power of two dividing C={C}, got {group}")

    def mean(first: int, count: int) -> Tensor:
        if count == 1:
            return table[first][codes[:, first].long()]
        left, right = mean(first, count // 2), mean(first + count // 2, count // 2)
        return torch.floor((left + right + 1) / 2)

    total = table.new_zeros(codes.shape[0], table.shape[2])
    for first in range(0, C, group):
        total += mean(first, group)
    return total * group


def average_groups(codes: Tensor, table: Tensor, group: int) -> Tensor:
    """`average_accumulate` for codes [N, G * C] and a table [G, C, K, M], side by side [N, G * M].

    Raises HalutError as that does.
    """
    G, C = table.shape[:2]
    parts = zip(codes.view(-1, G, C).unbind(1), table, strict=True)
    return torch.cat([average_accumulate(part, q, group) for part, q in parts], dim=1)
