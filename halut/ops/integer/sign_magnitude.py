"""Product of signed bytes as signs and magnitudes: multipliers see unsigned numbers only.

    y[n, g, m] = sum_d sgn(x[n, g, d]) sgn(w[g, m, d]) |x[n, g, d]| |w[g, m, d]|

|-128| = 128 fits into an unsigned byte; sums are int32. Equal to the product of the signed numbers
in int64, to the bit, wherever that fits: the worst is 128 * 128 for every input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.core.checks import check_same_device, chunk_rows

MAX_PRODUCT = 128 * 128
"""The largest product of two magnitudes."""
INPUTS = (2**31 - 1) // MAX_PRODUCT
"""Inputs whose worst sum, all of them -128 times -128, still fits into int32: 131,071."""


def check_inputs(D: int, what: str = "weight") -> None:
    """Raise HalutError if the worst sum of D products does not fit into int32."""
    if not 1 <= D <= INPUTS:
        raise HalutError(
            f"{what} has {D} inputs: the worst sum of products, {D} * 128 * 128, must fit into "
            f"int32, so that there can be 1..{INPUTS}"
        )


def sign_magnitude(x: Tensor, weight: Tensor) -> Tensor:
    """Sums [N, G * M] int32 of x [N, G * D] int8 and weight [G, M, D] int8, exact.

    N may be 0. There is no gradient. Raises HalutError on other dtypes, shapes or devices, and
    where D exceeds 131,071: the worst sum would not fit into int32.
    """
    if x.dtype != torch.int8 or weight.dtype != torch.int8:
        raise HalutError(f"x and weight must be int8, got {x.dtype} and {weight.dtype}")
    if x.ndim != 2 or weight.ndim != 3 or x.shape[1] != weight.shape[0] * weight.shape[2]:
        raise HalutError(
            f"x [N, G * D] and weight [G, M, D] do not fit: {list(x.shape)}, {list(weight.shape)}"
        )
    if weight.numel() == 0:
        raise HalutError(f"weight [G, M, D] must not be empty, got {list(weight.shape)}")
    check_inputs(weight.shape[2])
    check_same_device(x=x, weight=weight)
    return torch.ops.halut.sign_magnitude(x, weight)


def split(codes: Tensor) -> tuple[Tensor, Tensor]:
    """(negative bool, magnitude uint8) of int8 codes; their product is sum +-|x||w|."""
    return codes < 0, codes.to(torch.int16).abs().to(torch.uint8)


@torch.library.custom_op("halut::sign_magnitude", mutates_args=())
def _sign_magnitude(x: Tensor, weight: Tensor) -> Tensor:
    if x.shape[0] == 0:
        return _answer(x, weight)
    return dispatch.run("sign_magnitude", x.device, x, weight)


@_sign_magnitude.register_fake
def _answer(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0] * weight.shape[1], dtype=torch.int32)


@dispatch.implementation("sign_magnitude", "torch")
def sign_magnitude_torch(x: Tensor, weight: Tensor) -> Tensor:
    """A product in float64, which holds every sum exactly; in chunks of rows."""
    G, _, D = weight.shape
    wide = weight.double().transpose(1, 2)
    parts = [
        (rows.reshape(-1, G, D).transpose(0, 1).double() @ wide).transpose(0, 1).flatten(1)
        for rows in x.split(chunk_rows(8 * (x.shape[1] + G * weight.shape[1]), x.device))
    ]
    return torch.cat(parts).to(torch.int32)
