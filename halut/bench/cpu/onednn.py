"""oneDNN kernels in use, by its own log: its INT8 products are the baseline."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch

EXECUTED = r"exec,cpu,(convolution|matmul|inner_product),([^,]+),[^,]*,([^,]+)"


def kernels_of(run: Callable[[], Any]) -> list[str]:
    """oneDNN's own names of the kernels that `run` executes, with their types, as it tells them.

    Such as "convolution brg_conv_fwd:avx512_core_vnni u8 s8 u8". They are read from what oneDNN
    writes to the process's standard output, which is turned to a file meanwhile.
    """
    sys.stdout.flush()
    with tempfile.TemporaryFile() as file:
        before = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                run()
        finally:
            os.dup2(before, 1)
            os.close(before)
        file.seek(0)
        text = file.read().decode(errors="replace")
    kernels = []
    for kind, kernel, tensors in re.findall(EXECUTED, text):
        types = re.findall(r"(?:src|wei|dst):(\w+)", tensors)
        kernels.append(" ".join([kind, kernel, *types]))
    return list(dict.fromkeys(kernels))
