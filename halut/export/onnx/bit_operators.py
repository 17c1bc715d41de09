"""The bits of float32 by standard operators: what codecs make exponents of, exactly.

torch reads a float's bits as an integer, and back, by `x.view(torch.int32)`; ONNX has no such
operator in the opsets that runtimes have, nor one that shifts signed integers. Codecs read the bits
of magnitudes only, and write those of powers of two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, numpy_helper
from onnxscript import opset18 as op

LOWEST, COUNT = -126, 254
"""The least exponent of normal floats, and how many there are."""
MANTISSA = 2**23


def table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations of torch's operators, for torch.onnx."""
    return {
        torch.ops.aten.view.dtype: _reinterpreted,
        torch.ops.aten.__rshift__.Tensor: _shifted,
    }


def _reinterpreted(self: Any, dtype: int) -> Any:
    return _bits(self) if dtype == TensorProto.INT32 else _float(self)


def _shifted(self: Any, other: Any) -> Any:
    """self >> other of integers, for 0 <= other < 32: the floor of self / 2^other."""
    powers = op.Gather(_constant(2 ** np.arange(32), np.int64), other)
    wide = op.Cast(self, to=TensorProto.INT64)
    return op.CastLike(op.Div(op.Sub(wide, op.Mod(wide, powers)), powers), self)


def _constant(value: Any, dtype: Any) -> Any:
    return op.Constant(value=numpy_helper.from_array(np.asarray(value, dtype)))


def _powers(exponent: Any) -> Any:
    """2^exponent of exponents int64 in -126..127: looked up, as Pow may round."""
    every = np.ldexp(np.float32(1), np.arange(LOWEST, LOWEST + COUNT)).astype(np.float32)
    return op.Gather(_constant(every, np.float32), op.Sub(exponent, _constant(LOWEST, np.int64)))


def _clipped(exponent: Any) -> Any:
    low, high = _constant(LOWEST, np.int64), _constant(LOWEST + COUNT - 1, np.int64)
    return op.Max(op.Min(exponent, high), low)


def _bits(a: Any) -> Any:
    """Bits int32 of a >= 0: the logarithm says the exponent up to one, a comparison which."""
    tiny = _constant(np.finfo(np.float32).tiny, np.float32)
    normal = op.Max(a, tiny)
    guess = op.Floor(op.Div(op.Log(normal), _constant(np.log(2.0), np.float32)))
    exponent = _clipped(op.Cast(guess, to=TensorProto.INT64))
    below = op.Cast(op.Less(normal, _powers(exponent)), to=TensorProto.INT64)
    exponent = _clipped(op.Sub(exponent, below))
    fraction = op.Div(normal, _powers(exponent))  # exact, in [1, 4)
    above = op.GreaterOrEqual(fraction, _constant(2.0, np.float32))
    exponent = op.Add(exponent, op.Cast(above, to=TensorProto.INT64))
    fraction = op.Where(above, op.Div(fraction, _constant(2.0, np.float32)), fraction)
    biased = op.Add(exponent, _constant(127, np.int64))
    steps = op.Mul(op.Sub(fraction, _constant(1.0, np.float32)), _constant(MANTISSA, np.float32))
    bits = op.Add(
        op.Mul(biased, _constant(MANTISSA, np.int64)), op.Cast(steps, to=TensorProto.INT64)
    )
    unit = op.Mul(op.Div(a, tiny), _constant(MANTISSA, np.float32))
    subnormal = op.Cast(unit, to=TensorProto.INT64)
    return op.Cast(op.Where(op.Less(a, tiny), subnormal, bits), to=TensorProto.INT32)


def _float(bits: Any) -> Any:
    """The power of two float32 of bits int32 whose mantissa is zero."""
    biased = op.Div(op.Cast(bits, to=TensorProto.INT64), _constant(MANTISSA, np.int64))
    return _powers(_clipped(op.Sub(biased, _constant(127, np.int64))))
