"""Builds kernels of kernels/cuda against shim.h and runs them in place of halut.ops.cuda.launch."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from halut.ops.cuda import cubin, launch
from halut.ops.cuda.arguments import Arguments

HERE = Path(__file__).parent
INCLUDE = f'#include "{HERE / "shim.h"}"'
FLAGS = "-std=c++17 -O1 -fPIC -ffp-contract=off -fno-strict-aliasing -Wno-unknown-pragmas"
RACES = "-DHALUT_RACES -fsanitize=thread,alignment"
SANITIZE = "-g1 -O0 -fsanitize=address,alignment -fno-sanitize-recover=all"
SCHEDULES = {"forward": 0, "reverse": 1, "shuffled": 2}


class KernelError(RuntimeError):
    """What the shim found: threads that never meet, a trap, a race, a misaligned access."""


def compiler() -> str | None:
    """The C++ compiler the shim is built by."""
    return shutil.which("g++") or shutil.which("clang++")


def barriers(name: str) -> list[int]:
    """The lines of the barriers of kernels/cuda/NAME.cu in what is built, in their order."""
    lines = [INCLUDE, *cubin.source(name).splitlines()]
    return [n for n, line in enumerate(lines, 1) if "__syncthreads();" in line.split("//")[0]]


def _compile(*arguments: str | Path, to: Path) -> None:
    command = [str(compiler()), *map(str, arguments), "-o", str(to)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr


class Shim:
    """Launches kernels on the CPU, in one schedule; `text` may change a source before it is built.

    `races` makes races in shared memory and misaligned accesses errors. `blocks` restricts a launch
    to some blocks of its grid.
    """

    def __init__(
        self,
        folder: Path,
        schedule: str = "forward",
        text: Callable[[str], str] | None = None,
        sanitize: bool = False,
        races: bool = False,
    ) -> None:
        self.folder, self.schedule = folder, schedule
        self.sanitize, self.races = sanitize, races
        self.text = text or (lambda source: source)
        self.libraries: dict[str, ctypes.CDLL] = {}
        self.launched: list[str] = []
        self.blocks: range | None = None

    def build(self, name: str) -> Path:
        """Compile kernels/cuda/NAME.cu; the shared library."""
        library = self.folder / f"{name}.so"
        if library.exists():
            return library
        file = self.folder / f"{name}.cpp"
        file.write_text(f"{INCLUDE}\n{self.text(cubin.source(name))}")
        expanded = subprocess.run(
            [str(compiler()), "-std=c++17", "-E", "-P", str(file)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        kernels = re.findall(r'extern "C"\s+(?:HALUT_GLOBAL\s+)?void\s+(\w+)\(', expanded)
        file.write_text(file.read_text() + "".join(f"LAUNCHER({each})\n" for each in kernels))
        flags = FLAGS.split() + (SANITIZE.split() if self.sanitize else [])
        partial, object_file = library.with_suffix(".part"), library.with_suffix(".o")
        # Linked without RACES: what the sanitizers' own libraries define, races.h does.
        _compile(*flags, *(RACES.split() if self.races else []), "-c", file, to=object_file)
        _compile(*flags, "-shared", object_file, to=partial)
        return partial.rename(library)

    def library(self, name: str) -> ctypes.CDLL:
        """The compiled source, built at its first use."""
        if name not in self.libraries:
            self.libraries[name] = ctypes.CDLL(str(self.build(name)))
        return self.libraries[name]

    def launch(
        self, name: str, kernel: str, device: torch.device, grid: tuple[int, int], *args: Any
    ) -> None:
        """In place of halut.ops.cuda.launch.launch."""
        blocks, threads = grid
        if blocks == 0:
            return
        launch.check_blocks(blocks)
        self.launched.append(kernel)
        library, packed = self.library(name), Arguments(args)
        sizes = (ctypes.c_int * 64)()
        count = getattr(library, f"sizes_{kernel}")(sizes)
        taken = list(sizes[:count])
        assert packed.sizes == taken, f"{kernel} takes {taken}, was given {packed.sizes}"
        addresses = (ctypes.c_void_p * count)(*packed.addresses)
        error = ctypes.create_string_buffer(512)
        some = self.blocks or range(blocks)
        failed = getattr(library, f"launch_{kernel}")(
            *(addresses, some.start, some.stop, threads, SCHEDULES[self.schedule], error)
        )
        if failed:
            raise KernelError(f"{kernel}: {error.value.decode()}")

    def bind(self, device: torch.device, *calls: Any) -> Callable[..., None]:
        """In place of halut.ops.cuda.launch.bind."""

        def run(*changes: tuple[Any, ...]) -> None:
            for call, values in zip(calls, changes, strict=True):
                changed = list(call.args)
                for i, value in zip(call.changing, values, strict=True):
                    old = call.args[i]
                    changed[i] = (value, *old[1:]) if isinstance(old, tuple) else value
                    if isinstance(old, np.int32):
                        changed[i] = np.int32(value)
                self.launch(call.name, call.kernel, device, call.grid, *changed)

        return run
