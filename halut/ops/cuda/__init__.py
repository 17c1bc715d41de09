"""The CUDA kernels (kernels/cuda), registered beside the torch implementations as `cuda`.

They compile when they are first run, through CuPy, which is imported then and not before. Without
it the torch implementations run on the GPU, and the log says once what to install.
"""

from __future__ import annotations

import importlib

REGISTERING = ("bits", "lookup", "conv", "tree", "nearest", "layer", "sign_magnitude", "mxint8")
"""Modules of this package that register implementations."""


def register() -> None:
    """Register the kernels as the implementation `cuda` of their operations on CUDA devices."""
    for name in REGISTERING:
        importlib.import_module(f"halut.ops.cuda.{name}")
