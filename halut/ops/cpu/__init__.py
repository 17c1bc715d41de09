"""The compiled CPU kernels, registered beside the torch ones where the extension was built.

Without a compiler the package installs without them; the torch implementations take over, and the
log says so once. The kernels hold every operation once per instruction set ("CPU capability");
the best one this CPU can run is in use, unless HALUT_CPU_CAPABILITY or `use_cpu_capability` names
another.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from halut.errors import HalutError

logger = logging.getLogger(__name__)

REGISTERING = (
    *("bits", "conv", "finite", "layer", "lookup", "mxint8", "nearest", "pool"),
    *("sign_magnitude", "tree"),
)
"""Modules of this package that register implementations."""

VARIABLE = "HALUT_CPU_CAPABILITY"
"""Environment variable: the capability to start with, `torch` to leave the kernels out."""
OLD_VARIABLE = "HALUT_LEVEL"
"""Its name of version 0.1, which is still read, with a warning."""

missing: str | None = None
"""Why there are no compiled kernels; None where they are in use."""


def extension() -> ModuleType | None:
    """The extension halut._kernels, or None where it was not built."""
    global missing
    try:
        return importlib.import_module("halut._kernels")
    except ImportError as error:
        missing = str(error)
        logger.warning(
            "compiled CPU kernels are not available (%s): slower torch implementations run; "
            "install halut where a C++ compiler is on the path to have them",
            error,
        )
        return None


def register() -> None:
    """Register the kernels as the implementation `cpu` of their operations, if they are there.

    Raises HalutError if HALUT_CPU_CAPABILITY names what this CPU or build has not.
    """
    global missing
    variable = VARIABLE if VARIABLE in os.environ else OLD_VARIABLE
    capability = os.environ.get(variable, "")
    if capability and variable == OLD_VARIABLE:
        logger.warning("%s is now called %s: rename it", OLD_VARIABLE, VARIABLE)
    if capability == "torch":
        missing = f"{variable}=torch"
        return
    kernels = extension()
    if capability and (kernels is None or not kernels.use_level(capability)):
        choices = ", ".join((*cpu_capabilities(), "torch"))
        raise HalutError(f"{variable}={capability} is not available here; choose one of: {choices}")
    if kernels is not None:
        for name in REGISTERING:
            importlib.import_module(f"halut.ops.cpu.{name}")


def cpu_capabilities() -> tuple[str, ...]:
    """Instruction sets the kernels can run on here, the best one last; () without kernels."""
    return () if missing else tuple(importlib.import_module("halut._kernels").levels())


def cpu_capability() -> str | None:
    """The instruction set in use, None without kernels."""
    return None if missing else importlib.import_module("halut._kernels").level()


@contextmanager
def use_cpu_capability(name: str) -> Iterator[None]:
    """Within this context the kernels run on the instruction set `name`, in every thread.

    For tests and benchmarks: integer results are the same with every capability. Raises
    HalutError unless `cpu_capabilities()` holds the name.
    """
    if name not in cpu_capabilities():
        choices = ", ".join(cpu_capabilities()) or f"none, no compiled kernels ({missing})"
        raise HalutError(f"unknown CPU capability {name!r}; choose one of: {choices}")
    kernels = importlib.import_module("halut._kernels")
    before = kernels.level()
    kernels.use_level(name)
    try:
        yield
    finally:
        kernels.use_level(before)
