"""Kernels of kernels/cuda, loaded by CuPy's RawModule and launched on torch's current stream.

A kernel is compiled at its first call on a device; run an operator once before capturing it in a
CUDA graph. Nothing here waits for the device.
"""

from __future__ import annotations

import functools
import importlib
import logging
import threading
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import torch

from halut.errors import HalutError
from halut.ops.cuda import cubin
from halut.ops.cuda.arguments import Arguments

logger = logging.getLogger(__name__)

MAX_BLOCKS = 2**31 - 1
INSTALL = "pip install 'halut[cuda]' (cupy-cuda13x)"


@functools.cache
def missing() -> str | None:
    """Why the kernels cannot be compiled, None where they can. The log says it once."""
    try:
        cubin.nvrtc()
        cubin.folder()
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


def launch(name: str, kernel: str, device: torch.device, grid: tuple[int, int], *args: Any) -> None:
    """Run `kernel` of kernels/cuda/NAME.cu on grid = (blocks, threads per block); not on 0 blocks.

    Arguments are laid out by `Arguments`, of the same kinds at every launch of a kernel. Raises
    HalutError if there are too many blocks, or the source does not compile.
    """
    blocks, threads = grid
    if blocks == 0:
        return
    check_blocks(blocks)
    key = kernel, _index(device)
    bound_launch = _launches.get(key)
    if bound_launch is None:
        bound_launch = _launches[key] = Launch(name, kernel, key[1], args)
    bound_launch.run(blocks, threads, args)


class Call(NamedTuple):
    """A launch to bind: of `args` those at the positions `changing` are given at every call."""

    name: str
    kernel: str
    grid: tuple[int, int]
    args: tuple[Any, ...]
    changing: tuple[int, ...]


def bind(device: torch.device, *calls: Call) -> Callable[..., None]:
    """Launches one after the other, with arguments packed once.

    The answer is called with the changing arguments of each launch, a tuple for each: numbers as
    they are, tensors as addresses; of a tuple the first field changes. Tensors among the other
    arguments have to outlive the calls. Every grid has one block or more. Stream and device are
    looked at once for all of them.
    """
    index = _index(device)
    queued, places = [], []
    for call in calls:
        check_blocks(call.grid[0])
        bound = Launch(call.name, call.kernel, index, call.args)
        places += bound.arguments.places(call.changing)
        queued.append((bound, (call.grid[0],), (call.grid[1],)))
    lock, stream = threading.Lock(), _Stream()

    def queue() -> None:
        for bound, blocks, threads in queued:
            bound.function(blocks, threads, bound.pointers, 0, stream)

    def run(*changes: tuple[Any, ...]) -> None:
        with lock:
            for (memory, at), value in zip(places, chain.from_iterable(changes), strict=True):
                memory[at] = value
            stream.ptr = current_stream(index)
            _on_device(index, queue)

    return run


class Launch:
    """A kernel on a device, and the memory that its arguments are read from.

    The driver copies arguments while it queues a kernel, so one buffer serves all launches. CuPy is
    given their addresses, which costs a sixth of giving it values.
    """

    def __init__(self, name: str, kernel: str, index: int, args: tuple[Any, ...]) -> None:
        self.function, self.index, self.stream = _function(name, kernel, index), index, _Stream()
        self.arguments = Arguments(args)
        pointer = importlib.import_module("cupy").cuda.function.CPointer
        self.pointers = tuple(map(pointer, self.arguments.addresses))
        self.lock = threading.Lock()

    def run(self, blocks: int, threads: int, args: tuple[Any, ...]) -> None:
        """Launch with these arguments."""
        with self.lock:
            self.arguments.pack(args)
            self._queue((blocks,), (threads,))

    def _queue(self, blocks: tuple[int], threads: tuple[int]) -> None:
        self.stream.ptr = current_stream(self.index)
        _on_device(
            self.index, lambda: self.function(blocks, threads, self.pointers, 0, self.stream)
        )


def _on_device(index: int, queue: Callable[[], None]) -> None:
    """Call `queue` with the device current, and its context made where this thread never had it."""
    entered = _entered()
    if index in entered and current_device() == index:
        queue()
        return
    with importlib.import_module("cupy").cuda.Device(index):
        queue()
    entered.add(index)


_launches: dict[tuple[str, int], Launch] = {}


class _Stream:
    """What CuPy reads of a stream."""

    __slots__ = ("ptr",)
    ptr: int


_thread = threading.local()


def _entered() -> set[int]:
    """The devices whose context this thread has made current before."""
    try:
        return _thread.devices
    except AttributeError:
        _thread.devices = set()
        return _thread.devices


def current_stream(index: int) -> int:
    """The address of torch's current stream on a device."""
    return torch._C._cuda_getCurrentRawStream(index)


def current_device() -> int:
    """The index of the device that is current in this thread."""
    return torch._C._cuda_getDevice()


def _index(device: torch.device) -> int:
    return current_device() if device.index is None else device.index


def check_blocks(blocks: int) -> None:
    """Raise HalutError if a grid cannot hold them."""
    if blocks > MAX_BLOCKS:
        raise HalutError(f"{blocks} blocks are more than a CUDA grid holds: split the rows")


@functools.cache
def _function(name: str, kernel: str, index: int) -> Any:
    return _module(name, index).get_function(kernel)


@functools.cache
def _module(name: str, index: int) -> Any:
    """kernels/cuda/NAME.cu, loaded on a device; a damaged file of the cache is made anew."""
    cupy = importlib.import_module("cupy")
    arch = cubin.architecture(torch.cuda.get_device_capability(index))
    with cupy.cuda.Device(index):
        try:
            return cupy.RawModule(path=str(cubin.cubin(name, arch))).module
        except cupy.cuda.driver.CUDADriverError as error:
            path = cubin.cubin(name, arch, fresh=True)
            logger.warning("%s was damaged (%s): compiled anew", path, error)
            return cupy.RawModule(path=str(path)).module


@functools.cache
def processors(device: torch.device) -> int:
    """Multiprocessors of the device: how many blocks it takes to fill it goes by them."""
    if device.type != "cuda":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count


def parts(tiles: int, rows: int, least: int, device: torch.device, most: int = 1 << 16) -> int:
    """Into how many runs of at least `least` rows to cut rows, so that tiles * runs fill it."""
    target = -(-8 * processors(device) // max(1, tiles))
    return max(1, min(target, -(-rows // least), most))
