"""What runs where, in words: for `halut env` and the reports."""

from __future__ import annotations

import importlib.util

import torch

from halut.ops import cpu
from halut.ops.core import dispatch


def kernels() -> dict[str, str]:
    """The implementation each operation has on the CPU; compiled ones with their level."""
    level = cpu.level()
    return {
        operation: f"{name} ({level})" if name == "cpu" else name
        for operation, name in dispatch.implementations("cpu").items()
    }


def cpu_kernels() -> str:
    """The levels of the compiled CPU kernels, or why there are none."""
    if cpu.missing:
        return f"none, torch runs instead: {cpu.missing}"
    return f"{cpu.level()}, of {', '.join(cpu.levels())}"


def cuda_kernels() -> str:
    """The operations that have a CUDA kernel here, or why there are none."""
    if not torch.cuda.is_available():
        return "none: torch finds no CUDA device"
    if importlib.util.find_spec("cupy") is None:
        return "none, torch runs instead: cupy is not installed (pip install cupy-cuda13x)"
    named = dispatch.implementations("cuda")
    found = [operation for operation, name in named.items() if name == "cuda"]
    return ", ".join(found) or "none, torch runs instead"
