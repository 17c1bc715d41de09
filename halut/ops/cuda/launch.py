"""Kernels of kernels/cuda, compiled by NVRTC through CuPy and launched on torch's current stream.

A kernel is compiled at its first call on a device; run an operator once before capturing it in a
CUDA graph. Nothing here waits for the device.
"""

from __future__ import annotations

import functools
import importlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halut.errors import HalutError

logger = logging.getLogger(__name__)

FOLDERS = (
    Path(__file__).parents[2] / "kernels" / "cuda",  # installed
    Path(__file__).parents[3] / "kernels" / "cuda",  # a checkout
)
OPTIONS = ("--std=c++17",)
MOST_BLOCKS = 2**31 - 1
INSTALL = "pip install 'halut[cuda]' (cupy-cuda13x)"


@functools.cache
def missing() -> str | None:
    """Why the kernels cannot be compiled, None where they can. The log says it once."""
    try:
        importlib.import_module("cupy")
        folder()
    except (ImportError, HalutError) as error:
        logger.warning(
            "CUDA kernels are not available (%s): slower torch implementations run on the GPU; "
            "to have the kernels: %s",
            error,
            INSTALL,
        )
        return str(error)
    return None


def available() -> bool:
    """True if kernels can be compiled and launched. Asked only for tensors on a GPU."""
    return missing() is None


def folder() -> Path:
    """Where the sources lie. Raises HalutError if they are nowhere."""
    for path in FOLDERS:
        if (path / "device.cuh").is_file():
            return path
    raise HalutError(f"no CUDA sources in any of: {', '.join(map(str, FOLDERS))}")


@functools.cache
def source(name: str) -> str:
    """kernels/cuda/NAME.cu with what it includes in place: caches of binaries go by the text."""
    lines = []
    for line in (folder() / f"{name}.cu").read_text().splitlines():
        if line.startswith('#include "'):
            header = folder() / line.split('"')[1]
            lines += [text for text in header.read_text().splitlines() if text != "#pragma once"]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def launch(name: str, kernel: str, device: torch.device, grid: tuple[int, int], *args: Any) -> None:
    """Run `kernel` of kernels/cuda/NAME.cu on grid = (blocks, threads per block); not on 0 blocks.

    Arguments as `packed` takes them. Raises HalutError if there are too many blocks, or the
    source does not compile.
    """
    blocks, threads = grid
    if blocks == 0:
        return
    check_blocks(blocks)
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(device.index):
        stream = cupy.cuda.ExternalStream(torch.cuda.current_stream(device).cuda_stream)
        with stream:
            _function(name, kernel, device.index)((blocks,), (threads,), packed(args))


def check_blocks(blocks: int) -> None:
    """Raise HalutError if a grid cannot hold them."""
    if blocks > MOST_BLOCKS:
        raise HalutError(f"{blocks} blocks are more than a CUDA grid holds: split the rows")


def packed(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments as kernels declare them: tensors and None as addresses, int as 64 and bool as 32
    bits, float as float32, a tuple of integers as a struct of 64-bit fields: one value, as CuPy
    passes no arrays of several."""
    return tuple(_argument(value) for value in args)


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        return np.uint64(value.data_ptr())
    if value is None:
        return np.uint64(0)
    if isinstance(value, bool):
        return np.int32(value)
    if isinstance(value, int):
        return np.int64(value)
    if isinstance(value, float):
        return np.float32(value)
    if isinstance(value, tuple):
        return np.array(value, dtype=np.int64).view(np.dtype((np.void, 8 * len(value))))
    return value


@functools.cache
def _function(name: str, kernel: str, device: int) -> Any:
    return _module(name, device).get_function(kernel)


@functools.cache
def _module(name: str, device: int) -> Any:
    cupy = importlib.import_module("cupy")
    module = cupy.RawModule(code=source(name), options=OPTIONS)
    try:
        module.compile()
    except Exception as error:
        raise HalutError(
            f"kernels/cuda/{name}.cu does not compile for {torch.cuda.get_device_name(device)}: "
            f"{error}; halut.ops.forced('torch') runs without it"
        ) from error
    return module


@functools.cache
def processors(device: torch.device) -> int:
    """Multiprocessors of the device: how many blocks it takes to fill it goes by them."""
    if device.type != "cuda":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count


def parts(tiles: int, rows: int, least: int, device: torch.device, most: int = 1 << 16) -> int:
    """Into how many runs of at least `least` rows to cut rows, so that tiles * runs fill it."""
    wanted = -(-8 * processors(device) // max(1, tiles))
    return max(1, min(wanted, -(-rows // least), most))
