"""What `halut bench --device cuda` compares: tables with products on a GPU's own units.

The functions take the device, so that their answers can be checked without a GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from halut.bench import encode, inputs, network, train_step
from halut.bench.inputs import generator
from halut.bench.layer import forced
from halut.bench.method import Method
from halut.bench.precision import in_tf32
from halut.bench.products import one_hot_product
from halut.bench.suites import Case, conv, linear, lookups
from halut.inference import prepare
from halut.ops import accumulate

V = 9
"""Inputs per codebook of the exact products beside a look-up product: D = V * C."""

COPY_BYTES = 1 << 30
"""Bytes copied within the device to measure its bandwidth."""


def cases(models: list[str], size: list[int] | None, quick: bool) -> list[Case]:
    """Shapes that fill a GPU; `quick`: tiny ones."""
    n = 1 if quick else 64
    found = [
        Case("encode", "encode", conv(2 * n, 8 if quick else 64, 8 if quick else 32, 8), {"V": V}),
        Case("encode", "encode", linear(256 * n, 64 if quick else 768, 8), {"V": 8}),
    ]
    shapes = [(1024, 64, 128), (256, 256, 512), (64, 512, 4096)]
    found += [
        Case("accumulate", "accumulate", lookups(32, 8, 16) if quick else lookups(N * n, C, M))
        for N, C, M in shapes[: 1 if quick else 3]
    ]
    widths = [(4, 8)] if quick else [(64, 128), (128, 128), (256, 256)]
    found += [
        Case("train_step", "train_step", conv(2 * n, C, 8 if quick else 16, M), {"V": V})
        for C, M in widths
    ]
    for name in models or ["resnet8" if quick else "resnet18"]:
        case = network.case_of(name, size, quick)
        batch = case.shape["B"] if size or quick else 128
        found.append(Case("network", name, {**case.shape, "B": batch}))
    return found


def methods(case: Case, device: str) -> list[Method]:
    """The methods of one case on the device."""
    if case.op == "train_step":
        return training(case, device)
    with torch.no_grad():
        if case.op == "encode":
            return encode.methods(case, device)
        return products(case, device) if case.op == "accumulate" else whole(case, device)


def products(case: Case, device: str) -> list[Method]:
    """The look-up product, and the exact products [N, V C] x [V C, M] it stands for."""
    N, C, M, K = (case.shape[key] for key in ("N", "C", "M", "K"))
    drawn = generator(case)
    codes = torch.randint(K, (N, C), generator=drawn, dtype=torch.uint8).to(device)
    integer = torch.randint(-127, 128, (1, C, K, M), generator=drawn, dtype=torch.int8).to(device)
    entries = integer[0].float()
    run = forced("torch", lambda: accumulate(codes, integer))
    reference = run()
    one_hot = lambda: one_hot_product(codes, entries)  # noqa: E731
    found = [
        Method("ours", lambda: accumulate(codes, integer), reference),
        Method("ours_torch", run, reference),
        Method("one_hot_einsum", one_hot, reference.float(), 1e-4),
    ]
    x = torch.randint(-127, 128, (N, V * C), generator=drawn, dtype=torch.int8).to(device)
    w = torch.randint(-127, 128, (M, V * C), generator=drawn, dtype=torch.int8).to(device)
    return found + exact_products(x, w)


def exact_products(x: Tensor, w: Tensor) -> list[Method]:
    """x [N, D] times w [M, D] transposed, both int8, in every precision there is."""
    f, g = x.float() / 127, w.float() / 127
    h, k = f.half(), g.half()
    full = lambda: f @ g.t()  # noqa: E731
    reference = full()
    return [
        Method("float32", full),
        Method("tf32", in_tf32(full), reference, 1e-2),
        Method("float16", lambda: h @ k.t(), reference, 1e-2),
        # float32 sums round; the integer product does not.
        _int8_product(x, w, reference),
    ]


def _int8_product(x: Tensor, w: Tensor, reference: Tensor) -> Method:
    run: Callable[[], Tensor] = lambda: torch._int_mm(x, w.t())  # noqa: E731
    return Method("int8", run, reference, 1e-4, lambda: run().float() / 127**2)


def training(case: Case, device: str) -> list[Method]:
    """The step of train_step.py; the exact layer also in TF32 and by float16 autocast."""
    found = train_step.methods(case, device)
    exact = inputs.exact_layer(case).to(device)
    x = inputs.activations(case).to(device)
    plain = train_step.step(exact, x)
    reference = train_step.gradients(exact, x, plain)

    def half() -> Tensor:
        with torch.autocast(device, dtype=torch.float16 if device == "cuda" else torch.bfloat16):
            return plain()

    for name, run in (("exact_tf32", in_tf32(plain)), ("exact_float16", half)):
        answer = lambda run=run: train_step.gradients(exact, x, run)  # noqa: E731
        found.append(Method(name, run, reference, 0.05, answer))
    return found


def whole(case: Case, device: str) -> list[Method]:
    """A network in every precision, channels_last, and with tables."""
    exact, x = network.exact_network(case)
    tables = prepare(network.replaced_network(case), x[:1]).to(device)
    exact = prepare(exact, x[:1]).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    half, x = copy.deepcopy(exact).half(), x.to(device)
    half_tables, narrow = copy.deepcopy(tables).half(), x.half()
    by_pixel = x.contiguous(memory_format=torch.channels_last)
    narrow_by_pixel = narrow.contiguous(memory_format=torch.channels_last)
    slow = forced("torch", lambda: tables(x))
    reference, wanted = exact(by_pixel), slow()
    # float16 moves some inputs across thresholds: ours is held against itself in float16.
    rounded = forced("torch", lambda: half_tables(narrow))()
    full = lambda: exact(by_pixel)  # noqa: E731
    return [
        Method("ours", lambda: tables(x), wanted, network.OURS_ERROR),
        Method("ours_float16", lambda: half_tables(narrow), rounded, network.OURS_ERROR),
        Method("ours_torch", slow, wanted, network.OURS_ERROR),
        Method("float32", full, reference, 1e-3),
        Method("tf32", in_tf32(full), reference, 0.02),
        Method("float16", lambda: half(narrow_by_pixel), reference, 0.05),
    ]


def copying(device: str, count: int = COPY_BYTES) -> Callable[[], object]:
    """A copy of `count` bytes within the device: it reads and writes each once."""
    source = torch.empty(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def release(device: str) -> None:
    """Give back what the last case held."""
    network.replaced_network.cache_clear()
    network.exact_network.cache_clear()
    inputs.learned_layer.cache_clear()
    if device == "cuda":
        torch.cuda.empty_cache()
