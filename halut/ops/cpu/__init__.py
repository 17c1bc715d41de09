"""The compiled CPU kernels, registered beside the torch ones where the extension was built.

Without a compiler the package installs without them; the torch implementations take over, and the
log says so once.
"""

from __future__ import annotations

import importlib
import logging
from types import ModuleType

logger = logging.getLogger(__name__)

REGISTERING = ("lookup",)
"""Modules of this package that register implementations."""


def extension() -> ModuleType | None:
    """The extension halut._kernels, or None where it was not built."""
    try:
        return importlib.import_module("halut._kernels")
    except ImportError as error:
        logger.warning(
            "compiled CPU kernels are not available (%s): slower torch implementations run; "
            "install halut where a C++ compiler is on the path to have them",
            error,
        )
        return None


def register() -> None:
    """Register the kernels as the implementation `cpu` of their operations, if they are there."""
    if extension() is not None:
        for name in REGISTERING:
            importlib.import_module(f"halut.ops.cpu.{name}")
