"""Range of a quantized table, chosen by the error that it leaves."""

from __future__ import annotations

import torch
from torch import Tensor

from halut.ops import accumulate
from halut.ops.power_of_two import unit_of
from halut.ops.table_quantization import quantize_table


def best_clip(lut: Tensor, bits: int, scale: str = "channel", codes: Tensor | None = None) -> float:
    """The clip in {0.4, 0.45 .. 1} of the least squared error: of the dequantized table, or, with
    codes [N, G * C], of the sums over codebooks that it gives these rows."""
    candidates = [1.0 - 0.05 * i for i in range(13)]
    lut = lut / unit_of(float(lut.abs().max()))
    errors = []
    for clip in candidates:
        error = quantize_table(lut, bits, scale, clip).dequantize() - lut
        errors.append((error if codes is None else accumulate(codes, error)).square().sum())
    return candidates[int(torch.stack(errors).argmin())]
