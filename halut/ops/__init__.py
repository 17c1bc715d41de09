"""The operators: look-up products, encoders and taps, as torch.library operators in `halut`."""

from halut.ops import cpu, cuda
from halut.ops.bit_planes import bit_planes
from halut.ops.bit_product import bit_product
from halut.ops.code_layer import code_layer
from halut.ops.columns import columns_of
from halut.ops.conv import ConvGeometry, conv_taps, im2col
from halut.ops.dispatch import forced, implementation, implementations
from halut.ops.identity import identity_gradient
from halut.ops.layer import nearest_layer, pack_table, tree_layer
from halut.ops.lookup import accumulate, scatter_add
from halut.ops.mean import mean_pool
from halut.ops.mxint8 import mxint8_dequantise
from halut.ops.nearest import nearest_encode, nearest_matmul
from halut.ops.pool import max_pool
from halut.ops.quantise import quantise
from halut.ops.relaxed import relaxed_matmul
from halut.ops.sign_magnitude import sign_magnitude
from halut.ops.tree import tree_encode, tree_matmul
from halut.ops.tree_train import tree_train

__all__ = [
    "ConvGeometry",
    "accumulate",
    "bit_planes",
    "bit_product",
    "code_layer",
    "columns_of",
    "conv_taps",
    "forced",
    "identity_gradient",
    "im2col",
    "implementation",
    "implementations",
    "max_pool",
    "mean_pool",
    "mxint8_dequantise",
    "nearest_encode",
    "nearest_layer",
    "nearest_matmul",
    "pack_table",
    "quantise",
    "relaxed_matmul",
    "scatter_add",
    "sign_magnitude",
    "tree_encode",
    "tree_layer",
    "tree_matmul",
    "tree_train",
]

cpu.register()
cuda.register()
