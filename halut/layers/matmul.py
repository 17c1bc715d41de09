"""Stand-alone matrix product by look-up tables: learn from rows offline, multiply online."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from halut.configs import TableConfig
from halut.encoders import Encoder, check_rows, encoders
from halut.errors import HalutError
from halut.ops.blocks import Blocks
from halut.ops.lookup.accumulate import accumulate
from halut.ops.power_of_two import unit_of
from halut.ops.table_quantization import QuantizedTable, check_options, quantize_table
from halut.prototypes.ridge import check_lam, refine

Array = TypeVar("Array", np.ndarray, Tensor)


class HalutMatmul:
    """A @ B for a fixed B [D, M], with C codebooks of K prototypes learned from rows like A.

    Options with residual codebooks have C of them per stage.

    >>> product = HalutMatmul(C=32, K=16)
    >>> product.learn_offline(A_train, B)
    >>> Y = product.matmul_online(A_test)  # [N, M], about A_test @ B

    encoder: a name of halut.encoders, with its options; lam: the table's ridge regression
    (halut.prototypes.ridge.refine); bits: 2..8 for integer tables and sums, None for float32.
    Takes and returns numpy arrays or torch tensors (what goes in comes out, in A's dtype if that
    is floating, else float32). Raises HalutError on options, shapes or values that cannot be.
    """

    def __init__(
        self,
        C: int,
        K: int = 16,
        encoder: str = "tree",
        options: TableConfig | None = None,
        *,
        lam: float | str | None = 1.0,
        bits: int | None = None,
        seed: int = 0,
    ) -> None:
        if C < 1:
            raise HalutError(f"C must be at least 1, got {C}")
        # Refuses what no number of inputs can mend.
        encoders[encoder](Blocks(C, C * stages_of(options), 1, stages_of(options)), K, options)
        check_lam(lam)
        if bits is not None:
            check_options(bits, "channel")
        self.C, self.K, self.options = C, K, options
        self.lam, self.bits, self.seed = lam, bits, seed
        self.encoder_name = encoder
        self.encoder: Encoder | None = None
        self.lut: Tensor | None = None  # [1, C, K, M] float32
        self.table: QuantizedTable | None = None

    def learn_offline(self, A: Array, B: Array) -> None:
        """Learn the encoder from rows A [N, D], and the table for B [D, M]."""
        rows, weight = _tensor("A", A), _tensor("B", B).T.contiguous()
        if weight.shape[1] != rows.shape[1] or 0 in weight.shape:
            shapes = f"A {list(A.shape)} and B {list(B.shape)}"
            raise HalutError(f"{shapes} do not multiply: A must be [N, D] and B [D, M]")
        check_rows(rows, rows.shape[1])
        if not bool(torch.isfinite(weight).all()):
            raise HalutError("B holds NaN or infinite values")
        stages = stages_of(self.options)
        blocks = Blocks(rows.shape[1], self.C * stages, 1, stages)
        encoder = encoders[self.encoder_name](blocks, self.K, self.options).to(rows.device)
        encoder.unit.fill_(unit_of(float(rows.abs().max())))
        if encoder.transform is not None:
            encoder.transform.learn(encoder.in_units(rows))
        rows, weight = encoder.transformed(rows), encoder.transformed_weight(weight)
        prototypes = encoder.calibrate_codebooks(rows, weight, seed=self.seed)
        self.lut = encoder.times_unit(
            refine(encoder.codes(rows), prototypes, rows, weight, self.lam, stages)
        )
        self.table = None if self.bits is None else quantize_table(self.lut, self.bits)
        self.encoder = encoder

    @torch.no_grad()
    def matmul_online(self, A: Array) -> Array:
        """[N, M]: encode the rows A [N, D], look up, add."""
        if self.encoder is None or self.lut is None:
            raise HalutError("HalutMatmul: call learn_offline(A, B) before matmul_online(A)")
        rows = _tensor("A", A)
        check_rows(rows, self.encoder.blocks.D)
        encoder = self.encoder.to(rows.device)
        codes = encoder.codes(encoder.transformed(rows))
        if self.table is None:
            y = accumulate(codes, self.lut.to(rows.device))
        else:
            sums = accumulate(codes, self.table.q.to(rows.device, torch.int8))
            scale, bias = self.table.output_scale(), self.table.folded_bias()
            y = sums * scale.to(rows.device) + bias.to(rows.device)
        return _like(y, A)

    def stats(self, A: Array, B: Array) -> dict[str, float]:
        """Errors of matmul_online(A) against A @ B, over all entries.

        mae and mse in units of the product; normalized_mse = sum of squared errors over the sum of
        squares of A @ B; cosine of the two as vectors.
        """
        approximate = _tensor("Y", self.matmul_online(A)).double()
        exact = _tensor("A", A).double() @ _tensor("B", B).double()
        if exact.shape != approximate.shape:
            shapes = f"{list(exact.shape)}, the product learned {list(approximate.shape)}"
            raise HalutError(f"A @ B is {shapes}")
        error = approximate - exact
        power = float(exact.square().sum())
        norms = float(exact.norm() * approximate.norm())
        return {
            "mae": float(error.abs().mean()),
            "mse": float(error.square().mean()),
            "normalized_mse": float(error.square().sum()) / power if power else float("nan"),
            "cosine": float((exact * approximate).sum()) / norms if norms else float("nan"),
        }


def stages_of(options: TableConfig | None) -> int:
    """Codebooks of every block."""
    return 1 if options is None else options.stages


def _tensor(name: str, array: np.ndarray | Tensor) -> Tensor:
    tensor = torch.as_tensor(array).detach()
    if tensor.ndim != 2:
        raise HalutError(f"{name} must be a matrix, got shape {list(tensor.shape)}")
    return tensor.to(torch.float32)


def _like(y: Tensor, A: Array) -> Array:
    if isinstance(A, np.ndarray):
        y_numpy = y.cpu().numpy()
        return y_numpy.astype(A.dtype) if np.issubdtype(A.dtype, np.floating) else y_numpy
    return y.to(A.dtype) if A.is_floating_point() else y
