"""What the kernels access: no races in shared memory, nothing misaligned at odd addresses.

The detector finds every barrier that is taken away.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from halut.ops.cuda import launch
from tests.cuda.compiled import SOURCES
from tests.cuda.cuda_cases import CASES, Case, assert_alike, expected, run
from tests.cuda.cuda_launches import covering, elements, launches
from tests.cuda.shim.runner import KernelError, Shim, barriers, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="the launch shim needs g++ or clang++")

HARMLESS = {
    ("tree_gradient", 4): "every block has rows, and the last barrier of their loop does as well",
}
"""(source, order): barriers that could go, one at a time, and why."""

WITH_BARRIERS = [source for source in SOURCES if barriers(source)]


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels built to find races lie."""
    return tmp_path_factory.mktemp("races")


@pytest.fixture
def racing(watched: Path, monkeypatch: pytest.MonkeyPatch) -> Shim:
    """Runs the kernels on the CPU; a race or a misaligned access is a KernelError."""
    shim = Shim(watched, races=True)
    monkeypatch.setattr(launch, "launch", shim.launch)
    monkeypatch.setattr(launch, "bind", shim.bind)
    return shim


def cases_of(source: str) -> list[Case]:
    """Those that launch a kernel of kernels/cuda/SOURCE.cu."""
    return [each for each in CASES if source in {name for name, _ in launches(each)}]


def race(cases: list[Case]) -> str:
    """What the detector says of the first case that races, or nothing."""
    for each in cases:
        try:
            run(each, "cuda", each.make())
        except KernelError as error:
            return f"{each}: {error}"
    return ""


@pytest.mark.parametrize("source", SOURCES)
def test_no_kernel_races(racing, source):
    assert race(cases_of(source)) == ""
    kernels = {kernel for each in cases_of(source) for _, kernel in launches(each)}
    assert kernels
    assert kernels <= set(racing.launched)


@pytest.mark.parametrize("source", WITH_BARRIERS)
def test_a_barrier_that_is_missing_is_found(racing, source):
    remove = racing.library(source).remove_barrier
    missed = set()
    for order, line in enumerate(barriers(source)):
        remove(line)
        try:
            if "a race" not in race(with_barriers(source)):
                missed.add((source, order))
        finally:
            remove(0)
    assert missed == {barrier for barrier in HARMLESS if barrier[0] == source}


def with_barriers(source: str) -> list[Case]:
    """Its cases but those of trees that a warp walks, which wait for nobody and take long."""
    warps = {("tree_gradient", f"tree_gradient_{depth}") for depth in (6, 7, 8)}
    return [each for each in cases_of(source) if not launches(each) & warps]


PROBES: dict[str, tuple[str, str]] = {  # a kernel of 64 threads, and the race that is found in it
    "own": ("held[t] = t; out[t] = held[t];", ""),
    "read_after_write": ("if (t == 0) held[9] = 1.f; out[t] = held[9];", "read after write"),
    "write_after_read": (
        "out[t] = held[9]; if (t == 63) held[9] = 1.f;",
        "write after read",
    ),
    "write_after_write": ("held[t / 2] = 1.f;", "write after write of held[0], thread 1 after 0"),
    "barrier": ("held[t] = t; __syncthreads(); out[t] = held[63 - t];", ""),
    "warp": ("held[t] = t; __syncwarp(); out[t] = held[t ^ 31];", ""),
    "other_warp": ("held[t] = t; __syncwarp(); out[t] = held[t ^ 32];", "read after write"),
    "warp_rewrites": (
        "out[t] = held[t / 32]; __syncwarp(); if (t == 40) held[1] = 1.f;",
        "",
    ),
    "shuffle": ("held[t] = t; __shfl_sync(~0u, 1.f, 0); out[t] = held[t ^ 31];", "read after"),
    "atomic": ("atomicAdd(held + t / 2, 1.f);", ""),
    "atomic_and_not": ("if (t < 9) atomicAdd(held, 1.f); else out[t] = *held;", "read after write"),
    "copy": ("COPY; copy_wait<0>(); __syncthreads(); out[t] = held[63 - t];", ""),
    "copy_not_waited_for": ("COPY; __syncthreads(); out[t] = held[63 - t];", "read after write"),
    "copy_read_by_its_own": ("COPY; out[t] = held[t];", "read after write"),
    "copy_waited_for_late": (
        "COPY; __syncthreads(); if (t == 9) out[t] = held[63]; __syncthreads(); copy_wait<0>();",
        "read after write of held[63], thread 9 after 63",
    ),
    "copy_over_what_is_read": ("out[t] = held[63]; if (t == 63) { COPY; }", "write after read"),
    "wide": ("reinterpret_cast<float4*>(held)[t % 16].w = t;", "write after write of held[3]"),
}


@pytest.fixture(scope="session")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Shim]:
    """A detector with all of PROBES in place of a source, built at once."""
    texts = ["#define COPY copy_async<4>(held + t, out + t, 4); copy_commit()"]
    for name, (body, _) in PROBES.items():
        texts.append(f'extern "C" __global__ void {name}(float* out) {{')
        texts.append(f"SHARED(float, held, 64); const int t = threadIdx.x; {body} }}")
    folder = tmp_path_factory.mktemp("probes")
    return lambda schedule: Shim(folder, schedule, lambda _: "\n".join(texts) + "\n", races=True)


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("schedule", ["forward", "reverse"])
def test_what_is_a_race(probes, name, schedule):
    out, (_, expected) = torch.zeros(64), PROBES[name]
    message = ""
    try:
        probes(schedule).launch("bit_planes", name, out.device, (2, 64), out)
    except KernelError as error:
        message = str(error)
    assert ("a race: " in message) == bool(expected)
    if schedule == "forward":
        assert expected in message


OFFSETS = range(17)
"""Elements behind an aligned address that tensors begin at."""

SEVERAL = ("accumulate", "code_layer", "scatter_add", "sign_magnitude", "mxint8_dequantize")
"""Operations whose kernels read several elements of an argument at once, where they may."""

SMALL = [each for each in CASES if each.operation in SEVERAL and elements(each) < 6000]


def shifted(value: Any, offset: int) -> Any:
    """A tensor `offset` elements behind a multiple of 64 bytes, under the same strides."""
    if not isinstance(value, torch.Tensor):
        return value
    whole = value.new_empty(0).set_(value.untyped_storage())
    memory = value.new_zeros(len(whole) + 64 + offset)
    start = offset + -memory.data_ptr() % 64 // value.element_size()
    memory[start : start + len(whole)] = whole
    return memory.as_strided(value.shape, value.stride(), start + value.storage_offset())


@pytest.mark.parametrize("each", SMALL, ids=str)
def test_tensors_may_begin_anywhere(racing, each):
    reference = expected(each)
    for offset in OFFSETS:
        arguments = tuple(shifted(value, offset) for value in each.make())
        assert_alike(each, run(each, "cuda", arguments), reference)
    for odd in range(len(each.make())):  # one tensor alone
        arguments = tuple(shifted(value, i == odd) for i, value in enumerate(each.make()))
        assert_alike(each, run(each, "cuda", arguments), reference)


@pytest.mark.parametrize("source", SOURCES)
def test_tensors_of_every_kernel_may_begin_anywhere(racing, source):
    for i, each in enumerate(covering(cases_of(source))):
        arguments = tuple(shifted(value, i % 16 + 1) for value in each.make())
        assert_alike(each, run(each, "cuda", arguments), expected(each))


def test_rows_and_addresses_of_all_alignments_are_reached():
    """accumulate.cu copies a table by 16, 4 or 1 bytes, as its address and its rows are aligned."""
    results = set()
    for each in SMALL:
        if any(name == "accumulate" and "direct" not in kernel for name, kernel in launches(each)):
            table = next(value for value in each.make() if getattr(value, "ndim", 0) == 4)
            size = table.element_size()
            row = table.shape[3] * size
            results |= {math.gcd(offset * size, row, 16) for offset in OFFSETS}
    assert results == {1, 2, 4, 8, 16}


def test_an_access_that_is_not_aligned_is_found(racing):
    codes, scales = torch.zeros(1, 64, dtype=torch.int8), torch.zeros(1, 2, dtype=torch.uint8)
    out = torch.zeros(1, 64)

    def launched(offset: int) -> None:
        arguments = (shifted(codes, offset), scales, out, 1, 64)
        racing.launch("mxint8", "mxint8_f32_4", out.device, (1, 256), *arguments)

    launched(0)
    launched(4)
    with pytest.raises(KernelError, match="at 1 bytes behind a multiple of 4"):
        launched(5)
