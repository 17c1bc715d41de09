"""The operators: look-up products, encoders and taps, as torch.library operators in `halut`."""

from halut.ops.accumulate import accumulate, scatter_add
from halut.ops.dispatch import forced, implementation, implementations
from halut.ops.tree import tree_encode, tree_matmul

__all__ = [
    "accumulate",
    "forced",
    "implementation",
    "implementations",
    "scatter_add",
    "tree_encode",
    "tree_matmul",
]
