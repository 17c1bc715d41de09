"""Calls of every operation that has a CUDA kernel: odd shapes, every dtype, layout and tail.

Run against the torch implementation, on the CPU through the launch shim and on a GPU.
"""

from cuda_bits import add_bits
from cuda_case import CASES, Case, assert_alike, expected, on_gpu, run
from cuda_layers import add_layers
from cuda_products import add_products
from cuda_prototypes import add_prototypes
from cuda_tables import add_tables
from cuda_trees import add_convolutions, add_trees

__all__ = ["CASES", "Case", "assert_alike", "expected", "on_gpu", "run"]

if not CASES:
    add_tables()
    add_trees()
    add_convolutions()
    add_prototypes()
    add_layers()
    add_bits()
    add_products()
