"""Runtimes of a prepared network: eager or compiled, with plain or fused attention.

The first call is timed apart from warm ones: compiling takes seconds, and happens there.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from halut.analysis.timing import interleaved
from halut.errors import HalutError
from halut.inference import prepare

MODES = ("none", "eager", "compile")
ATTENTION = ("math", "fused")
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]


@dataclass(frozen=True)
class Way:
    """One way to run; attention None: as the network has it."""

    mode: str
    attention: str | None = None

    def __str__(self) -> str:
        return self.mode if self.attention is None else f"{self.mode}, {self.attention} attention"


def ways(mode: str, attention: str | None) -> list[Way]:
    """What is measured for a chosen way, plainest first: what differs in one thing lies between."""
    plain = Way("eager", None if attention is None else "math")
    return list(dict.fromkeys([plain, Way("eager", attention), Way(mode, attention)]))


def compare(
    network: nn.Module,
    selected_ways: list[Way],
    shape: list[int],
    batch: int,
    draws: int,
    rounds: int,
) -> dict[str, Any]:
    """First-call and median warm milliseconds of every way, and its distance from the first one's.

    `network` is not changed; it is prepared anew for each way of attention, and runs on the CPU.
    Distances are the largest |y - y'| over `draws` random inputs [batch, *shape], and the same over
    the largest |y'|. Raises HalutError where a way cannot run.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(batch, *shape, generator=generator) for _ in range(draws)]
    runs = {str(way): runner(network.cpu(), way, inputs[0]) for way in selected_ways}
    first, answers = {}, {}
    for name, run in runs.items():
        begun = time.perf_counter()
        run(inputs[0])
        first[name] = 1e3 * (time.perf_counter() - begun)
        answers[name] = torch.stack([run(x) for x in inputs]).double()
    calls = {name: functools.partial(run, inputs[0]) for name, run in runs.items()}
    warm = interleaved(calls, rounds)
    plain = answers[str(selected_ways[0])]
    largest = max(float(plain.abs().max()), 1e-30)
    far = {name: float((y - plain).abs().max()) for name, y in answers.items()}
    return {
        "batch": batch,
        "inputs": draws,
        "threads": torch.get_num_threads(),
        "ways": {
            name: {
                "first_ms": first[name],
                "warm_ms": 1e3 * warm[name].median,
                "spread": warm[name].spread,
                "difference": far[name],
                "relative_difference": far[name] / largest,
            }
            for name in runs
        },
    }


def runner(network: nn.Module, way: Way, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The prepared network as a function, run that way, without gradients."""
    ready = copy.deepcopy(network)
    if way.attention is not None:
        set_attention(ready, way.attention)
    ready = prepare(ready, x)
    run = torch.compile(ready) if way.mode == "compile" else ready

    def call(x: Tensor) -> Tensor:
        try:
            with torch.no_grad(), _kernels(way.attention):
                return run(x)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise HalutError(f"runtime: {way} does not run here: {reason}") from error

    return call


def set_attention(network: nn.Module, attention: str) -> None:
    """Make every module that has the choice, as timm's attention does, take that way.

    What always calls scaled_dot_product_attention is told by its context instead, see `runner`.
    Raises HalutError if the network has no attention.
    """
    modules = [m for m in network.modules() if hasattr(m, "fused_attn")]
    if not modules and not any(isinstance(m, nn.MultiheadAttention) for m in network.modules()):
        raise HalutError(
            f"runtime.attention={attention}: the network has no attention, of timm or of torch"
        )
    for module in modules:
        module.fused_attn = attention == "fused"  # type: ignore[assignment]


def _kernels(attention: str | None) -> contextlib.AbstractContextManager[None]:
    if attention is None:
        return contextlib.nullcontext()
    return sdpa_kernel([SDPBackend.MATH] if attention == "math" else FUSED)


def runtime_lines(figures: dict[str, Any], tolerance: float) -> list[str]:
    """A line for every way."""
    return [
        f"runtime {name}: first call {way['first_ms']:.3g} ms, warm {way['warm_ms']:.3g} ms; "
        f"largest difference {way['difference']:.3g}, {way['relative_difference']:.2g} of the "
        f"largest answer (tolerance {tolerance:g})"
        for name, way in figures["ways"].items()
    ]


def check_difference(figures: dict[str, Any], tolerance: float) -> None:
    """Raise HalutError if a way's answers are further from the first one's than tolerated."""
    for name, way in figures["ways"].items():
        if not way["relative_difference"] <= tolerance:
            raise HalutError(
                f"runtime: {name} answers otherwise: the largest difference is "
                f"{way['relative_difference']:.3g} of the largest answer, "
                f"runtime.tolerance is {tolerance:g}"
            )
