"""Encoders learned again for tables that were trained, which keep their function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from halut.encoders import Encoder, encoders
from halut.layers.lut import LUTLayer
from halut.ops import accumulate
from halut.ops.power_of_two import normalized_mse
from halut.prototypes.ridge import ridge_table

LAM = 1.0
"""Lambda of the refit where halut.ridge gives none."""


def can_relearn(layer: object) -> bool:
    """True for a layer by tables that are parameters of their own."""
    return isinstance(layer, LUTLayer) and layer.options.parameterization == "free"


@torch.no_grad()
def relearn(
    layers: Sequence[LUTLayer],
    rows: Tensor,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> bool:
    """Learn the encoder that `layers` have in common again; True if they have the new one.

    rows [N, groups * D] are what the layers read now; seed and progress as in
    ReplacedLayer.calibrate. Every table is fitted (`transfer_table`) to what its layer answered to
    the rows before, without the bias, and to what the old codes could not tell of the exact
    product: new codes add nothing to the old answers alone. The old encoder and tables stay where
    all codes would be the old ones, and where the layers' mean normalized error from the exact
    product, of the weight they have, would be larger. The temperature is scaled as the encoder's
    own estimate of it changes. Raises HalutError for rows as calibrate does.

    >>> from halut.configs import PQ
    >>> from halut.layers.table_operator import TableOperator
    >>> from halut.sites.find import Site
    >>> layer = TableOperator(PQ(V=2, K=2)).build(Site("fc", "linear", D=4, M=3))
    >>> rows = torch.tensor([[0.0, 0, 1, 1], [1, 1, 0, 0]])
    >>> layer.calibrate(rows)
    >>> relearn([layer], rows)
    False
    """
    first, device = layers[0], layers[0].weight.device
    rows = first._checked(rows).cpu()
    for layer in layers:
        layer.cpu()
    try:
        encoder = first.encoder
        fresh = encoders[first.options.name](first.blocks, first.options.K, first.options)
        fresh.unit.copy_(encoder.unit)
        if encoder.transform is not None and fresh.transform is not None:
            fresh.transform.load_state_dict(encoder.transform.state_dict())
        read = encoder.transformed(rows)
        weight = encoder.transformed_weight(first.weight.detach().float())
        fresh.calibrate_codebooks(read, weight, seed=seed, progress=progress)
        return _taken_over(layers, rows, read, fresh)
    finally:
        for layer in layers:
            layer.to(device)
            if layer.readers is not None:
                layer.readers.forget()


def _taken_over(layers: Sequence[LUTLayer], rows: Tensor, read: Tensor, fresh: Encoder) -> bool:
    """Give the layers the encoder `fresh` and tables for it, unless it is no better."""
    encoder = layers[0].encoder
    before, after = encoder.codes(read), fresh.codes(read)
    if torch.equal(before, after):
        return False
    tables, change = [], 0.0
    for layer in layers:
        ridge, lut = layer.options.ridge, layer.lut.detach()
        lam = float(ridge) if isinstance(ridge, int | float) else LAM
        exact = _exact(rows, layer)
        table = transfer_table(lut, before, after, _untold(exact, before, lut, lam), lam)
        old, new = accumulate(before, lut), accumulate(after, table)
        change += float(normalized_mse(new, exact)) - float(normalized_mse(old, exact))
        tables.append(table)
    if not change <= 0:
        return False
    if layers[0].options.tau is None:
        layers[0].tau.mul_(fresh.initial_tau(read) / encoder.initial_tau(read))  # shared by all
    encoder.load_state_dict(fresh.state_dict())
    for layer, table in zip(layers, tables, strict=True):
        layer.lut.copy_(table)
        layer.after_learning(after)
    return True


def transfer_table(
    lut: Tensor, before: Tensor, after: Tensor, untold: Tensor, lam: float
) -> Tensor:
    """A table for codes `after` that answers as `lut` [G, C, K, M] for codes `before`, plus untold.

    Both codes are [N, G * C], of the same rows, untold [N, G * M]. Tables of codebooks whose codes
    are the same in every row stay what they are. Of the others T0[c, k] is the mean of
    lut[c, before] over the rows with after = k, lut[c, k] where there is none; and the table is
    T0 + B, where B solves min ||Y - sum_c B[c, after]||^2 + lam ||B||^2, for Y what T0 lacks.
    """
    groups, C, K, M = lut.shape
    table = lut.clone()
    for g in range(groups):
        old, new = (codes[:, g * C : (g + 1) * C] for codes in (before, after))
        books = torch.nonzero((old != new).any(0)).flatten()
        if not len(books):
            continue
        old, new = old[:, books], new[:, books]
        for i, c in enumerate(books.tolist()):
            table[g, c] = _bucket_answers(lut[g, c], old[:, i], new[:, i])
        answers = accumulate(old, lut[g, books][None]) + untold[:, g * M : (g + 1) * M]
        lack = answers - accumulate(new, table[g, books][None])
        table[g, books] += ridge_table(new, lack, K, lam).to(table.dtype)
    return table


def _untold(exact: Tensor, codes: Tensor, lut: Tensor, lam: float) -> Tensor:
    """What no table of these codes has of the answers `exact` [N, G * M]: residuals of a ridge."""
    groups, C, K, M = lut.shape
    parts = []
    for g in range(groups):
        own, answers = codes[:, g * C : (g + 1) * C], exact[:, g * M : (g + 1) * M]
        best = ridge_table(own, answers, K, lam).to(exact.dtype)
        parts.append(answers - accumulate(own, best[None]))
    return torch.cat(parts, 1)


def _bucket_answers(lut: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Mean of lut[before] over the rows of each code `after`; lut [K, M], codes [N]."""
    K = len(lut)
    counts = torch.bincount(after.long() * K + before.long(), minlength=K * K).view(K, K).double()
    sizes = counts.sum(1, keepdim=True)
    means = counts @ lut.double() / sizes.clamp(min=1)
    return torch.where(sizes > 0, means.to(lut.dtype), lut)


def _exact(rows: Tensor, layer: LUTLayer) -> Tensor:
    """x W' [N, M] of rows [N, groups * D]."""
    site = layer.site
    W = layer.weight.detach().float().view(site.groups, -1, site.D)
    return torch.einsum("ngd,gmd->ngm", rows.view(-1, site.groups, site.D), W).flatten(1)
