"""Model size in bytes before and after replacement, by kind of tensor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from halut.layers.codec import CodecLayer
from halut.layers.codec_attention import CodecAttention
from halut.layers.lut import LUTLayer
from halut.replace.swap import replaced_layers
from halut.sites.operator import ReplacedLayer

FLOAT = 32


def memory_figures(network: nn.Module) -> dict[str, Any]:
    """Bytes of `network`, whose sites are replaced, as inference must hold it; floats are 32 bits.

    before: replaced_weights and replaced_biases of the exact layers that are gone, and untouched.
    after: codes (of weights, with pruning masks) and tables; scales; biases; encoders, with the
    activations' calibrated ranges; untouched. untouched: tensors outside of the replaced layers,
    as they are: layers kept exact, norms. The formula is FLOAT over the bits that the formats
    themselves say a weight takes, 32 / 8.25 for MXINT8; None where tables take a weight's place, as
    for them it says nothing. Layers that share an encoder hold it once.
    Tables count with the bits of their entries, packed.
    """
    layers = [layer for _, layer in replaced_layers(network)]
    untouched = _untouched(network, layers)
    before = {
        "replaced_weights": sum(FLOAT // 8 * layer.site.weights for layer in layers),
        "replaced_biases": sum(FLOAT // 8 * layer.site.M for layer in layers if layer.site.bias),
        "untouched": untouched,
    }
    after = dict.fromkeys(("codes", "tables", "scales", "biases", "encoders"), 0)
    encoder_ids: set[int] = set()
    for layer in layers:
        for key, value in _layer_bytes(layer, encoder_ids).items():
            after[key] += value
    after["untouched"] = untouched
    weights = sum(layer.site.weights for layer in layers)
    formula = _formula(layers)
    figures: dict[str, Any] = {
        "before": {**before, "total": sum(before.values())},
        "after": {**after, "total": sum(after.values())},
        "weights": weights,
        "formula": formula,
    }
    figures["saving"] = figures["before"]["total"] / max(figures["after"]["total"], 1)
    return figures


def site_bytes(figures: dict[str, Any]) -> dict[str, int]:
    """Of the replaced sites alone: bytes of what replaces them, and of their floats before."""
    return {
        f"{name}_bytes": figures[when]["total"] - figures[when]["untouched"]
        for name, when in (("replacement", "after"), ("exact", "before"))
    }


def _layer_bytes(layer: ReplacedLayer, encoder_ids: set[int]) -> dict[str, int]:
    """Bytes of one replaced layer by what they are."""
    cost = layer.cost()
    if isinstance(layer, LUTLayer):
        scales = FLOAT // 8 * layer.scales()
        encoder = 0 if id(layer.encoder) in encoder_ids else cost["encoder_bytes"]
        encoder_ids.add(id(layer.encoder))
        biases = cost["weight_bytes"] - scales
        return {
            **{"tables": cost["table_bytes"], "scales": scales},
            **{"biases": biases, "encoders": encoder},
        }
    if isinstance(layer, CodecAttention):
        return {"encoders": cost["weight_bytes"]}
    if not isinstance(layer, CodecLayer):
        biases = FLOAT // 8 * (layer.site.M if layer.site.bias else 0)
        return {"codes": cost["weight_bytes"] - biases, "biases": biases}
    codec, bias = layer.weight_codec, layer.bias_codec
    weight_bytes = -(-cost["weight_bits"] // 8)
    scales = -(-codec.scale_count() * codec.scale_bits // 8) if codec is not None else 0
    floats = FLOAT * (layer.site.M if layer.site.bias else 0)
    biases = -(-(floats if bias is None else bias.bits()) // 8)
    ranges = cost["weight_bytes"] - weight_bytes - biases
    return {"codes": weight_bytes - scales, "scales": scales, "biases": biases, "encoders": ranges}


def _untouched(network: nn.Module, layers: list[ReplacedLayer]) -> int:
    inside = {id(t) for layer in layers for t in (*layer.parameters(), *layer.buffers())}
    outside: dict[int, Tensor] = {
        id(t): t for t in (*network.parameters(), *network.buffers()) if id(t) not in inside
    }
    return sum(t.numel() * t.element_size() for t in outside.values())


def _formula(layers: list[ReplacedLayer]) -> float | None:
    """How much smaller the formats say that weights become; None for tables, or no weights."""
    if not layers or any(isinstance(layer, LUTLayer) for layer in layers):
        return None
    bits = weights = 0.0
    for layer in layers:
        codec = layer.weight_codec if isinstance(layer, CodecLayer) else None
        bits += layer.site.weights * (FLOAT if codec is None else codec.formula_bits())
        weights += layer.site.weights
    return FLOAT * weights / bits if bits else None


def state_bytes(network: nn.Module) -> int:
    """Bytes of the storages that parameters and buffers lie in, each once."""
    return _storage_bytes((*network.parameters(), *network.buffers()))


def prepared_figures(network: nn.Module) -> dict[str, int]:
    """Bytes that a network prepared for inference holds, every storage once.

    prepared_bytes: parameters and persistent buffers, so every table once, with a byte for each
    integer entry, also of fewer bits. prepared_layout_bytes: buffers made of those again, which is
    how a kernel wants tables to lie.
    """
    tensors = list(network.state_dict(keep_vars=True).values())
    state = _storage_bytes(tensors)
    whole = _storage_bytes((*tensors, *network.buffers()))
    return {"prepared_bytes": state, "prepared_layout_bytes": whole - state}


def _storage_bytes(tensors: Iterable[Tensor]) -> int:
    storages = {s.data_ptr(): s.nbytes() for t in tensors if (s := t.untyped_storage()).nbytes()}
    return sum(storages.values())


def times(ratio: float, more: str = "smaller", less: str = "larger") -> str:
    """A ratio in words, never below one: "1.84 times smaller", "1.05 times larger"."""
    factor, inverse = f"{ratio:.3g}", f"{1 / ratio:.3g}" if ratio > 0 else "inf"
    if factor == inverse == "1":
        return f"1 times, neither {more} nor {less}"
    return f"{factor} times {more}" if ratio > 1 else f"{inverse} times {less}"


def memory_lines(figures: dict[str, Any]) -> list[str]:
    """The figures in words, and why the saving is not the formula's."""
    before, after = figures["before"], figures["after"]
    parts = [f"{value:,} {name}" for name, value in after.items() if value and name != "total"]
    lines = [
        f"memory before: {before['total']:,} bytes ({before['replaced_weights']:,} replaced "
        f"weights, {before['replaced_biases']:,} their biases, {before['untouched']:,} untouched)",
        f"memory after: {after['total']:,} bytes ({', '.join(parts)}), {times(figures['saving'])}",
    ]
    return [*lines, *_reasons(figures)]


def _reasons(figures: dict[str, Any]) -> list[str]:
    before, after, weights = figures["before"], figures["after"], max(figures["weights"], 1)
    layer_bytes = after["codes"] + after["tables"] + after["scales"]
    ratio = before["replaced_weights"] / max(layer_bytes, 1)
    reasons = []
    if figures["formula"] is not None:
        reasons.append(f"the formats say {times(figures['formula'])}")
    reasons.append(
        f"the replaced weights are {times(ratio)}: {8 * layer_bytes / weights:.4g} bits each, "
        f"{8 * after['scales'] / weights:.3g} of them scales, which short blocks and small layers "
        "have more of"
    )
    rest = after["biases"] + after["encoders"]
    reasons.append(f"their biases, encoders and ranges take {rest:,} bytes")
    share = 100 * before["untouched"] / max(before["total"], 1)
    reasons.append(f"{share:.3g} % of the bytes before stay as they are")
    return ["why: " + "; ".join(reasons)]
