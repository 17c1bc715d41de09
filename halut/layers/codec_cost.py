"""What a codec layer costs at inference, per sample; bit operations by the rule of layers.cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from halut.layers.codec import CodecLayer

FLOAT = 32


def codec_cost(layer: CodecLayer) -> dict[str, int]:
    """Multiply-adds and bits for one sample, and bytes of what inference must hold.

    macs are the exact product's: a narrow multiplication is one, and so is one by a pruned weight,
    as nothing here skips them. bops = (bits of a weight's code) * (bits of an activation's) * macs.
    weight_bits holds the weights' codes and shared scales; input_bits those of the rows * groups *
    D values that the product reads; weight_bytes also the bias and the calibrated scales.
    """
    site, found = layer.site, layer.factors()
    weight, activation = found.get("weight"), found.get("activation")
    bits = {role: codec.bits() for role, codec in found.items()}
    weight_bits = bits.get("weight", FLOAT * site.weights)
    bias_bits = bits.get("bias", FLOAT * (site.M if site.bias else 0))
    positions = site.rows * site.taps  # of groups * C inputs each
    inputs = activation.layout.numel if activation else site.groups * site.D // site.taps
    state = (
        sum(4 * tensor.numel() for tensor in activation.state_dict().values()) if activation else 0
    )
    wide = (codec.width if codec else FLOAT for codec in (weight, activation))
    return {
        "macs": site.macs,
        "bops": site.macs * next(wide) * next(wide),
        "weight_bits": weight_bits,
        "input_bits": positions * bits.get("activation", FLOAT * inputs),
        "weight_bytes": -(-weight_bits // 8) + -(-bias_bits // 8) + state,
    }
