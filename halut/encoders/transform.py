"""Orthonormal maps T of the D inputs of a group, taken before they are coded.

x W' = (x T') (W T')' for any orthonormal T, so that a table of the transformed weight answers
for codes of the transformed input. Tables absorb the weight's part; the input's runs at every call.

Sources: Tseng et al., QuIP#, ICML 2024; Ashkboos et al., QuaRot, NeurIPS 2024 (Hadamard).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from halut.ops.blocks import Blocks
from halut.ops.geometry import is_channels_last
from halut.prototypes.permutation import correlated_order


class Transform(nn.Module):
    """x [N, groups * D], or a map [B, groups * D, H, W] of a 1x1 convolution, to T x of its shape.

    Differentiable. A map keeps its memory format; dtypes narrower than float32 give float32 where
    anything is computed.
    """

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.blocks = blocks

    def learn(self, rows: Tensor) -> None:
        """Take what it needs from calibration rows [N, groups * D]."""

    def weight(self, weight: Tensor) -> Tensor:
        """weight [groups * M_g, D] as it multiplies transformed inputs: W T'."""
        raise NotImplementedError

    @property
    def adds(self) -> int:
        """Additions and subtractions for one row."""
        return 0

    @property
    def state_bytes(self) -> int:
        """What it must hold."""
        return 0


class Hadamard(Transform):
    """Walsh-Hadamard matrices of powers of two side by side, over the square root of their size.

    The sizes are the binary digits of D, the largest first: 192 inputs are 128 and 64. T = T' is
    its own inverse. Where few inputs have most of the energy, it gives all codebooks a part of it;
    only tables refined by halut.ridge gain by that, as they add up what several codebooks tell of
    one input. Trees also lose less to rare large values; prototypes code those better as they are.

    log2 n additions per input of a block of n; the one factor 1 / sqrt(n) per input is not
    counted, as thresholds, prototypes and tables could take it.

    >>> Hadamard(Blocks(4, 1))(torch.tensor([[2.0, 0.0, 0.0, 0.0]]))
    tensor([[1., 1., 1., 1.]])
    """

    def __init__(self, blocks: Blocks) -> None:
        super().__init__(blocks)
        digits = range(blocks.D.bit_length() - 1, -1, -1)
        self.sizes = [2**digit for digit in digits if blocks.D >> digit & 1]

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return self._rotated(x.unflatten(1, (-1, self.blocks.D))).flatten(1)
        rows = x.movedim(1, -1).unflatten(-1, (-1, self.blocks.D))
        y = self._rotated(rows).flatten(-2).movedim(-1, 1)
        return y if is_channels_last(x) else y.contiguous()

    def weight(self, weight: Tensor) -> Tensor:
        return self._rotated(weight).to(weight.dtype)

    def _rotated(self, x: Tensor) -> Tensor:
        """The last dimension, of size D, transformed."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return torch.cat([walsh_hadamard(part) for part in x.split(self.sizes, -1)], -1)

    @property
    def adds(self) -> int:
        return self.blocks.groups * sum(n * (n.bit_length() - 1) for n in self.sizes)


class Permutation(Transform):
    """Inputs reordered inside their group so that correlated ones share a codebook.

    `order` [groups * D]: column i of the transformed rows is column order[i] of the rows. Learned
    by halut.prototypes.permutation.correlated_order.
    """

    order: Tensor

    def __init__(self, blocks: Blocks) -> None:
        super().__init__(blocks)
        self.register_buffer("order", torch.arange(blocks.inputs))

    def learn(self, rows: Tensor) -> None:
        self.order.copy_(correlated_order(rows, self.blocks))

    def forward(self, x: Tensor) -> Tensor:
        y = x.index_select(1, self.order)
        if x.ndim == 4 and is_channels_last(x):
            return y.contiguous(memory_format=torch.channels_last)
        return y

    def weight(self, weight: Tensor) -> Tensor:
        D, groups = self.blocks.D, self.blocks.groups
        columns = self.order.view(groups, 1, D) % D
        grouped = weight.view(groups, -1, D)
        return grouped.gather(2, columns.expand(grouped.shape)).view(weight.shape)

    @property
    def state_bytes(self) -> int:
        return 4 * self.blocks.inputs


def transform_of(name: str, blocks: Blocks) -> Transform | None:
    """The transform of TableConfig.transform; None for "none"."""
    kinds: dict[str, type[Transform]] = {"hadamard": Hadamard, "permute": Permutation}
    return kinds[name](blocks) if name != "none" else None


def walsh_hadamard(x: Tensor) -> Tensor:
    """x [..., n] times the Sylvester-Hadamard matrix of n, a power of two, over sqrt(n)."""
    n, half = x.shape[-1], 1
    while half < n:
        a, b = x.unflatten(-1, (n // (2 * half), 2, half)).unbind(-2)
        x = torch.stack((a + b, a - b), -2).flatten(-3)
        half *= 2
    return x * n**-0.5
