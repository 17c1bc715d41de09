"""Benchmark of look-up products on a GPU, beside exact products in every precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from halut.bench.cpu.layer import forced
from halut.bench.cpu.table_parts import one_hot_product
from halut.bench.cuda.floors import work
from halut.bench.cuda.precision import in_tf32
from halut.bench.inputs import generator
from halut.bench.method import Method
from halut.bench.suites import Case
from halut.ops import accumulate

V = 9
"""Inputs per codebook of the exact products beside a look-up product: D = V * C."""
MIN_ROWS = 17
"""Rows that torch._int_mm takes on a GPU at least."""


def products(case: Case, device: str) -> list[Method]:
    """The look-up product, and the exact products [N, V C] x [V C, M] it stands for."""
    N, C, M, K = (case.shape[key] for key in ("N", "C", "M", "K"))
    rng = generator(case)
    codes = torch.randint(K, (N, C), generator=rng, dtype=torch.uint8).to(device)
    integer = torch.randint(-127, 128, (1, C, K, M), generator=rng, dtype=torch.int8).to(device)
    entries = integer[0].float()
    run = forced("torch", lambda: accumulate(codes, integer))
    reference = run()
    one_hot = lambda: one_hot_product(codes, entries)  # noqa: E731
    notes, wide = work(codes, integer, reference), work(codes, entries, reference)
    wide.update(operations=2 * N * C * K * M, precision="float32")
    candidates = [
        Method("ours", lambda: accumulate(codes, integer), reference, notes=notes),
        Method("ours_torch", run, reference, notes=notes),
        Method("one_hot_einsum", one_hot, reference.float(), 1e-4, notes=wide),
    ]
    x = torch.randint(-127, 128, (N, V * C), generator=rng, dtype=torch.int8).to(device)
    w = torch.randint(-127, 128, (M, V * C), generator=rng, dtype=torch.int8).to(device)
    return candidates + exact_products(x, w)


def exact_products(x: Tensor, w: Tensor) -> list[Method]:
    """x [N, D] times w [M, D] transposed, both int8, in every precision there is."""
    f, g = x.float() / 127, w.float() / 127
    h, k = f.half(), g.half()
    full, half = lambda: f @ g.t(), lambda: h @ k.t()
    reference, operations = full(), 2 * x.numel() * w.shape[0]

    def notes(precision: str, *tensors: Tensor) -> dict[str, object]:
        return work(*tensors, operations=operations, precision=precision)

    return [
        Method("float32", full, notes=notes("float32", f, g, reference)),
        Method("tf32", in_tf32(full), reference, 1e-2, notes=notes("tf32", f, g, reference)),
        Method("float16", half, reference, 1e-2, notes=notes("float16", h, k, half())),
        *int8_product(x, w),
    ]


def int8_product(x: Tensor, w: Tensor) -> list[Method]:
    """torch._int_mm of x [N, D] and w [M, D], to int32 [N, M]; none where it takes no such shapes
    on a GPU."""
    if x.shape[0] < MIN_ROWS or x.shape[1] % 8 or w.shape[0] % 8:
        return []
    run: Callable[[], Tensor] = lambda: torch._int_mm(x, w.t())  # noqa: E731
    try:
        output = run()
    except RuntimeError:  # cuBLAS has no kernel for some shapes
        return []
    notes = work(x, w, output, operations=2 * x.numel() * w.shape[0], precision="int8")
    # float32 sums round; the integer product does not.
    return [Method("int8", run, x.float() @ w.float().t(), 1e-4, lambda: run().float(), notes)]
