"""float32 matrix product precision of a GPU: full, or TF32 on tensor cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Answer = TypeVar("Answer")


def use_tf32(allowed: bool) -> None:
    """Let float32 products and convolutions of this process round their inputs to TF32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def in_tf32(run: Callable[[], Answer]) -> Callable[[], Answer]:
    """`run` with TF32 for its time."""

    def inside() -> Answer:
        use_tf32(True)
        try:
            return run()
        finally:
            use_tf32(False)

    return inside
