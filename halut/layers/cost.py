"""What a table layer costs at inference, per sample.

Bit operations follow one rule in every layer: a multiply-add of a b1-bit by a b2-bit factor counts
b1 b2 (as in van Baalen et al., Bayesian Bits, 2020), an add or a compare of b-bit operands b, and a
look-up of a b-bit entry b. The bits by which accumulators grow, biases, norms and activation
functions are not counted, nor is what makes codes of a codec's inputs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from halut.layers.base import LUTLayer

FLOAT = 32
"""Bits of what encoders read and compare with."""


def table_cost(layer: LUTLayer) -> dict[str, int]:
    """Operations for one sample and bytes of what inference must hold.

    Encode: N C log2 K compares for a tree, N D K multiply-adds and N C (K - 1) compares for nearest
    prototypes; N C M look-ups and as many adds; tables C K M bits / 8 bytes; codes N C log2 K bits.
    N counts tokens or output positions. The exact product's N D M multiply-adds are gone; the one
    per output that rescales integer sums, like the bias, is not counted. bops: bit operations, of
    which the encoder has encode_bops. weight_bytes holds the bias, with the folded zero points of
    quantised tables, and the tables' scales; weight_bits the tables and those scales.
    """
    site, options, blocks = layer.site, layer.options, layer.blocks
    encode = layer.encoder.cost(site.rows)
    lookups = site.rows * blocks.C * site.M  # every group adds C entries to each of its outputs
    quantised = options.bits is not None
    bits = FLOAT if options.bits is None else options.bits
    entries = blocks.C * options.K * site.M
    compares, macs, adds = encode["compares"], encode["macs"], encode.get("adds", 0)
    encode_bops = FLOAT * (compares + adds) + FLOAT * FLOAT * macs
    return {
        "macs": 0,
        "encode_compares": compares,
        "encode_macs": macs,
        "encode_adds": adds,
        "lookups": lookups,
        "adds": lookups,
        "bops": encode_bops + 2 * bits * lookups,
        "encode_bops": encode_bops,
        "weight_bytes": 4 * ((site.M if site.bias or quantised else 0) + table_scales(layer)),
        "table_bytes": math.ceil(entries * bits / 8),
        "weight_bits": entries * bits + FLOAT * table_scales(layer),
        "encoder_bytes": encode["state_bytes"],
        "index_bits": site.rows * blocks.total * math.ceil(math.log2(options.K)),
    }


def table_scales(layer: LUTLayer) -> int:
    """Scales a quantised table has; 0 for float tables."""
    if layer.options.bits is None:
        return 0
    return {"layer": 1, "channel": layer.site.M, "codebook": layer.blocks.total}[
        layer.options.scale
    ]
