"""Which kernels a case launches, and few cases that launch all: known without running any."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import torch

from halut.ops.cuda import launch
from tests.cuda.cuda_case import Case, run

Launch = tuple[str, str]
"""(source, kernel)"""


@functools.cache
def launches(case: Case) -> frozenset[Launch]:
    """What a case launches. Which kernel runs goes by shapes, dtypes and addresses alone."""
    recorded: set[Launch] = set()

    def record(
        name: str, kernel: str, device: torch.device, grid: tuple[int, int], *args: Any
    ) -> None:
        if grid[0]:
            recorded.add((name, kernel))

    def bind(device: torch.device, *calls: launch.Call) -> Callable[..., None]:
        return lambda *changes: [record(c.name, c.kernel, device, c.grid) for c in calls]

    with mock.patch.multiple(launch, launch=record, bind=bind):
        run(case, "cuda", case.make())
    return frozenset(recorded)


def covering(cases: Iterable[Case]) -> list[Case]:
    """Cases that together launch every kernel which any of them does, the largest first: in those
    of a row or two nobody waits for anybody."""
    cover, reached = [], set[Launch]()
    for case in sorted(cases, key=elements, reverse=True):
        if not launches(case) <= reached:
            cover.append(case)
            reached |= launches(case)
    return cover


def elements(case: Case) -> int:
    """Of a case's tensors."""
    return sum(value.numel() for value in case.make() if isinstance(value, torch.Tensor))
