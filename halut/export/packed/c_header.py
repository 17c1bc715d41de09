"""C headers of packed layers: their tensors as arrays, and a halut_layer of one by tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from halut.export.packed.bits import pack
from halut.export.packed.network import Step
from halut.export.packed.operations import Packed, Requantized
from halut.export.packed.tables import NearestTables, Tables, map_and_window

TYPES = {
    "split_dims": "uint16_t",
    "thresholds": "uint8_t",
    "prototypes": "uint8_t",
    "weight": "int8_t",
    "multiplier": "int16_t",
    "bias": "int32_t",
}
"""Types of the arrays but for tables, which are the packed file's bytes."""
PER_LINE = 16


def c_name(stem: str) -> str:
    """The name, in C, of the layer whose files are called `stem`: also that of its header."""
    return "layer_" + re.sub(r"\W", "_", stem)


def c_header(stem: str, step: Step) -> str:
    """The header of a step that has tensors; halut_tables.h says what a halut_layer is."""
    name, operation = c_name(stem), step.operation
    assert isinstance(operation, Requantized)
    guard, tables = f"{name.upper()}_H", isinstance(operation, Tables)
    parts = [
        f"/* {step.name}, a step of the kind {operation.kind}: see FORMAT.md. */",
        f"#ifndef {guard}\n#define {guard}\n",
        '#include "halut_tables.h"\n' if tables else "#include <stdint.h>\n",
        *(_tensor(name, key, tensor) for key, tensor in operation.tensors().items()),
    ]
    if isinstance(operation, NearestTables):
        parts += [
            _array("uint16_t", f"{name}_starts", operation.starts),
            _array("uint16_t", f"{name}_widths", operation.widths),
        ]
    if isinstance(operation, Tables):
        parts.append(_layer(name, step, operation))
    else:
        r = operation.requantization
        numbers = {"shift": r.shift, "low": r.low, "residual_multiplier": r.residual}
        parts += [f"enum {{ {name}_{key} = {value} }};" for key, value in numbers.items()]
    return "\n".join([*parts, "\n#endif\n"])


def _tensor(name: str, key: str, tensor: Packed) -> str:
    values = tensor.values.cpu().numpy().astype("int64")
    if key == "table":
        return _array("uint8_t", f"{name}_table", list(pack(values, tensor.bits)))
    return _array(TYPES[key], f"{name}_{key}", values.reshape(-1).tolist())


def _array(kind: str, name: str, values: Sequence[int]) -> str:
    lines = (values[i : i + PER_LINE] for i in range(0, len(values), PER_LINE))
    body = ",\n".join("    " + ", ".join(map(str, line)) for line in lines)
    return f"static const {kind} {name}[{len(values)}] = {{\n{body}}};\n"


def _layer(name: str, step: Step, tables: Tables) -> str:
    """The halut_layer, every field by its name; pointers that are not named are null."""
    G, C, K, M = tables.table.shape
    (channels, height, width), window = map_and_window(tables, step.inputs[0].shape)
    left, right, top, bottom = window.padding
    r = tables.requantization
    arrays, encoder = list(tables.tensors()), "tree"
    if isinstance(tables, NearestTables):
        arrays, encoder = [*arrays, "starts", "widths"], tables.metric
    fields: dict[str, object] = {
        "name": f'"{step.name}"',
        "encoder": f"HALUT_{encoder.upper()}",
        **{"groups": G, "codebooks": C, "K": K, "outputs": G * M},
        **{"channels": channels, "height": height, "width": width},
        **dict(zip(("kernel_height", "kernel_width"), window.kernel_size, strict=True)),
        **dict(zip(("stride_y", "stride_x"), window.stride, strict=True)),
        **dict(zip(("dilation_y", "dilation_x"), window.dilation, strict=True)),
        **{"pad_left": left, "pad_right": right, "pad_top": top, "pad_bottom": bottom},
        "padding_code": tables.zero_point,
        "table_bits": tables.bits,
        **{array: f"{name}_{array}" for array in arrays},
        **{"shift": r.shift, "low": r.low, "residual_multiplier": r.residual},
    }
    body = "".join(f"    .{key} = {value},\n" for key, value in fields.items())
    return f"static const halut_layer {name} = {{\n{body}}};\n"
