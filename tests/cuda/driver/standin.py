"""CuPy without a GPU: its own packing, symbol look-up and module loading, over a driver of ours.

CuPy's compiled modules call the CUDA driver through C functions that `cupy_backends` exports as
capsules. `Driver` replaces them before `import cupy` reads them, so that everything above
the driver is CuPy as it is. A launch hands on the addresses of its arguments, as a driver reads
them.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
_python = ctypes.pythonapi
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_python.PyCapsule_GetName.restype = ctypes.c_char_p
_python.PyCapsule_GetName.argtypes = [ctypes.py_object]


class Launched(NamedTuple):
    """One launch as the driver saw it."""

    kernel: str
    blocks: int
    threads: int
    stream: int
    device: int


class Driver:
    """The driver, of two devices of compute capability 9.0, and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        library = folder / "driver.so"
        include = sysconfig.get_path("include")
        built = ["gcc", "-O2", "-shared", "-fPIC", f"-I{include}", "-o", library, HERE / "driver.c"]
        subprocess.run(list(map(str, built)), check=True)
        self.library = ctypes.PyDLL(str(library))
        self.modules: list[bytes] = []
        self.functions: list[str] = []
        self.launched: list[Launched] = []
        self._held: list[Any] = []
        self._installed()

    def _installed(self) -> None:
        import cupy_backends.cuda.api.driver as driver
        import cupy_backends.cuda.api.runtime as runtime

        assert "cupy" not in sys.modules, "CuPy has read the capsules already"
        for name in (
            *("getDevice", "getDeviceCount", "driverGetVersion", "setDevice"),
            *("_ensure_context", "deviceGetAttribute"),
        ):
            self._replaced(runtime, name, getattr(self.library, f"halut_{name.lstrip('_')}"))
        for name in ("moduleLoad", "moduleGetFunction", "moduleUnload", "launchKernel"):
            self._replaced(driver, name, getattr(self.library, f"halut_{name}"))
        self.refused = driver.CUDADriverError.__new__(driver.CUDADriverError)
        self._answer(None)

    def _answer(self, launch: Callable[..., None] | None) -> None:
        self._held += [self._load, self._function, launch]
        self.library.halut_answer(*map(ctypes.py_object, self._held[-3:]))

    def _replaced(self, module: Any, name: str, function: Any) -> None:
        signature = ctypes.create_string_buffer(
            _python.PyCapsule_GetName(module.__pyx_capi__[name])
        )
        self._held += [signature, function]
        address = ctypes.cast(function, ctypes.c_void_p)
        module.__pyx_capi__[name] = _python.PyCapsule_New(address, signature, None)

    def _load(self, path: str) -> int:
        image = Path(path).read_bytes()
        if len(image) < 100:
            raise self.refused
        self.modules.append(image)
        return len(self.modules)

    def _function(self, module: int, name: str) -> int:
        if b"\0" + name.encode() + b"\0" not in self.modules[module - 1]:
            raise RuntimeError(f"no kernel {name} in the module")
        if name not in self.functions:
            self.functions.append(name)
        return self.functions.index(name) + 1

    def watch(self, run: Callable[[str, int, int, ctypes.c_void_p], None]) -> None:
        """Record launches from now on, and let run(kernel, blocks, threads, arguments) answer them;
        arguments: the address of an array of the addresses of arguments."""

        def launch(function: int, blocks: int, threads: int, stream: int, arguments: int) -> None:
            kernel, device = self.functions[function - 1], self.library.halut_getDevice(0)
            self.launched.append(Launched(kernel, blocks, threads, stream, device))
            run(kernel, blocks, threads, ctypes.c_void_p(arguments))

        self._answer(launch)

    @property
    def launches(self) -> int:
        """How many launches there were, watched or not."""
        return ctypes.c_long.in_dll(self.library, "halut_launches").value
