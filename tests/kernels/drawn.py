"""What the fuzz tests draw: sizes, values and memory layouts that a kernel may trip over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from torch import Tensor

from halut.ops import ConvGeometry, cpu
from tests.oracles.im2col import im2col_reference

settings.register_profile("quick", max_examples=40, derandomize=True)
settings.register_profile("thorough", max_examples=2000, derandomize=False)
PROFILE = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
FUZZ = settings(PROFILE, deadline=None, suppress_health_check=list(HealthCheck))
"""40 fixed examples of every test; 2000 random ones under HYPOTHESIS_PROFILE=thorough."""

ROWS = st.sampled_from([0, 1, 2, 3, 15, 16, 17, 63, 64, 65, 130, 257])
GROUPS = st.sampled_from([1, 1, 1, 2, 3])
CODEBOOKS = st.sampled_from([1, 2, 3, 4, 5, 8, 9, 17, 33])
OUTPUTS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 64, 65])
PROTOTYPES = st.sampled_from([2, 3, 4, 5, 8, 16, 16, 17, 32, 100, 255, 256])
LEAVES = st.sampled_from([2, 4, 8, 16, 16, 32, 64, 128, 256])
SEEDS = st.integers(0, 1 << 30)
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded", "channels_last")
KINDS = ("dyadic", "normal", "extreme")
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INPUTS = (torch.float32, torch.float16, torch.bfloat16, torch.int8)

EXTREMES = (0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e-38, 1e30, -1e30)
SPECIALS = (*EXTREMES, float("nan"), float("inf"), -float("inf"))

_small = st.integers(1, 3)
WINDOWS = st.builds(
    ConvGeometry,
    kernel_size=st.tuples(_small, _small),
    stride=st.tuples(_small, _small),
    padding=st.tuples(*[st.integers(0, 3)] * 4),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
GEOMETRIES = st.one_of(
    st.none(),
    st.just(ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))),
    st.just(ConvGeometry((1, 1))),
    WINDOWS,
)
"""None: rows of a matrix."""
SIDES = st.tuples(*[st.sampled_from([1, 2, 3, 5, 8, 13, 17])] * 2)


@dataclass
class Draw:
    """Tensors from one seed."""

    seed: int

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def bytes(self, *shape: int, low: int = 0, high: int = 256, dtype=torch.uint8) -> Tensor:
        """Integers in low..high - 1."""
        return torch.randint(low, high, shape, dtype=dtype, generator=self.generator)

    def values(self, *shape: int, dtype=torch.float32, kind: str = "dyadic") -> Tensor:
        """Dyadic fractions (whose sums are exact), normal values, or extremes of all sorts."""
        if dtype in (torch.int8, torch.uint8):
            limits = torch.iinfo(dtype)
            return self.bytes(*shape, low=limits.min, high=limits.max + 1, dtype=dtype)
        if kind == "dyadic":
            x = self.bytes(*shape, low=-16, high=17, dtype=torch.int64) / 4
        elif kind == "normal":
            x = torch.randn(shape, generator=self.generator)
        else:
            known = EXTREMES if kind == "finite" else SPECIALS
            picked = self.bytes(*shape, high=len(known), dtype=torch.int64)
            x = torch.tensor(known, dtype=torch.float64)[picked]
        return x.to(dtype)

    def inputs(
        self, N: int, D: int, geometry: ConvGeometry | None, sides, dtype, kind: str, layout: str
    ) -> tuple[Tensor, int]:
        """An encoder's input and its rows' columns: [N, D], or a map of D channels.

        A map has at most 17 images, and at most 5 x 5 pixels where it has many.
        """
        if geometry is None:
            return arranged(self.values(N, D, dtype=dtype, kind=kind), layout), D
        N, sides = (N, sides) if N < 4 else (min(N, 17), (min(sides[0], 5), min(sides[1], 5)))
        assume(min(geometry.output_size(*sides)) > 0)
        x = arranged(self.values(N, D, *sides, dtype=dtype, kind=kind), layout)
        return x, D * geometry.kernel_size[0] * geometry.kernel_size[1]


def rows_of(x: Tensor, geometry: ConvGeometry | None) -> Tensor:
    """Its rows in float64, those of a map by unfolding it."""
    x = x.double()
    if geometry is not None and not x.shape[0]:
        return x.new_zeros(0, x.shape[1] * geometry.kernel_size[0] * geometry.kernel_size[1])
    return im2col_reference(x, geometry)


def arranged(x: Tensor, layout: str) -> Tensor:
    """x in another memory layout; equal values, but for `expanded`: its first row throughout."""
    if layout == "transposed":
        order = tuple(reversed(range(x.ndim)))
        return x.permute(order).contiguous().permute(order)
    if layout == "strided":
        wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "offset":
        flat = x.new_zeros(x.numel() + 3)
        flat[3:] = x.reshape(-1)
        return flat[3:].view(x.shape)
    if layout == "expanded" and x.shape[0]:
        return x[:1].expand(x.shape)
    if layout == "channels_last" and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x


def every_level() -> Iterator[str]:
    """Runs the loop's body once on every level of the compiled kernels, or once without them."""
    for level in cpu.cpu_capabilities():
        with cpu.use_cpu_capability(level):
            yield level
    if not cpu.cpu_capabilities():
        yield "torch"


def assert_within(y: Tensor, exact: Tensor, bound: Tensor, level: str) -> None:
    """|y - exact| <= bound (float64), NaN where exact is NaN, infinite where it is."""
    y = y.to(torch.float64)
    assert torch.equal(y.isnan(), exact.isnan()), level
    limited = exact.isfinite()
    assert torch.equal(y[~limited].nan_to_num(), exact[~limited].nan_to_num()), level
    assert bool(((y - exact).abs()[limited] <= bound[limited]).all()), level


def assert_near(
    value: Tensor | None, exact: Tensor | None, dtype: torch.dtype, what, spread: float = 1.0
) -> None:
    """Equal up to the rounding of sums, against the largest of them; None is zero.

    spread: how much larger than 1 what goes into an exponential is, whose rounding grows with it.
    """
    value = torch.zeros(()) if value is None else value
    exact = torch.zeros(()) if exact is None else exact
    size = max(1.0, float(exact.abs().max()) if exact.numel() else 0.0)
    atol = spread * size * (1e-9 if dtype == torch.float64 else 2e-5)
    assert torch.allclose(value.double(), exact.double(), rtol=0, atol=atol), what
