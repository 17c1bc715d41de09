"""Summary of the implementations in use, for `halut env` and the reports."""

from __future__ import annotations

import importlib.util

import torch

from halut.ops import cpu
from halut.ops.core import dispatch


def kernels() -> dict[str, str]:
    """The implementation each operation has on the CPU; compiled ones with their level."""
    level = cpu.cpu_capability()
    return {
        operation: f"{name} ({level})" if name == "cpu" else name
        for operation, name in dispatch.implementations("cpu").items()
    }


def cpu_kernels() -> str:
    """The levels of the compiled CPU kernels, or why there are none."""
    if cpu.missing:
        return f"none, torch runs instead: {cpu.missing}"
    return f"{cpu.cpu_capability()}, of {', '.join(cpu.cpu_capabilities())}"


def cuda_kernels() -> str:
    """The operations that have a CUDA kernel here, or why there are none."""
    if not torch.cuda.is_available():
        return "none: torch finds no CUDA device"
    if importlib.util.find_spec("cupy") is None:
        return "none, torch runs instead: cupy is not installed (pip install cupy-cuda13x)"
    in_use = dispatch.implementations("cuda")
    operations = [operation for operation, name in in_use.items() if name == "cuda"]
    return ", ".join(operations) or "none, torch runs instead"
