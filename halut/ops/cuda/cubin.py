"""Binaries of kernels/cuda: compiled by NVRTC with our options, kept in a cache of files.

CuPy would compile the text itself, but appends `-ftz=true` to any options (CuPy 14), and the last
one wins: subnormal numbers would become zeros, on the GPU alone. So the text is compiled here and
CuPy loads the result. NVRTC needs neither a GPU nor the CUDA toolkit: the sources include nothing.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib
import os
import tempfile
from pathlib import Path
from typing import Any

from halut.errors import HalutError
from halut.io import write_bytes

FOLDERS = (
    Path(__file__).parents[2] / "kernels" / "cuda",  # installed
    Path(__file__).parents[3] / "kernels" / "cuda",  # a checkout
)
OPTIONS = ("--std=c++17", "--ftz=false", "--prec-div=true", "--prec-sqrt=true", "-default-device")
"""What every kernel is compiled with; the last is for lambdas, which carry no `__device__`."""


def folder() -> Path:
    """Where the sources lie. Raises HalutError if they are nowhere."""
    for path in FOLDERS:
        if (path / "device.cuh").is_file():
            return path
    raise HalutError(f"no CUDA sources in any of: {', '.join(map(str, FOLDERS))}")


@functools.cache
def source(name: str) -> str:
    """kernels/cuda/NAME.cu with what it includes in place, so that its hash covers all of it."""
    lines = []
    for line in (folder() / f"{name}.cu").read_text().splitlines():
        if line.startswith('#include "'):
            header = folder() / line.split('"')[1]
            lines += [text for text in header.read_text().splitlines() if text != "#pragma once"]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def nvrtc() -> Any:
    """CuPy's binding of NVRTC. Raises ImportError without CuPy or the library."""
    return importlib.import_module("cupy").cuda.nvrtc


def architecture(capability: tuple[int, int]) -> str:
    """The architecture to compile for a GPU of this compute capability: its own, `sm_90`, or for a
    GPU that is younger than NVRTC the newest it knows as PTX, `compute_90`, which the driver
    translates. Raises HalutError for one older than all."""
    major, minor = capability
    compute_capability = 10 * major + minor
    supported = sorted(nvrtc().getSupportedArchs())
    if compute_capability in supported:
        return f"sm_{compute_capability}"
    older = [each for each in supported if each < compute_capability]
    if not older:
        raise HalutError(
            f"NVRTC {version()} compiles for compute capability {supported[0] / 10} and above, "
            f"the GPU has {major}.{minor}: halut.ops.forced('torch') runs without kernels"
        )
    return f"compute_{older[-1]}"


def version() -> str:
    """NVRTC's version, as 13.0."""
    return ".".join(map(str, nvrtc().getVersion()))


def compile_source(name: str, arch: str, extra: tuple[str, ...] = ()) -> tuple[bytes, str]:
    """(the binary of kernels/cuda/NAME.cu for `sm_XX`, or PTX for `compute_XX`, and the log).

    `extra` options come after OPTIONS. Raises HalutError with the compiler's own text.
    """
    library = nvrtc()
    program = library.createProgram(source(name), f"{name}.cu", (), ())
    try:
        try:
            library.compileProgram(program, (*OPTIONS, f"-arch={arch}", *extra))
        except library.NVRTCError as error:
            log = library.getProgramLog(program).replace("\0", "").strip()
            raise HalutError(
                f"kernels/cuda/{name}.cu does not compile for {arch}: {log or error}"
            ) from error
        log = library.getProgramLog(program).replace("\0", "")
        if arch.startswith("compute"):
            text = library.getPTX(program)
            return text if isinstance(text, bytes) else text.encode(), log
        return library.getCUBIN(program), log
    finally:
        library.destroyProgram(program)


def cubin(name: str, arch: str, fresh: bool = False) -> Path:
    """The file of the binary: found by a hash of text, options, architecture and NVRTC's version,
    or compiled (0.1 to 3 s) and written atomically. `fresh`: compiled in any case."""
    parts = (source(name), *OPTIONS, arch, version())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    suffix = "ptx" if arch.startswith("compute") else "cubin"
    path = cache_folder() / f"{name}-{arch}-{key}.{suffix}"
    if fresh or not path.is_file():
        write_bytes(path, compile_source(name, arch)[0])
    return path


@functools.cache
def cache_folder() -> Path:
    """$XDG_CACHE_HOME/halut/cubin, or ~/.cache/halut/cubin; a temporary folder where neither can
    be written."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    path = Path(home) / "halut" / "cubin"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except (OSError, RuntimeError):
        temporary = tempfile.TemporaryDirectory(prefix="halut-cubin-")
        atexit.register(temporary.cleanup)
        return Path(temporary.name)
