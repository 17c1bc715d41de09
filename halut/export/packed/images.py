"""Memory images of layers by tables for Verilog's $readmemh, and the numbers of a test bench."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from halut.export.packed.network import Step
from halut.export.packed.operations import Parts
from halut.export.packed.tables import Tables, TreeTables, map_and_window
from halut.io import write_bytes


def write_images(
    folder: Path, stem: str, step: Step, inputs: Sequence[Tensor], parts: Parts
) -> None:
    """hex/STEM/*.hex of a step's tensors and, of a layer by tables, its golden vectors.

    One entry a line, in the order of the packed file, but for thresholds, at address c * K + node
    with an unused one behind those of a tree; layers of hash trees also get rtl/STEM/layer.vh.
    """
    images = {name: (t.values, t.bits) for name, t in step.operation.tensors().items()}
    if isinstance(step.operation, TreeTables):
        thresholds = step.operation.thresholds
        heap = thresholds.new_zeros(len(thresholds), thresholds.shape[1] + 1)
        heap[:, :-1] = thresholds
        images["thresholds"] = heap, 8
        numbers = bench_macros(stem, step, len(inputs[0]))
        write_bytes(folder / f"rtl/{stem}/layer.vh", numbers.encode())
    if isinstance(step.operation, Tables):
        vectors = {**dict(zip(("input", "residual"), inputs, strict=False)), **parts}
        for name, values in vectors.items():
            images[name] = values, 32 if name == "sums" else 8
    for name, (values, bits) in images.items():
        content = image(values.contiguous().numpy().astype(np.int64), bits)
        write_bytes(folder / f"hex/{stem}/{name}.hex", content.encode())


def image(values: NDArray[np.int64], bits: int) -> str:
    """One entry a line: its bits, two's complement, in hexadecimal digits.

    >>> image(np.array([1, -1]), 8)
    '01\\nff\\n'
    """
    digits, mask = -(-bits // 4), (1 << bits) - 1
    return "".join(f"{value & mask:0{digits}x}\n" for value in values.reshape(-1).tolist())


def bench_macros(stem: str, step: Step, samples: int) -> str:
    """layer.vh: the numbers that table_unit_tb.v reads, as macros."""
    tables = step.operation
    assert isinstance(tables, TreeTables)
    shape, window = map_and_window(tables, step.inputs[0].shape)
    maps = samples * prod(step.inputs[0].shape) // prod(shape)
    G, C, K, M = tables.table.shape
    height, width = window.output_size(*shape[1:])
    left, _, top, _ = window.padding
    requantization = tables.requantization
    macros = {
        "LAYER": f'"{step.name}"',
        "HEX": f'"hex/{stem}/"',
        "SAMPLES": maps,
        "GROUPS": G,
        "C": C,
        "K": K,
        "M": M,
        "COLUMNS": tables.columns,
        "TABLE_WIDTH": tables.bits,
        "ACC": tables.accumulator_bits,
        **dict(zip(("CHANNELS", "HEIGHT", "WIDTH"), shape, strict=True)),
        **dict(zip(("KERNEL_HEIGHT", "KERNEL_WIDTH"), window.kernel_size, strict=True)),
        **dict(zip(("STRIDE_Y", "STRIDE_X"), window.stride, strict=True)),
        **dict(zip(("DILATION_Y", "DILATION_X"), window.dilation, strict=True)),
        "PAD_TOP": top,
        "PAD_LEFT": left,
        "PADDING_CODE": tables.zero_point,
        "OUT_HEIGHT": height,
        "OUT_WIDTH": width,
        "RESIDUAL": int(len(step.inputs) > 1),
        "RESIDUAL_MULTIPLIER": requantization.residual,
        "SHIFT": requantization.shift,
        "LOW": requantization.low,
    }
    return "".join(f"`define {name} {value}\n" for name, value in macros.items())
