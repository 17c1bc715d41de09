"""What a table layer costs at inference, per sample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from halut.layers.base import LUTLayer


def table_cost(layer: LUTLayer) -> dict[str, int]:
    """Operations for one sample and bytes of what inference must hold.

    Encode: N C log2 K compares for a tree, N D K multiply-adds for nearest prototypes; N C M
    look-ups and as many adds; tables C K M bits / 8 bytes; codes N C log2 K bits. N counts tokens
    or output positions. The exact product's N D M multiply-adds are gone.
    """
    site, options, blocks = layer.site, layer.options, layer.blocks
    encode = layer.encoder.cost(site.rows)
    lookups = site.rows * blocks.C * site.M  # every group adds C entries to each of its outputs
    bits = 32 if options.bits is None else options.bits
    entries = blocks.C * options.K * site.M
    return {
        "macs": 0,
        "encode_ops": encode["encode_ops"],
        "lookups": lookups,
        "adds": lookups,
        "weight_bytes": 4 * site.M if site.bias else 0,
        "table_bytes": math.ceil(entries * bits / 8),
        "encoder_bytes": encode["state_bytes"],
        "index_bits": site.rows * blocks.total * math.ceil(math.log2(options.K)),
    }
