"""Products of packed bit planes, whose bits stand for +1 (set) and -1:

    dot[n, g, m, i, j] = D - 2 popcount(x[n, g, j] xor w[g, :, i, m])
    y[n, g, m] = sum_i alpha[g, i, m] * (sum_j beta[j] * dot[n, g, m, i, j]) + bias[n mod P, g, m]

Dots are exact integers. Products and sums of floats are each rounded to float32 in the order of j,
then i, so that every implementation answers the same bits. Bits of words behind the D inputs are
zero in both factors. The pad code of a convolution is zero in every plane, which stands for -1 as
well: `bias` has a row for every output position, to hold what takes that back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.ops.core import dispatch
from halut.ops.core.checks import check_same_device, chunk_rows
from halut.ops.integer.bit_planes import MAX_PLANES

MAX_INPUTS = 1 << 24
"""Dots of more inputs are no exact float32."""


def bit_product(x: Tensor, w: Tensor, alpha: Tensor, beta: Tensor, bias: Tensor, D: int) -> Tensor:
    """y [N, G * M] float32.

    x int64 [N, G, J, W] and w int64 [G, W, I, M], words of 64 bits, D <= 64 W of them inputs and
    the others zero; alpha float32 [G, I, M], beta float32 [J], bias float32 [P, G * M], P a divisor
    of N; I and J in 1..8. N may be 0. Raises HalutError on other dtypes, shapes or devices.
    """
    check_words(x, w, D)
    G, _, I, M = w.shape
    shapes = {"alpha": (alpha, (G, I, M)), "beta": (beta, (x.shape[2],))}
    for name, (value, shape) in shapes.items():
        if value.dtype != torch.float32 or value.shape != shape:
            raise HalutError(
                f"{name} must be float32 {list(shape)}, got {value.dtype} {list(value.shape)}"
            )
    if bias.dtype != torch.float32 or bias.ndim != 2 or bias.shape[1] != G * M:
        raise HalutError(f"bias must be float32 [P, {G * M}], got {bias.dtype} {list(bias.shape)}")
    if bias.shape[0] == 0 or x.shape[0] % bias.shape[0]:
        raise HalutError(f"{bias.shape[0]} rows of bias do not divide the {x.shape[0]} of x")
    check_same_device(x=x, w=w, alpha=alpha, beta=beta, bias=bias)
    return torch.ops.halut.bit_product(x, w, alpha, beta, bias, D)


def check_words(x: Tensor, w: Tensor, D: int) -> None:
    """Raise HalutError unless x and w are words of the same groups and width, D inputs in them."""
    for name, value, shape in (("x", x, "[N, G, J, W]"), ("w", w, "[G, W, I, M]")):
        if value.dtype != torch.int64 or value.ndim != 4 or 0 in value.shape[1:]:
            raise HalutError(
                f"{name} must be int64 {shape} and not empty, got {value.dtype} {list(value.shape)}"
            )
    if (x.shape[1], x.shape[3]) != tuple(w.shape[:2]):
        raise HalutError(f"x {list(x.shape)} and w {list(w.shape)} differ in their groups or words")
    if max(x.shape[2], w.shape[2]) > MAX_PLANES:
        raise HalutError(f"planes must be in 1..{MAX_PLANES}, got {x.shape[2]} and {w.shape[2]}")
    if not 1 <= D <= min(64 * x.shape[3], MAX_INPUTS):
        raise HalutError(f"D must be in 1..{min(64 * x.shape[3], MAX_INPUTS)}, got {D}")


@torch.library.custom_op("halut::bit_product", mutates_args=())
def _bit_product(x: Tensor, w: Tensor, alpha: Tensor, beta: Tensor, bias: Tensor, D: int) -> Tensor:
    if x.shape[0] == 0 or w.numel() == 0:
        return alpha.new_zeros(x.shape[0], bias.shape[1])
    return dispatch.run("bit_product", x.device, x, w, alpha, beta, bias, D)


@_bit_product.register_fake
def _(x: Tensor, w: Tensor, alpha: Tensor, beta: Tensor, bias: Tensor, D: int) -> Tensor:
    return alpha.new_empty(x.shape[0], bias.shape[1])


def signs_of(words: Tensor) -> Tensor:
    """Words int64 [.., W] -> float32 [.., 64 W], 1 where a bit is set, else -1."""
    shift = torch.arange(64, device=words.device)
    return (((words[..., None] >> shift) & 1) * 2 - 1).flatten(-2).float()


@dispatch.implementation("bit_product", "torch")
def bit_product_torch(
    x: Tensor, w: Tensor, alpha: Tensor, beta: Tensor, bias: Tensor, D: int
) -> Tensor:
    """By products of signs in float32, exact as dots have at most 2^24 terms, in chunks of rows."""
    G, W, I, M = w.shape
    J, extra = x.shape[2], 64 * W - D
    signs = signs_of(w.permute(0, 2, 3, 1))  # [G, I, M, 64 W]
    parts = []
    for rows in x.split(chunk_rows(4 * G * J * (64 * W + I * M), x.device)):
        dots = torch.einsum("ngjk,gimk->ngmij", signs_of(rows), signs) - extra
        parts.append(combined(dots, alpha, beta))
    return torch.cat(parts).add_(bias.repeat(x.shape[0] // bias.shape[0], 1))


def combined(dots: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """sum_i alpha * (sum_j beta * dots), in this order, of dots [N, G, M, I, J]: [N, G * M]."""
    total = alpha.new_zeros(())
    for i in range(dots.shape[3]):
        inner = dots[..., i, 0] * beta[0]
        for j in range(1, dots.shape[4]):
            inner = inner + dots[..., i, j] * beta[j]
        total = inner * alpha[:, i] if i == 0 else total + inner * alpha[:, i]
    return total.flatten(1)
