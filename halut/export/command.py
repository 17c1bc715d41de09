"""`halut export`: a run's network as files that run elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from halut.errors import HalutError
from halut.export.targets import TARGETS
from halut.export.writing import export_run

InputsOf = Callable[[Path, int], Tensor | None]
SAMPLES = 256
EPILOG = """\
targets and their options:
  bundle    safetensors, plan, report and card, for halut.load
            (none)
  onnx      model.onnx with dynamic batch; layers are functions of standard operators
            opset=18        version of the standard operators, 17 to 24
            codecs=qdq      integers as QuantizeLinear and DequantizeLinear; qonnx: as QONNX's nodes
  torch     program.pt2 of torch.export, and package.pt2 of AOTInductor, for torch and halut.ops
            prepare=true    as halut.prepare makes it; false: as it is trained
            compile=auto    the package: always, never, or where it can be compiled
  packed    integers alone for hardware: packed tables, golden vectors, Verilog, C, a NumPy reader
            samples=1       inputs of the golden vectors, the first; ranges are those of all inputs

examples:
  halut export runs/C --to bundle -o out/bundle      tensors and JSON, for halut.load
  halut export runs/C --to onnx -o out/onnx          a model that any ONNX runtime runs
  halut export runs/C --to onnx -o out/onnx opset=21 --inputs images.npy
  halut export runs/C --to packed -o out/packed      for hardware
"""


def parser() -> argparse.ArgumentParser:
    """Arguments of `halut export`."""
    arguments = argparse.ArgumentParser(
        prog="halut export",
        description="A run's network as files that run elsewhere, verified by running them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = arguments.add_argument
    add("run", type=Path, metavar="RUN", help="a run folder, or a bundle")
    add("options", nargs="*", metavar="KEY=VALUE", help="options of the target")
    add("--to", required=True, metavar="NAME", help=f"the target: {', '.join(TARGETS)}")
    add("-o", "--output", type=Path, required=True, metavar="FOLDER", help="made anew")
    add(
        "--inputs",
        type=Path,
        metavar="FILE",
        help="a batch to verify on, .npy; the ranges of integers are those of all of it",
    )
    text = "of the training images that are it without --inputs (%(default)s)"
    add("--samples", type=int, default=SAMPLES, metavar="N", help=text)
    return arguments


def main(argv: Sequence[str], inputs_of: InputsOf = lambda run, samples: None) -> int:
    """Write the export; 0, or HalutError where that cannot be done.

    `inputs_of` returns so many inputs of a run's own data, or None where they are not at hand.
    """
    options = parser().parse_intermixed_args(argv)
    if options.samples < 1:
        raise HalutError(f"--samples must be at least 1, got {options.samples}")
    example = None
    if options.inputs is not None:
        example = read_inputs(options.inputs)
    elif options.run.is_dir():
        example = inputs_of(options.run, options.samples)
    export_run(
        options.run,
        to=options.to,
        folder=options.output,
        example=example,
        **_values(options.options),
    )
    return 0


def _values(words: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE words, values as YAML has them."""
    values = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not key.isidentifier():
            raise HalutError(f"{word} is no option KEY=VALUE")
        values[key] = yaml.safe_load(value)
    return values


def read_inputs(path: Path) -> Tensor:
    """A batch of inputs from a .npy file; HalutError if it holds none."""
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (ValueError, TypeError, EOFError) as error:
        raise HalutError(f"--inputs {path} is no .npy file of one array of numbers") from error
