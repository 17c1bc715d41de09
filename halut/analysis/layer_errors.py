"""Errors of each replaced layer against the exact product of the same input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from halut.errors import HalutError
from halut.replace.swap import replaced_layers
from halut.sites.calls import Batches, feed
from halut.sites.eval_mode import eval_mode
from halut.sites.modules import call_inputs
from halut.sites.operator import ReplacedLayer
from halut.sites.usage import counting, forwards

BLOCK = 1 << 17
"""Entries that are compared at once: larger temporaries leave the caches, or are page faults."""
METRICS = ("mae", "mse", "normalized_mse", "cosine", "scaled_error", "scaled_shift")
ROUNDING = 1e-14
"""Share of a mean square below which a variance is what rounding left."""


@dataclass
class ErrorSums:
    """Running sums over answers y and exact answers e, in float64, from which all metrics follow.

    Over all entries seen, taken as one long vector each:

        mae            = mean |y - e|
        mse            = mean (y - e)^2
        normalized_mse = ||y - e||^2 / ||e||^2       0: perfect, 1: as bad as answering zero
        cosine         = <y, e> / (||y|| ||e||)      1: perfect up to a positive factor

    With a and b of least squares, those of min mean (e - a y - b)^2,

        scaled_error   = that minimum / var(e)       what no scale and shift of y can mend: 0..1
        scaled_shift   = b / std(e)                  the shift, in standard deviations of e

    Where ||e|| = 0, normalized_mse is 0 for y = 0 and infinite otherwise; where ||y|| ||e|| = 0,
    cosine is 1 if both vanish and 0 otherwise. Where var(e) = 0, scaled_error is 0, and the shift
    is 0 for e = 0 and infinite otherwise; where var(y) = 0, scaled_error is 1.
    """

    count: int = 0
    absolute: float = 0.0
    squared: float = 0.0
    power: float = 0.0
    exact_power: float = 0.0
    product: float = 0.0
    total: float = 0.0
    exact_total: float = 0.0

    def add(self, y: Tensor, exact: Tensor) -> None:
        """Take in answers of one batch, of one shape."""
        rows = max(1, BLOCK * len(y) // max(1, y.numel()))
        order = sorted(range(y.ndim), key=y.stride, reverse=True)  # that of memory: no copies
        for parts in zip(y.detach().split(rows), exact.detach().split(rows), strict=True):
            blocks = (part.permute(order).flatten().split(BLOCK) for part in parts)
            for pair in zip(*blocks, strict=True):
                self._add(*(each.double() for each in pair))

    def _add(self, y: Tensor, exact: Tensor) -> None:
        difference = y - exact
        self.count += y.numel()
        self.absolute += float(difference.abs().sum())
        self.squared += float(difference @ difference)
        self.power += float(y @ y)
        self.exact_power += float(exact @ exact)
        self.product += float(y @ exact)
        self.total += float(y.sum())
        self.exact_total += float(exact.sum())

    def metrics(self) -> dict[str, float]:
        """METRICS of everything added; all NaN if an answer was NaN or infinite."""
        if not math.isfinite(self.squared):
            return dict.fromkeys(METRICS, math.nan)
        powers = self.power * self.exact_power
        if self.exact_power > 0:
            normalized = self.squared / self.exact_power
        else:
            normalized = 0.0 if self.squared == 0 else float("inf")
        if powers > 0:
            cosine = max(-1.0, min(1.0, self.product / powers**0.5))
        else:
            cosine = 1.0 if self.power == self.exact_power else 0.0
        return {
            "mae": self.absolute / self.count,
            "mse": self.squared / self.count,
            "normalized_mse": normalized,
            "cosine": cosine,
            **self._scaled(),
        }

    def _scaled(self) -> dict[str, float]:
        """scaled_error and scaled_shift."""
        n = self.count
        mean, exact_mean = self.total / n, self.exact_total / n
        variance = max(0.0, self.power / n - mean * mean)
        exact_variance = max(0.0, self.exact_power / n - exact_mean * exact_mean)
        covariance = self.product / n - mean * exact_mean
        scale = covariance / variance if variance > ROUNDING * self.power / n else 0.0
        shift = exact_mean - scale * mean
        if exact_variance <= ROUNDING * self.exact_power / n:
            constant = {"scaled_error": 0.0, "scaled_shift": float("inf")}
            return constant if exact_mean else {**constant, "scaled_shift": 0.0}
        error = 1.0 - scale * covariance / exact_variance
        return {
            "scaled_error": min(1.0, max(0.0, error)),
            "scaled_shift": shift / exact_variance**0.5,
        }


@torch.no_grad()
def layer_errors(
    network: nn.Module,
    batches: Batches,
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """METRICS (see ErrorSums) of every replaced layer, by name.

    Each layer's answer is compared with the exact product, `ReplacedLayer.exact`, of the same
    input: that which reaches it through the network as it stands, layers before it replaced. A
    layer's error is thus its own, and not that of those before it. The exact product has the weight
    of the replaced layer, as it was when it was replaced, and today's bias.

    `batches` as capture takes them (of any signature, or a forward loop); sums stream over them,
    nothing is kept. The network runs in evaluation mode and is left in the modes it had. Layers
    that were never called are left out. Raises HalutError if there are no batches, or an answer is
    NaN or infinite.
    """
    sums = {name: ErrorSums() for name, _ in replaced_layers(network)}
    handles = [
        layer.register_forward_hook(_note(name, sums[name]), prepend=True, with_kwargs=True)
        for name, layer in replaced_layers(network)
    ]
    calls = {"": 0}
    with eval_mode(network, handles) as device, forwards({"": network}, counting(calls)):
        feed(network, batches, device, progress)
    if not calls[""]:
        raise HalutError("layer errors need at least one batch of samples, got none")
    return {name: total.metrics() for name, total in sums.items() if total.count}


def _note(name: str, total: ErrorSums) -> Any:
    def note(layer: ReplacedLayer, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
        if not bool(torch.isfinite(output).all()):
            raise HalutError(f"{name}: the replaced layer's answers hold NaN or infinite values")
        total.add(output, layer.exact(*call_inputs(args, kwargs)))

    return note
