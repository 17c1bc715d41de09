"""What a network's tables and answers look like on some samples: code use, errors, confusions."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from halut.layers import lut
from halut.replace.swap import replaced_layers
from halut.sites.eval_mode import eval_mode
from halut.sites.modules import call_inputs
from halut.sites.operator import ReplacedLayer

SAMPLES = 512
"""Samples of the confusion matrix; the first batch of them goes through every table."""
WORST = 12
CODEBOOKS = 64
"""Codebooks of a site whose use is kept."""
BINS, DEVIATIONS = 41, 3.0
"""Of the histogram of errors, and its half width in deviations of the exact product."""
LARGEST = 96
"""Pixels of a kept image's longer side."""


@torch.no_grad()
def inspect(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    classes: Sequence[str],
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> dict[str, Any]:
    """{"sites", "confusion", "worst"} of the first SAMPLES samples of `batches`, in JSON's types.

    sites: of every replaced layer {"codes": {"counts" [C][K], "rows", "codebooks"}, "errors":
    {"counts", "low", "high", "outside"}}, on the first batch; errors are (y - e) / deviation of e,
    y the layer's answer and e the exact product of its input. confusion: {"counts" [true class]
    [answer], "classes", "samples"}. worst: the WORST samples of largest cross entropy, {"label",
    "answer", "loss", "image"}, the image a PNG data URI. `mean` and `std` undo the normalization of
    inputs.

    >>> inspect(network, loader, ["cat", "dog"])["confusion"]["counts"]
    [[31, 2], [4, 27]]
    """
    sites: dict[str, dict[str, Any]] = {}
    layers = dict(replaced_layers(network))
    hooks = [
        layer.register_forward_hook(_note(sites, name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    names = list(classes)
    counts = torch.zeros(len(names), len(names), dtype=torch.int64)
    worst: list[tuple[float, Tensor, int, int]] = []
    seen = 0
    with eval_mode(network, hooks) as device:
        for x, labels in batches:
            logits = network(x.to(device)).float().cpu()
            for hook in hooks:
                hook.remove()
            if not seen and logits.shape[1] > len(names):  # answers that are no class of the data
                names += [str(index) for index in range(len(names), logits.shape[1])]
                counts = torch.zeros(len(names), len(names), dtype=torch.int64)
            losses, answers = cross_entropy(logits, labels, reduction="none"), logits.argmax(1)
            counts.view(-1).index_add_(0, labels * len(names) + answers, torch.ones_like(labels))
            worst += [
                (float(losses[i]), x[i].cpu(), int(labels[i]), int(answers[i]))
                for i in losses.topk(min(WORST, len(losses))).indices.tolist()
            ]
            worst = sorted(worst, key=lambda each: -each[0])[:WORST]
            seen += len(labels)
            if seen >= SAMPLES:
                break
    return {
        "sites": sites,
        "confusion": {"counts": counts.tolist(), "classes": names, "samples": seen},
        "worst": [
            {"label": names[label], "answer": names[answer], "loss": loss, "image": image}
            for loss, x, label, answer in worst
            if (image := picture(x, mean, std)) is not None
        ],
    }


def _note(sites: dict[str, dict[str, Any]], name: str) -> Any:
    def note(layer: ReplacedLayer, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
        inputs = call_inputs(args, kwargs)
        site = {"errors": error_histogram(output, layer.exact(*inputs))}
        codes = getattr(layer, "codes", None)
        K = getattr(getattr(layer, "encoder", None), "K", None)
        if callable(codes) and K is not None and len(inputs) == 1:
            site["codes"] = code_counts(codes(inputs[0]), K)
        sites[name] = site

    return note


def code_counts(codes: Tensor, K: int) -> dict[str, Any]:
    """How many of the rows have each code: codes [N, C] -> counts [C][K] of the first CODEBOOKS."""
    return {
        "counts": lut.code_counts(codes[:, :CODEBOOKS], K).tolist(),
        "rows": codes.shape[0],
        "codebooks": codes.shape[1],
    }


def error_histogram(y: Tensor, exact: Tensor) -> dict[str, Any]:
    """Counts of (y - exact) / std(exact) in BINS bins over -DEVIATIONS..DEVIATIONS."""
    deviation = float(exact.double().std()) if exact.numel() > 1 else 0.0
    errors = ((y - exact).double() / (deviation or 1.0)).flatten().cpu()
    inside = errors[errors.abs() <= DEVIATIONS]
    counts = (
        torch.histc(inside, BINS, -DEVIATIONS, DEVIATIONS) if len(inside) else torch.zeros(BINS)
    )
    return {
        "counts": [int(count) for count in counts],
        "low": -DEVIATIONS,
        "high": DEVIATIONS,
        "outside": errors.numel() - inside.numel(),
    }


def picture(x: Tensor, mean: Sequence[float] = (), std: Sequence[float] = ()) -> str | None:
    """A sample [channels, H, W] as a PNG data URI; None if it is no map, or has no such channels.

    Values outside 0..1, once the normalization is undone, are stretched to it.
    """
    if x.ndim != 3 or not bool(torch.isfinite(x).all()):
        return None
    x = x.float()
    if len(mean) == len(std) == x.shape[0]:
        x = x * torch.tensor(list(std)).view(-1, 1, 1) + torch.tensor(list(mean)).view(-1, 1, 1)
    x = x if x.shape[0] in (1, 3) else x[:1]
    low, high = float(x.min()), float(x.max())
    if low < -0.01 or high > 1.01:
        x = (x - low) / max(high - low, 1e-12)
    scale = LARGEST / max(x.shape[-2:])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in x.shape[-2:]]
        x = interpolate(x[None], size, mode="area")[0]
    data = base64.b64encode(png((255 * x.clamp(0, 1)).round().to(torch.uint8))).decode()
    return f"data:image/png;base64,{data}"


def png(pixels: Tensor) -> bytes:
    """A PNG file of uint8 pixels [1 or 3, H, W], gray or RGB."""
    image = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    content = io.BytesIO()
    Image.fromarray(image.numpy()).save(content, "PNG", optimize=True)
    return content.getvalue()
