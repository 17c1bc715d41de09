"""Methods of `halut bench --device cuda`: tables and products on a GPU's own units.

The functions take the device, so that their answers can be checked without a GPU.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from halut.bench import inputs, network
from halut.bench.cpu import train_step
from halut.bench.cpu.layer import forced
from halut.bench.cpu.table_parts import encode_methods
from halut.bench.cuda import layer
from halut.bench.cuda.floors import work
from halut.bench.cuda.precision import in_tf32
from halut.bench.cuda.products import V, products
from halut.bench.method import Method
from halut.bench.suites import RESNET18, Case, conv, linear, lookups
from halut.inference import prepare


def cases(models: list[str], size: list[int] | None, quick: bool) -> list[Case]:
    """Shapes that fill a GPU, and of few rows, for which launching counts; `quick`: tiny ones.

    What learns on the CPU comes last, whole networks at the end.
    """
    found = _quick() if quick else _full()
    for name in models or ["resnet8" if quick else "resnet18"]:
        case = network.case_of(name, size, quick)
        batch = case.shape["B"] if size or quick else 128
        found.append(Case("network", name, {**case.shape, "B": batch}))
    return found


def suites() -> list[str]:
    """Names that `--only` takes on a GPU: operations and suites, networks by `network`."""
    names = [(case.op, case.suite) for case in _full()]
    return list(dict.fromkeys([*(op for op, _ in names), "network", *(s for _, s in names)]))


def _full() -> list[Case]:
    many = [(65536, 64, 128), (16384, 256, 512), (4096, 512, 4096)]
    few = [(1, 96, 3072), (49, 512, 512), (197, 96, 3072), (1024, 64, 128)]
    all_cases = [Case("accumulate", "accumulate", lookups(*shape)) for shape in many]
    all_cases += [Case("accumulate", "accumulate_few", lookups(*shape)) for shape in few]
    for B in (128, 1):
        suite = f"resnet18_3x3_b{B}"
        all_cases += [Case("layer", suite, {**s, "B": B}, {"V": V}, n) for s, n in RESNET18]
    for images in (64, 1):
        for wide in (16, 8):
            shapes = [linear(197 * images, 768, 3072), linear(197 * images, 3072, 768)]
            suite = f"linear_v{wide}_b{images}"
            all_cases += [Case("layer", suite, s, {"V": wide}) for s in shapes]
    all_cases += [
        Case("encode", "encode", conv(128, 64, 32, 8), {"V": V}),
        Case("encode", "encode", linear(16384, 768, 8), {"V": 8}),
    ]
    widths = [(64, 128), (128, 128), (256, 256)]
    all_cases += [
        Case("train_step", "train_step", conv(128, C, 16, M), {"V": V}) for C, M in widths
    ]
    return all_cases


def _quick() -> list[Case]:
    return [
        Case("accumulate", "accumulate", lookups(32, 8, 16)),
        Case("accumulate", "accumulate_few", lookups(1, 8, 16)),
        Case("layer", "resnet18_3x3_b128", conv(2, 8, 6, 16), {"V": V}, 2),
        Case("layer", "resnet18_3x3_b1", conv(1, 8, 6, 16, 2), {"V": V}),
        Case("layer", "linear_v16_b64", linear(20, 64, 16), {"V": 16}),
        Case("layer", "linear_v8_b1", linear(9, 64, 16), {"V": 8}),
        Case("encode", "encode", conv(2, 8, 8, 8), {"V": V}),
        Case("encode", "encode", linear(256, 64, 8), {"V": 8}),
        Case("train_step", "train_step", conv(2, 4, 8, 8), {"V": V}),
    ]


def methods(case: Case, device: str) -> list[Method]:
    """The methods of one case on the device."""
    if case.op == "train_step":
        return training(case, device)
    with torch.no_grad():
        if case.op == "encode":
            return encoding(case, device)
        if case.op == "layer":
            return layer.methods(case, device)
        return products(case, device) if case.op == "accumulate" else whole(case, device)


def encoding(case: Case, device: str) -> list[Method]:
    """`encode_methods` on the device: every input is read, every code written."""
    candidates, x = encode_methods(case, device), inputs.activations(case)
    for method in candidates:
        assert method.reference is not None
        method.notes.update(work(x, method.reference))
    return candidates


def training(case: Case, device: str) -> list[Method]:
    """The step of train_step.py; the exact layer also in TF32 and by float16 autocast."""
    candidates = train_step.methods(case, device)
    exact = inputs.exact_layer(case).to(device)
    x = inputs.activations(case).to(device)
    plain = train_step.step(exact, x)
    reference = train_step.gradients(exact, x, plain)

    def half() -> Tensor:
        with torch.autocast(device, dtype=torch.float16 if device == "cuda" else torch.bfloat16):
            return plain()

    for name, run in (("exact_tf32", in_tf32(plain)), ("exact_float16", half)):
        answer = lambda run=run: train_step.gradients(exact, x, run)  # noqa: E731
        candidates.append(Method(name, run, reference, 0.05, answer))
    weights = [p for p in exact.parameters() if p.ndim > 1]
    y = plain().detach()
    # x, y, the weights and their gradients once each; y, dx and dw are products of one size.
    traffic, operations = [x, x, y, y, *exact.parameters(), *exact.parameters()], 6 * y.numel()
    for method in candidates:
        precision = _precision(method.name)
        count = operations * weights[0][0].numel() if precision else 0
        method.notes.update(work(*traffic, operations=count, precision=precision))
    return candidates


def _precision(method: str) -> str:
    """In which precision a step or a network computes its exact products; "" for ours."""
    if method.startswith("ours") or method == "one_hot_einsum":
        return ""
    return next(name for name in ("tf32", "float16", "float32") if name in method)


def whole(case: Case, device: str) -> list[Method]:
    """A network in every precision, channels_last, and with tables."""
    exact, x = network.exact_network(case)
    tables = prepare(network.replaced_network(case), x[:1]).to(device)
    exact = prepare(exact, x[:1]).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    half, x = copy.deepcopy(exact).half(), x.to(device)
    half_tables, narrow = copy.deepcopy(tables).half(), x.half()
    channels_last = x.contiguous(memory_format=torch.channels_last)
    narrow_channels_last = narrow.contiguous(memory_format=torch.channels_last)
    slow = forced("torch", lambda: tables(x))
    reference, table_output = exact(channels_last), slow()
    # float16 moves some inputs across thresholds: ours is held against itself in float16.
    rounded = forced("torch", lambda: half_tables(narrow))()
    full = lambda: exact(channels_last)  # noqa: E731
    wide, few = layer_work(exact, channels_last), layer_work(half, narrow_channels_last)
    candidates = [
        Method("ours", lambda: tables(x), table_output, network.OURS_ERROR),
        Method("ours_float16", lambda: half_tables(narrow), rounded, network.OURS_ERROR),
        Method("ours_torch", slow, table_output, network.OURS_ERROR),
        Method("float32", full, reference, 1e-3),
        Method("tf32", in_tf32(full), reference, 0.02),
        Method("float16", lambda: half(narrow_channels_last), reference, 0.05),
    ]
    for method in candidates:
        precision = _precision(method.name)
        notes = dict(few if "float16" in method.name else wide, precision=precision)
        if not precision:  # what is kept exact is less than all of it: none is counted
            parameters = tables if method.name != "ours_float16" else half_tables
            notes.update(operations=0, bytes=notes["values"] + _bytes(parameters))
        del notes["values"]
        method.notes.update(notes)
    return candidates


def layer_work(module: nn.Module, x: Tensor) -> dict[str, Any]:
    """`work` of a network that is run layer by layer: every convolution and product reads its
    input and writes its answer. `values`: those bytes without the weights."""
    values = operations = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        nonlocal values, operations
        assert isinstance(layer.weight, Tensor)
        values += inputs[0].nbytes + y.nbytes
        operations += 2 * y.numel() * layer.weight[0].numel()

    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        module(x)
    finally:
        for handle in handles:
            handle.remove()
    return {"bytes": values + _bytes(module), "values": values, "operations": operations}


def _bytes(module: nn.Module) -> int:
    return sum(value.nbytes for value in module.state_dict().values())


def release(device: str) -> None:
    """Give back what the last case held."""
    network.replaced_network.cache_clear()
    network.exact_network.cache_clear()
    inputs.learned_layer.cache_clear()
    if device == "cuda":
        torch.cuda.empty_cache()
