"""Products of signs and magnitudes, as integers, against the signed INT8 product and float32."""

from __future__ import annotations

import torch

from halut.bench import inputs
from halut.bench.method import Method
from halut.bench.suites import Case
from halut.ops import sign_magnitude

ROUNDING = 1e-5
"""float32 sums are not exact beyond 2^24."""


def methods(case: Case) -> list[Method]:
    """All of x [N, D] int8 and weight [M, D] int8; torch's own integer product is the reference."""
    N, D, M = (case.shape[name] for name in ("N", "D", "M"))
    generator = inputs.generator(case)
    x, weight = (
        torch.randint(-128, 128, size, dtype=torch.int8, generator=generator)
        for size in ((N, D), (M, D))
    )
    reference = x.long() @ weight.long().T
    groups, columns = weight[None], weight.T
    floats = x.float(), columns.float()
    return [
        Method("ours", lambda: sign_magnitude(x, groups), reference),
        Method("int8", lambda: torch._int_mm(x, columns), reference),
        Method("float32", lambda: floats[0] @ floats[1], reference, ROUNDING),
    ]
