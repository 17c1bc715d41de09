"""Kernel arguments in the memory layout that the CUDA driver reads."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor


class Arguments:
    """One buffer for the arguments of a kernel, at fixed addresses.

    A tensor is its address and None 0 (64 bits), int has 64 bits, bool and np.int32 have 32, float
    is float32, a tuple of integers a struct of 64-bit fields. `pack` takes arguments of the same
    kinds as those this was made with. `addresses` and `sizes`: of every argument, in bytes.
    """

    def __init__(self, args: Sequence[Any]) -> None:
        self.formats = [_format(value) for value in args]
        self.layout = struct.Struct("@" + "".join(self.formats))
        self.buffer = bytearray(-(-self.layout.size // 8) * 8)
        self._memory = memoryview(self.buffer)
        self.offsets = [self._offset(i) for i in range(len(args))]
        self.sizes = [struct.calcsize("@" + each) for each in self.formats]
        start = np.frombuffer(self.buffer, dtype=np.uint8).ctypes.data
        self.addresses = [start + offset for offset in self.offsets]
        self.pack(args)

    def _offset(self, position: int) -> int:
        before, kind = self.formats[:position], self.formats[position][-1]
        return struct.calcsize("@" + "".join(before) + "0" + kind)  # "0q" only aligns

    def pack(self, args: Sequence[Any]) -> None:
        """Write all arguments."""
        values: list[Any] = []
        for value in args:
            if isinstance(value, Tensor):
                values.append(value.data_ptr())
            elif isinstance(value, tuple):
                values.extend(value)
            else:
                values.append(0 if value is None else value)
        self.layout.pack_into(self.buffer, 0, *values)

    def places(self, positions: Sequence[int]) -> list[tuple[Any, int]]:
        """(memory, index) of each of these arguments, of a struct its first field.

        memory[index] = value writes it, at a third of the price of struct's pack_into.
        """
        places = []
        for i in positions:
            kind: Any = self.formats[i][-1]
            places.append((self._memory.cast(kind), self.offsets[i] // struct.calcsize(kind)))
        return places


def _format(value: Any) -> str:
    """The struct module's letters for an argument."""
    if value is None or isinstance(value, Tensor):
        return "Q"
    if isinstance(value, bool | np.int32):
        return "i"
    if isinstance(value, int):
        return "q"
    if isinstance(value, float):
        return "f"
    if isinstance(value, tuple):
        return f"{len(value)}q"
    raise TypeError(f"a kernel takes no {type(value).__name__}")
