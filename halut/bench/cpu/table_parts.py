"""The parts of a table layer alone: encoding, and the look-up product of codes and a table."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.bench import inputs
from halut.bench.cpu.layer import forced
from halut.bench.inputs import generator
from halut.bench.method import Method
from halut.bench.suites import Case
from halut.ops import accumulate, cpu, pack_table
from halut.ops.core import dispatch

MAX_GATHER_NUMEL = 1 << 26
"""Elements N * C * M up to which a gather of all entries is timed (256 MB of float32)."""
MAX_ONE_HOT_NUMEL = 1 << 29
"""Multiply-adds N * C * K * M up to which the one-hot product is timed."""


def encode_methods(case: Case, device: str = "cpu") -> list[Method]:
    """Ours from contiguous and channels_last inputs, and by torch's own operators."""
    layer = copy.deepcopy(inputs.learned_layer(case)).requires_grad_(False).to(device)
    x = inputs.activations(case).to(device)

    slow = forced("torch", lambda: layer.codes(x))
    reference = slow()
    found = [Method("ours", lambda: layer.codes(x), reference)]
    if x.ndim == 4:
        channels_last = x.contiguous(memory_format=torch.channels_last)
        found.append(Method("ours_channels_last", lambda: layer.codes(channels_last), reference))
    if dispatch.implementations(device)["tree_encode"] != "torch":
        found.append(Method("ours_torch", slow, reference))
    return found


def lookup_methods(case: Case) -> list[Method]:
    """Ours in int8; embedding_bag, gather and one-hot products in floats."""
    N, C, M, K = (case.shape[key] for key in ("N", "C", "M", "K"))
    drawn = generator(case)
    codes = torch.randint(K, (N, C), generator=drawn, dtype=torch.uint8)
    table = torch.randn(1, C, K, M, generator=drawn).mul(40).round().clamp(-127, 127)
    integer, entries = table.to(torch.int8), table[0]
    with dispatch.forced("torch"):
        reference = accumulate(codes, integer)
    found = [Method("ours", lambda: accumulate(codes, integer), reference)]
    if dispatch.implementations()["accumulate"] != "torch":
        run = forced("torch", lambda: accumulate(codes, integer))
        found.append(Method("ours_torch", run, reference))
    if cpu.cpu_capability() is not None:
        found.append(kernel_alone(codes, integer, reference))
    found += _bags(codes, entries, reference)
    if N * C * M <= MAX_GATHER_NUMEL:
        which = torch.arange(C)
        index = codes.long()
        found.append(
            Method("gather_float32", lambda: entries[which, index].sum(1), reference.float(), 1e-5)
        )
    if N * C * K * M <= MAX_ONE_HOT_NUMEL:
        run = lambda: one_hot_product(codes, entries)  # noqa: E731
        found.append(Method("one_hot_einsum", run, reference.float(), 1e-5))
    return found


def kernel_alone(codes: Tensor, table: Tensor, reference: Tensor) -> Method:
    """The look-ups of an inference layer: codes and table packed, sums computed, none written."""
    from halut import _kernels  # type: ignore[attr-defined]

    (N, C), M = codes.shape, table.shape[3]
    # On a cache line, as the layer's own are; the store behind must outlive the addresses.
    size = _kernels.packed_code_bytes(N, C)
    store = torch.empty(size + 64, dtype=torch.uint8)
    packed_codes = store[-store.data_ptr() % 64 :][:size]
    packed, sums = pack_table(table), torch.empty(N, M, dtype=torch.int32)
    _kernels.pack_codes(codes.data_ptr(), packed_codes.data_ptr(), N, C)

    def look_up(out: int = 0) -> None:
        _kernels.look_up(packed_codes.data_ptr(), packed.data_ptr(), out, N, C, M)

    def answer() -> Tensor:
        look_up(sums.data_ptr())
        return sums

    return Method("ours_kernel", look_up, reference, answer=answer)


def one_hot_product(codes: Tensor, table: Tensor) -> Tensor:
    """The published training code's product: codes as one-hot floats, times the table."""
    return torch.einsum("nck,ckm->nm", F.one_hot(codes.long(), table.shape[1]).to(table), table)


def _bags(codes: Tensor, table: Tensor, reference: Tensor) -> list[Method]:
    """embedding_bag over rows of floats; the indices it needs are built beforehand."""
    C, K, M = table.shape
    rows = codes.int() + torch.arange(0, C * K, K, dtype=torch.int32)
    candidates = []
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 1e-2)):
        weight = table.reshape(C * K, M).to(dtype)
        name = f"embedding_bag_{str(dtype).removeprefix('torch.')}"

        def run(weight: Tensor = weight) -> Tensor:
            return F.embedding_bag(rows, weight, mode="sum")

        candidates.append(Method(name, run, reference.float(), tolerance))
    return candidates
