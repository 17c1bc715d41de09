"""One call of an operation, its answers by an implementation, and how they are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halut.ops import ConvGeometry
from halut.ops.core import dispatch

WINDOW = ConvGeometry((3, 3), (2, 1), (1, 0, 2, 1), (1, 2))
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """One call: `make()` draws its arguments, on the CPU."""

    operation: str
    label: str
    make: Callable[[], tuple[Any, ...]]
    exact: bool = False

    def __str__(self) -> str:
        return f"{self.operation}-{self.label}"


CASES: list[Case] = []


def case(operation: str, label: str, make: Callable[[], tuple[Any, ...]], exact=False) -> None:
    """Add a case; its draws start from a seed of its own."""

    def seeded() -> tuple[Any, ...]:
        torch.manual_seed(sum(map(ord, operation + label)))
        return make()

    CASES.append(Case(operation, label, seeded, exact))


def run(case: Case, implementation: str, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The answers of one implementation, as a tuple."""
    (entry,) = dispatch._candidates(case.operation, "cuda", implementation)
    answer = entry.run(*arguments)
    return answer if isinstance(answer, tuple) else (answer,)


def expected(case: Case) -> tuple[Tensor, ...]:
    """The torch implementation's answers, on the CPU; gradients in float64, then rounded."""
    answers = run(case, "torch", case.make())
    if case.operation not in ("scatter_add", "tree_gradient", "nearest_gradient"):
        return answers
    wide = tuple(
        value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for value in case.make()
    )
    return tuple(
        exact.to(answer.dtype)
        for exact, answer in zip(run(case, "torch", wide), answers, strict=True)
    )


def assert_alike(case: Case, got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Equal bits where sums are integer or nothing is summed, close otherwise."""
    for ours, theirs in zip(got, expected, strict=True):
        ours = ours.cpu()
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.stride() == theirs.stride() or ours.numel() == 0
        if case.exact:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
            continue
        scale = theirs.double().nan_to_num().abs().max().item() if theirs.numel() else 0.0
        close = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(theirs.dtype, 3e-5)
        if case.operation == "nearest_gradient":
            close = max(close, 3e-4)  # scores of a hundred and more before the softmax
        bounds = {"rtol": close, "atol": close * max(scale, 1e-2)}
        torch.testing.assert_close(ours, theirs, **bounds, equal_nan=True)


def on_gpu(value: Any, shift: int = 0) -> Any:
    """A tensor's whole storage on the GPU, `shift` elements behind an aligned address, and the same
    view of it: `.cuda()` would make what is sliced dense."""
    if not isinstance(value, Tensor):
        return value
    whole = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage())
    moved = torch.empty(len(whole) + shift, dtype=value.dtype, device="cuda")
    moved[shift:].copy_(whole)
    return moved.as_strided(value.shape, value.stride(), value.storage_offset() + shift)


def image(layout: str, dtype: torch.dtype) -> Tensor:
    """A map of 3 images, 5 channels, 9 x 8 pixels, in a memory format or a strided view."""
    x = torch.randn(3, 5, 9, 8) if dtype.is_floating_point else torch.randint(-9, 9, (3, 5, 9, 8))
    x = x.to(dtype)
    if layout == "sliced":
        return x[:, :, ::2, 1:]
    return x.contiguous(memory_format=getattr(torch, layout))
