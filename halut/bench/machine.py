"""Description of the machine a benchmark ran on."""

from __future__ import annotations

import functools
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from halut import __version__
from halut.ops import cpu, status


@functools.cache
def cpu_fields() -> dict[str, str]:
    """The first processor's fields of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def cpu_model() -> str:
    """The processor's name as it gives it."""
    return cpu_fields().get("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Instruction sets by Linux' names."""
    return frozenset(cpu_fields().get("flags", "").split())


def slug(name: str) -> str:
    """A name as part of a file's: lower case words and numbers joined by hyphens."""
    name = re.sub(r"\((r|tm)\)|@.*", " ", name.lower())
    return "-".join(re.findall(r"[a-z0-9.]+", name)) or "unknown"


def describe() -> dict[str, Any]:
    """Processor, versions and kernels."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "level": cpu.cpu_capability(),
        "amx": "amx_int8" in cpu_flags(),
        "kernels": status.kernels(),
        "halut": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
