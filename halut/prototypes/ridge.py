"""Tables refined by ridge regression: prototypes that span all D inputs of their group.

With the one-hot codes G [N, CK] and the block prototypes P0, the refinement dP solves
(G'G + lambda I) dP = G'(X - P0[codes]) for P = P0 + dP. Every function here states what of it is
built; G itself exists only for a slice of rows at a time.

Source: Blalock and Guttag, Multiplying Matrices Without Multiplying, ICML 2021, section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from halut.errors import HalutError
from halut.ops.blocks import Blocks, check_rows
from halut.prototypes.buckets import reconstruct

GRID = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
"""The lambdas that lam="cv" tries."""
FOLDS = 3
SLICE = 2**24  # entries of G at a time
PANEL = 2048  # columns of G'G at a time: only its upper panels are multiplied out


def blockwise_lut(prototypes: Tensor, weight: Tensor, blocks: Blocks) -> Tensor:
    """lut[g, c, k, m] = sum_v prototypes[g, c, k, v] W_g[m, column(c, v)].

    prototypes [GC, K, V], weight [groups * M_g, D] -> [groups, C, K, M_g]; differentiable.
    """
    wide = grouped_weight(weight, blocks).transpose(0, 1).reshape(-1, blocks.inputs)
    lut = torch.einsum("ckv,mcv->ckm", prototypes.to(weight.dtype), blocks.split(wide))
    return lut.reshape(blocks.groups, blocks.C, prototypes.shape[1], -1)


def grouped_weight(weight: Tensor, blocks: Blocks) -> Tensor:
    """weight [groups * M_g, D] -> [groups, M_g, D]; HalutError if it is not of that shape."""
    if weight.ndim != 2 or weight.shape[1] != blocks.D or weight.shape[0] % blocks.groups:
        expected = f"[{blocks.groups} * M, {blocks.D}]"
        raise HalutError(f"weight must be {expected}, got {list(weight.shape)}")
    return weight.reshape(blocks.groups, -1, blocks.D)


def refine(
    codes: Tensor,
    prototypes: Tensor,
    rows: Tensor,
    weight: Tensor,
    lam: float | str | None = 1.0,
    stages: int = 1,
) -> Tensor:
    """The table [G, C, K, M_g] of refined prototypes: P0 W' + dP W'.

    codes [N, GC], prototypes P0 [GC, K, V], rows [N, G * D], weight [G * M_g, D]. dP W' is solved
    for directly, with (X - P0[codes]) W' on the right: nothing of size C K D is built. The largest
    array is G'G, [CK, CK] float64. lam: lambda > 0; None: P0 W' as it is; "cv": the lambda of GRID
    with the least cross-validated error of the outputs. stages: of Blocks. The table belongs to
    these codes: with those of another encoder it is far worse than no refinement.
    Raises HalutError on shapes that disagree, values that are not finite, or lam <= 0.
    """
    blocks = _blocks(codes, rows, weight.shape[-1], stages)
    lut = blockwise_lut(prototypes, weight.detach(), blocks)
    if lam is None:
        return lut
    check_lam(lam)
    W = grouped_weight(weight.detach(), blocks)
    K = prototypes.shape[1]
    for g in range(blocks.groups):
        normal = [
            _Normal(group_codes, residual @ W[g].T.to(residual.dtype), K)
            for group_codes, residual in _folds(codes, prototypes, rows, blocks, g, lam)
        ]
        lut[g] += _solve(normal, lam).view_as(lut[g]).to(lut.dtype)
    return lut


def refine_prototypes(
    codes: Tensor,
    prototypes: Tensor,
    rows: Tensor,
    groups: int = 1,
    lam: float | str = 1.0,
    stages: int = 1,
) -> Tensor:
    """P0 + dP in full, [GC, K, D], for tables derived from prototypes that go on learning.

    Arguments as in `refine`, whose table is the product of this with the weight (but "cv" is judged
    by the error of the inputs here, as there is no weight).
    """
    check_lam(lam)
    blocks = _blocks(codes, rows, rows.shape[-1] // groups, stages)
    GC, K, _ = prototypes.shape
    full = prototypes.new_zeros(GC, K, blocks.D)
    for c, (start, width) in enumerate(zip(blocks.starts, blocks.widths, strict=True)):
        first = start % blocks.D
        full[c, :, first : first + width] = prototypes[c, :, :width]
    for g in range(groups):
        folds = _folds(codes, prototypes, rows, blocks, g, lam)
        normal = [_Normal(group_codes, residual, K) for group_codes, residual in folds]
        books = slice(g * blocks.C, (g + 1) * blocks.C)
        full[books] += _solve(normal, lam).view_as(full[books]).to(full.dtype)
    return full


def ridge_table(codes: Tensor, answers: Tensor, K: int, lam: float) -> Tensor:
    """B [C, K, M] of least ||answers - sum_c B[c, codes_c]||^2 + lam ||B||^2, in float64.

    codes [N, C] in [0, K), answers [N, M], lam > 0. Zero answers have the zero table exactly.
    """
    return _Normal(codes, answers, K).solve(lam).view(codes.shape[1], K, -1)


def _blocks(codes: Tensor, rows: Tensor, D: int, stages: int) -> Blocks:
    check_rows(rows, rows.shape[-1])
    groups, rest = divmod(rows.shape[1], D)
    if rest or groups < 1 or codes.ndim != 2 or codes.shape[1] % groups or len(codes) != len(rows):
        raise HalutError(
            f"codes {list(codes.shape)} and rows {list(rows.shape)} do not fit groups of {D} inputs"
        )
    return Blocks(D, codes.shape[1] // groups, groups, stages)


def check_lam(lam: float | str | None) -> None:
    """Raise HalutError unless lam is None, "cv" or a number above 0."""
    if lam is None:
        return
    if lam != "cv" and (isinstance(lam, str) or not lam > 0):
        raise HalutError(f'lam must be a number above 0, "cv" or None, got {lam!r}')


def _folds(
    codes: Tensor, prototypes: Tensor, rows: Tensor, blocks: Blocks, g: int, lam: float | str
) -> Iterator[tuple[Tensor, Tensor]]:
    """(codes [n, C], X - P0[codes] [n, D]) of group g: FOLDS strided parts of the rows for "cv"."""
    one_group = Blocks(blocks.D, blocks.C, 1, blocks.stages)
    books = slice(g * blocks.C, (g + 1) * blocks.C)
    columns = slice(g * blocks.D, (g + 1) * blocks.D)
    folds = min(FOLDS, len(rows)) if lam == "cv" else 1
    for fold in range(folds):
        part = codes[fold::folds, books]
        x = rows[fold::folds, columns]
        yield part, x - reconstruct(part, prototypes[books].to(x.dtype), one_group)


class _Normal:
    """The normal equations of Y [N, T] on one-hot codes [N, C]: G'G, G'Y and ||Y||^2, float64."""

    def __init__(self, codes: Tensor, Y: Tensor, K: int) -> None:
        C = codes.shape[1]
        self.gram = torch.zeros(C * K, C * K, dtype=torch.float64, device=Y.device)
        self.right = torch.zeros(C * K, Y.shape[1], dtype=torch.float64, device=Y.device)
        self.square = Y.double().square().sum()
        offsets = torch.arange(C, device=codes.device) * K
        step = max(1, SLICE // (C * K))
        for code, y in zip(codes.split(step), Y.split(step), strict=True):
            # float32 counts are exact: a slice has fewer than 2^24 rows.
            G = y.new_zeros(len(y), C * K).scatter_(1, code.long() + offsets, 1.0)
            self.right += G.T @ y
            for at in range(0, C * K, PANEL):
                self.gram[at : at + PANEL, at:] += G[:, at : at + PANEL].T @ G[:, at:]
        self.gram = self.gram.triu() + self.gram.triu(1).T

    def solve(self, lam: float) -> Tensor:
        """(G'G + lambda I)^-1 G'Y; well conditioned, as lambda bounds the least eigenvalue."""
        ridge = self.gram.clone()
        ridge.diagonal().add_(lam)
        return torch.cholesky_solve(self.right, torch.linalg.cholesky(ridge))

    def error(self, B: Tensor) -> float:
        """||Y - G B||^2, without going back to the rows."""
        return float(self.square - 2 * (B * self.right).sum() + (B * (self.gram @ B)).sum())

    def less(self, held_out: _Normal | None) -> _Normal:
        """These equations without the rows of `held_out`."""
        rest = object.__new__(_Normal)
        for name in ("gram", "right", "square"):
            removed = 0 if held_out is None else getattr(held_out, name)
            setattr(rest, name, getattr(self, name) - removed)
        return rest


def _solve(folds: list[_Normal], lam: float | str) -> Tensor:
    total = folds[0].less(None)
    for fold in folds[1:]:
        total.gram += fold.gram
        total.right += fold.right
        total.square += fold.square
    if lam != "cv":
        return total.solve(float(lam))
    if len(folds) == 1:
        return total.solve(1.0)  # a single row: nothing to hold out
    parts = [(total.less(fold), fold) for fold in folds]
    errors = [sum(fold.error(rest.solve(value)) for rest, fold in parts) for value in GRID]
    return total.solve(GRID[errors.index(min(errors))])
