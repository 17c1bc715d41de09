"""Kept layers, fitted to what they answered before their inputs changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import dropwhile

import torch
from torch import Tensor, nn

from halut.errors import HalutError
from halut.sites.attention import KIND
from halut.sites.find import Site
from halut.sites.plan import Entry

DAMPING = 1e-3
"""Weight of the change of W, as a share of the mean power of its inputs."""


def refit(
    layer: nn.Linear | nn.Conv2d, site: Site, rows: Tensor, target_rows: Tensor, W: Tensor
) -> None:
    """Change a Linear's or Conv2d's weight so that rows give what target_rows gave with W.

    rows X and target_rows T [N, groups * D] are the layer's inputs at the same places, in the
    network as it stands and as it was, W [M, D] the layer's weight then. Each group's weight W_g
    becomes the minimum of

        |X_g W_g' + b - T_g W' - b|^2 + lambda |W_g - W_g before|^2,

    lambda = DAMPING times the mean of the diagonal of X_g' X_g; a layer with a bias gets a new one
    with it, and X_g is centered. Where X = T and the weight is W, nothing changes, to the bit. This
    is asymmetric calibration (Li et al., GPTAQ, 2025) of a layer that is not quantized. Raises
    HalutError naming the site for values that are not finite.
    """
    weight, bias = layer.weight, layer.bias
    before = weight.detach().reshape(site.groups, -1, site.D).double()
    exact = W.detach().reshape(before.shape).to(before)
    X = rows.to(before).view(len(rows), site.groups, site.D)
    T = target_rows.to(before).view(X.shape)
    weights = before.clone()
    with torch.no_grad():
        for g in range(site.groups):
            x = X[:, g]
            rest = T[:, g] @ exact[g].T - x @ before[g].T
            mean_x, mean_rest = x.mean(0), rest.mean(0)
            if bias is not None:
                x, rest = x - mean_x, rest - mean_rest
            gram = x.T @ x
            gram.diagonal().add_(DAMPING * gram.diagonal().mean() + torch.finfo(x.dtype).tiny)
            change = torch.linalg.solve(gram, x.T @ rest)  # [D, M_g]
            if not bool(torch.isfinite(change).all()):
                raise HalutError(f"{site.name}: its weight cannot be fitted to these activations")
            weights[g] += change.T
            if bias is not None:
                bias.view(site.groups, -1)[g] += (mean_rest - mean_x @ change).to(bias)
        weight.copy_(weights.reshape(weight.shape))


def behind(plan: Iterable[Entry], replaced: Sequence[Entry]) -> list[Entry]:
    """Kept entries of a plan, in the order of the forward pass, behind the first of `replaced`."""
    names = {entry.site.name for entry in replaced}
    reached = dropwhile(lambda entry: entry.site.name not in names, plan)
    return [entry for entry in reached if not entry.replaced and entry.site.kind != KIND]
