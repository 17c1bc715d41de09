"""How a table layer is doing: errors, code usage, drift, gaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from halut.ops.power_of_two import normalised_mse, unit_of
from halut.ops.table_quantization import clipping_rate

if TYPE_CHECKING:
    from halut.layers.base import LUTLayer


def start_of(parameter: str) -> str:
    """Name of the buffer that holds where learning left an encoder's parameter."""
    return "start_" + parameter.replace(".", "_")


def code_usage(codes: Tensor, K: int) -> tuple[float, int]:
    """Mean perplexity over codebooks (1..K) and the number of prototypes no row chose.

    codes [N, C]; the perplexity of one codebook is exp of the entropy of its code frequencies.
    """
    C = codes.shape[1]
    joint = codes.long() + K * torch.arange(C, device=codes.device)
    counts = torch.bincount(joint.flatten(), minlength=C * K).view(C, K).double()
    share = counts / counts.sum(dim=1, keepdim=True).clamp_min(1)
    entropy = -(share * share.clamp_min(1e-30).log()).sum(dim=1)
    return float(entropy.exp().mean()), int((counts == 0).sum())


@torch.no_grad()
def diagnose(layer: LUTLayer, x: Tensor) -> dict[str, float]:
    """Figures of one layer on one batch x, for the logs.

    normalised_mse against the exact layer on the same input; code_perplexity and dead prototypes;
    drift, the relative distance of the encoder's parameters from where learning left them;
    soft_hard_gap, the relative difference of the relaxed and the hard product; the share of table
    entries clipped; the temperature.
    """
    inputs = layer.encoder.tapped(*layer.source(layer.encoder.in_units(x)))
    codes = layer.encoder.encode(inputs)
    perplexity, dead = code_usage(codes, layer.options.K)
    lut = layer.full_lut()
    table = layer.table(lut)
    figures = {
        "normalised_mse": float(normalised_mse(layer.forward(x), layer.exact(x))),
        "code_perplexity": perplexity,
        "dead_prototypes": float(dead),
        "drift": _drift(layer),
        "clipping_rate": clipping_rate(lut, table) if table is not None else 0.0,
        "tau": float(layer.tau.mean()),
    }
    if layer.estimator != "identity":
        figures["soft_hard_gap"] = _soft_hard_gap(layer, inputs[:1024], codes[:1024], lut)
    return figures


def _drift(layer: LUTLayer) -> float:
    moved = power = 0.0
    for name, parameter in layer.encoder.named_parameters():
        start = layer.get_buffer(start_of(name))
        moved += float((parameter - start).square().sum())
        power += float(start.square().sum())
    return (moved / power) ** 0.5 if power else 0.0


def _soft_hard_gap(layer: LUTLayer, inputs: Tensor, codes: Tensor, lut: Tensor) -> float:
    G, C, K, _ = lut.shape
    lut = lut / unit_of(float(lut.abs().max()))
    soft = layer.encoder.assign(inputs, layer.tau).view(-1, G, C, K).to(lut.dtype)
    hard = torch.nn.functional.one_hot(codes.long().view(-1, G, C), K).to(lut.dtype)
    difference = torch.einsum("ngck,gckm->ngm", soft - hard, lut)
    return float((difference.square().sum() / _power(hard, lut)).sqrt())


def _power(hard: Tensor, lut: Tensor) -> Tensor:
    return torch.einsum("ngck,gckm->ngm", hard, lut).square().sum().clamp_min(1e-30)
