"""Calls of every operation that has a CUDA kernel: odd shapes, every dtype, layout and tail.

Run against the torch implementation, on the CPU through the launch shim and on a GPU.
"""

from tests.cuda.cuda_bits import add_bits
from tests.cuda.cuda_case import CASES, Case, assert_alike, expected, on_gpu, run
from tests.cuda.cuda_layers import add_layers
from tests.cuda.cuda_products import add_products
from tests.cuda.cuda_prototypes import add_prototypes
from tests.cuda.cuda_tables import add_tables
from tests.cuda.cuda_trees import add_convolutions, add_trees

__all__ = ["CASES", "Case", "assert_alike", "expected", "on_gpu", "run"]

if not CASES:
    add_tables()
    add_trees()
    add_convolutions()
    add_prototypes()
    add_layers()
    add_bits()
    add_products()
