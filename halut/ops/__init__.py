"""Look-up products, encoders and gathers as torch.library operators of the namespace `halut`."""

from halut.ops import cpu, cuda, flops
from halut.ops.core.dispatch import forced, implementation, implementations
from halut.ops.geometry import ConvGeometry
from halut.ops.integer.bit_planes import bit_planes
from halut.ops.integer.bit_product import bit_product
from halut.ops.integer.max_pool import max_pool
from halut.ops.integer.mean_pool import mean_pool
from halut.ops.integer.mxint8 import mxint8_dequantize
from halut.ops.integer.sign_magnitude import sign_magnitude
from halut.ops.layer.coded import code_layer
from halut.ops.layer.encoded import nearest_layer, pack_table, tree_layer
from halut.ops.lookup.accumulate import accumulate, scatter_add
from halut.ops.lookup.columns import columns_of
from halut.ops.lookup.conv import conv_taps, im2col
from halut.ops.lookup.identity import identity_gradient
from halut.ops.lookup.quantize import quantize
from halut.ops.nearest.carry import carry_gradient
from halut.ops.nearest.encode import nearest_encode, nearest_matmul
from halut.ops.tree.encode import tree_encode, tree_matmul
from halut.ops.tree.train import tree_train

__all__ = [
    "ConvGeometry",
    "accumulate",
    "bit_planes",
    "bit_product",
    "carry_gradient",
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
    "mxint8_dequantize",
    "nearest_encode",
    "nearest_layer",
    "nearest_matmul",
    "pack_table",
    "quantize",
    "scatter_add",
    "sign_magnitude",
    "tree_encode",
    "tree_layer",
    "tree_matmul",
    "tree_train",
]

cpu.register()
cuda.register()
flops.register()
