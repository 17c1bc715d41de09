"""The compiled CPU kernels, registered beside the torch ones where the extension was built.

Without a compiler the package installs without them; the torch implementations take over, and the
log says so once. The kernels hold every operation once per instruction set ("level"); the best one
this CPU can run is in use, unless the variable HALUT_LEVEL or `use_level` names another.
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

VARIABLE = "HALUT_LEVEL"
"""Environment variable: the level to start with, or `torch` to leave the kernels out."""

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

    Raises HalutError if HALUT_LEVEL names a level that this CPU or build has not.
    """
    global missing
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "torch":
        missing = f"{VARIABLE}=torch"
        return
    kernels = extension()
    if wanted and (kernels is None or not kernels.use_level(wanted)):
        known = ", ".join((*levels(), "torch"))
        raise HalutError(f"{VARIABLE}={wanted} is not available here; choose one of: {known}")
    if kernels is not None:
        for name in REGISTERING:
            importlib.import_module(f"halut.ops.cpu.{name}")


def levels() -> tuple[str, ...]:
    """Instruction sets the kernels can run on here, the best one last; () without kernels."""
    return () if missing else tuple(importlib.import_module("halut._kernels").levels())


def level() -> str | None:
    """The instruction set in use, None without kernels."""
    return None if missing else importlib.import_module("halut._kernels").level()


@contextmanager
def use_level(name: str) -> Iterator[None]:
    """Within this context the kernels run on the instruction set `name`, in every thread.

    For tests and benchmarks: integer results are the same at every level. Raises HalutError
    unless `levels()` holds the name.
    """
    if name not in levels():
        known = ", ".join(levels()) or f"none, there are no compiled kernels ({missing})"
        raise HalutError(f"unknown level {name!r}; choose one of: {known}")
    kernels = importlib.import_module("halut._kernels")
    before = kernels.level()
    kernels.use_level(name)
    try:
        yield
    finally:
        kernels.use_level(before)
