"""Oracles of the tree operators, on gathered columns, in plain differentiable torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.ops.tree.encode import tree_shape


def tree_encode_reference(taps: Tensor, thresholds: Tensor) -> Tensor:
    """Oracle of `tree_encode` on its columns [N, GC * depth]: walks every tree from its root."""
    N, GC, depth = taps.shape[0], *tree_shape(thresholds)
    x = taps.reshape(N, GC, depth)
    code = torch.zeros(N, GC, dtype=torch.long, device=taps.device)
    for level in range(depth):
        t = thresholds[:, 2**level - 1 :].gather(1, code.t()).t()
        code = 2 * code + (x[:, :, level] > t).long()
    return code.to(torch.uint8)


def tree_assign_reference(taps: Tensor, thresholds: Tensor, tau: Tensor) -> Tensor:
    """Oracle of the relaxation: soft leaves [N, GC, K], differentiable, forward of hard signs."""
    N, GC, depth = taps.shape[0], *tree_shape(thresholds)
    x = taps.reshape(N, GC, depth)
    level = [node.bit_length() - 1 for node in range(1, 2**depth)]
    difference = x[:, :, level] - thresholds
    soft = torch.tanh(difference / tau.reshape(-1, 1))
    hard = (difference > 0).to(soft.dtype) * 2 - 1
    signs = soft + (hard - soft).detach()
    paths = soft.new_zeros(2**depth - 1, 2**depth)
    for leaf in range(2**depth):
        for depth_above in range(depth):
            prefix, right = leaf >> (depth - depth_above), (leaf >> (depth - 1 - depth_above)) & 1
            paths[2**depth_above - 1 + prefix, leaf] = 2 * right - 1
    return torch.softmax(signs @ paths, -1)


def flip_assign_reference(taps: Tensor, thresholds: Tensor, tau: Tensor) -> Tensor:
    """Oracle of flipped tests: hard leaves [N, GC, K] with the gradient of one flip at a time.

    The loss changes by dE[leaf with the test true] - dE[leaf with it false] as s goes from -1 to 1.
    """
    N, GC, depth = taps.shape[0], *tree_shape(thresholds)
    K, x = 2**depth, taps.reshape(N, GC, depth)

    def walk(forced: int | None, answer: int) -> tuple[Tensor, list[Tensor]]:
        code, passed = torch.zeros(N, GC, dtype=torch.long), []
        for level in range(depth):
            t = thresholds[:, 2**level - 1 :].gather(1, code.t()).t()
            passed.append(t)
            test = torch.full_like(code, answer) if level == forced else (x[:, :, level] > t).long()
            code = 2 * code + test
        return code, passed

    code, passed = walk(None, 0)
    leaves = F.one_hot(code, K).to(x.dtype)
    for level, t in enumerate(passed):
        s = torch.tanh((x[:, :, level] - t) / tau)
        right, left = (F.one_hot(walk(level, answer)[0], K).to(x.dtype) for answer in (1, 0))
        leaves = leaves + (right - left) / 2 * (s - s.detach()).unsqueeze(-1)
    return leaves


def tree_matmul_reference(
    taps: Tensor,
    thresholds: Tensor,
    lut: Tensor,
    table: Tensor,
    tau: Tensor,
    ste_mix: float = 1.0,
    flips: bool = False,
) -> Tensor:
    """Oracle of `tree_matmul` on its columns: one-hot codes, straight-through, einsum, autograd."""
    G, C, K, M = lut.shape
    assignment = flip_assign_reference if flips else tree_assign_reference
    soft = ste_mix * assignment(taps, thresholds, tau)
    hard = F.one_hot(tree_encode_reference(taps, thresholds).long(), K).to(soft.dtype)
    assign = (soft + (hard - soft).detach()).view(taps.shape[0], G, C, K)
    straight = lut + (table - lut).detach()
    # dL/dE reads the unquantized lut, dL/dlut the hard codes: two products, one value.
    encoder = torch.einsum("ngck,gckm->ngm", assign - assign.detach(), lut.detach())
    tables = torch.einsum("ngck,gckm->ngm", assign.detach(), straight)
    return (tables + encoder).reshape(taps.shape[0], G * M)
