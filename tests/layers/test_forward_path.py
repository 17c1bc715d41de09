"""How far it is from a replaced layer's forward to its kernel."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import halut
from halut.ops import cpu
from tests.layers.lut_oracle import LAYERS, inputs_of, make

ROOT = str(Path(halut.__file__).parent) + os.sep


def functions(run: Any) -> list[str]:
    """Python functions of the library that a call runs, in order: file and name."""
    names: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(ROOT):
            names.append(f"{file.removeprefix(ROOT)}:{frame.f_code.co_name}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return names


@pytest.mark.skipif(not cpu.cpu_capabilities(), reason="no compiled kernels")
@pytest.mark.parametrize("case", ["3x3", "grouped", "linear"])
def test_a_training_forward_runs_twelve_functions_before_its_kernel(case):
    layer, _ = make(case)
    x = inputs_of((8, *LAYERS[case][1][1:])).requires_grad_()
    layer.train()(x)  # what is remembered of a shape is
    names = functions(lambda: layer(x))
    kernel = "ops/cpu/layer.py:tree_layer"
    assert kernel in names, names
    assert names.index(kernel) < 12, names
