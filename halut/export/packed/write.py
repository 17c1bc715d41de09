"""Packed networks: every file of the hand-over, and the reader's word that they are right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from halut.errors import HalutError
from halut.export.difference import difference
from halut.export.manifest import file_entries
from halut.export.packed import reader
from halut.export.packed.c_header import c_header, c_name
from halut.export.packed.images import write_images
from halut.export.packed.layer_file import layer_file
from halut.export.packed.lowering import integer_network
from halut.export.packed.network import IntegerNetwork, Step, Value
from halut.export.packed.operations import Parts
from halut.export.targets import Written
from halut.inference.verify import answer_of
from halut.io import write_bytes, write_json
from halut.sites.calls import Call

SHIPPED = {
    "FORMAT.md": "FORMAT.md",
    "reader.py": "reader.py",
    "c/halut_tables.h": "include/halut_tables.h",
    "c/check_layer.c": "check_layer.c",
    "rtl/table_unit.v": "rtl/table_unit.v",
    "rtl/table_unit_tb.v": "rtl/table_unit_tb.v",
}
"""Files of this package that go along, and where to."""
ORDERS = {
    "bits": "entry i of b bits at bits i * b to i * b + b - 1 of the bytes, lowest first",
    "integers": "little-endian, two's complement",
    "maps": ["sample", "channel", "row", "column"],
    "im2col": ["channel", "kernel row", "kernel column"],
    "padding": ["left", "right", "top", "bottom"],
    "nodes": "2^level - 1 + the bits of the path, the first highest; above the threshold: 1",
    "rounding": "clamp(floor((multiplier * sum + residual_multiplier * residual + bias) / 2^shift),"
    " low, 255)",
}
"""What holds for all steps, as the manifest says it."""


@dataclass(kw_only=True)
class Options:
    """calibration: the batch that ranges of activations are those of, None: the example; samples:
    inputs of the golden vectors, the example's first."""

    calibration: Tensor | None = None
    samples: int = 1


def write(network: nn.Module, example: Call, folder: Path, options: Options) -> Written:
    """Layers, vectors and manifest of the integer-only form of `network`, replayed by the reader.

    Raises HalutError as halut.export.packed.lowering does, and if the reader answers otherwise.
    """
    calibration = example if options.calibration is None else Call(options.calibration)
    integers = integer_network(network, calibration)
    inputs = example.tensors[0]
    if not 1 <= options.samples <= len(inputs):
        raise HalutError(f"samples must be in 1..{len(inputs)}, got {options.samples}")
    found = difference(
        integers(inputs), answer_of(network, example), example.samples, in_floats=False
    )
    write_network(integers, inputs[: options.samples], folder)
    _, wrong = reader.mismatches(folder)
    if wrong is not None:
        raise HalutError(f"the reader of {folder} answers otherwise than the network: {wrong}")
    return Written(found, {"numpy": np.__version__})


def write_network(integers: IntegerNetwork, inputs: Tensor, folder: Path) -> None:
    """Write an integer network and the golden vectors of float32 `inputs` into `folder`."""
    source = integers.source
    x = source.grid.quantize(inputs)
    parts_of, golden = integers.trace(x), {source.name: x}
    vectors = _vector(folder, "input", "input", x)
    steps = []
    for index, step in enumerate(integers.steps):
        stem, parts = f"{index:02d}_{_file_name(step.name)}", parts_of[step.name]
        read = [golden[value.name] for value in step.inputs]
        golden[step.name] = parts["output"]
        steps.append(_step(folder, stem, step, read, parts))
    for name, target in SHIPPED.items():
        write_bytes(folder / target, files(__package__).joinpath(name).read_bytes())
    values = [source, *(step.output for step in integers.steps)]
    manifest: dict[str, Any] = {
        "format": reader.FORMAT,
        "version": reader.VERSION,
        **ORDERS,
        "input": source.name,
        "output": integers.answer.name,
        "values": {value.name: _grid(value) for value in values},
        "vectors": vectors,
        "steps": steps,
        "files": file_entries(folder),
    }
    manifest["sha256"] = reader.manifest_digest(manifest)
    write_json(folder / reader.MANIFEST, manifest)


def _step(
    folder: Path, stem: str, step: Step, read: Sequence[Tensor], parts: Parts
) -> dict[str, Any]:
    """The step's files, and its entry of the manifest."""
    packed = layer_file(step.name, step.operation.tensors())
    entry: dict[str, Any] = {
        "name": step.name,
        "kind": step.operation.kind,
        "inputs": [value.name for value in step.inputs],
        "shape": list(step.output.shape),
        **step.operation.fields(),
        "tensors": packed.entries,
        "vectors": {name: _vector(folder, stem, name, value) for name, value in parts.items()},
    }
    if packed.entries:
        entry |= {
            "file": f"layers/{stem}.bin",
            "images": f"hex/{stem}",
            "header": f"include/{c_name(stem)}.h",
        }
        write_bytes(folder / entry["file"], packed.content)
        write_bytes(folder / entry["header"], c_header(stem, step).encode())
        write_images(folder, stem, step, read, parts)
    return entry


def _vector(folder: Path, stem: str, name: str, values: Tensor) -> dict[str, Any]:
    """A golden vector's file, and its entry of the manifest."""
    path = f"vectors/{stem}.{name}.bin"
    kind, bits = ("<i4", 32) if values.dtype == torch.int32 else ("u1", 8)
    write_bytes(folder / path, values.contiguous().numpy().astype(kind).tobytes())
    return {"file": path, "shape": list(values.shape), "bits": bits}


def _grid(value: Value) -> dict[str, Any]:
    grid = value.grid
    return {"scale": grid.scale, "zero_point": grid.zero_point, "shape": list(value.shape)}


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
