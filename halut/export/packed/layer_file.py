"""The packed file of a layer: its tensors one after another, each from a whole byte on."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from halut.errors import HalutError
from halut.export.packed.bits import fits, pack
from halut.export.packed.operations import Packed


@dataclass(frozen=True)
class LayerFile:
    """The bytes of the file, and where and how wide each tensor is."""

    content: bytes
    entries: list[dict[str, Any]]


def layer_file(name: str, tensors: dict[str, Packed]) -> LayerFile:
    """Pack the tensors of the step `name`. HalutError if an entry does not fit its width."""
    content, entries = b"", []
    for tensor_name, tensor in tensors.items():
        values = tensor.values.cpu().numpy().astype("int64")
        if not fits(values, tensor.bits, tensor.signed):
            raise HalutError(
                f"{name}: {tensor_name} has entries {values.min()}..{values.max()}, which do not "
                f"fit {tensor.bits} bits"
            )
        packed = pack(values, tensor.bits)
        entries.append(
            {
                "name": tensor_name,
                "axes": list(tensor.axes),
                "shape": list(values.shape),
                "bits": tensor.bits,
                "signed": tensor.signed,
                "offset": len(content),
                "bytes": len(packed),
            }
        )
        content += packed
    return LayerFile(content, entries)


def theoretical_bits(entries: list[dict[str, Any]]) -> int:
    """The bits that the numbers of a file have."""
    return sum(prod(entry["shape"]) * entry["bits"] for entry in entries)
