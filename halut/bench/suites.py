"""Benchmark cases by operation and suite."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from halut.errors import HalutError

OPERATIONS = (
    "encode",
    "accumulate",
    "layer",
    "bits",
    "sign_magnitude",
    "train_step",
    "network",
)


@dataclass(frozen=True)
class Case:
    """One shape of one operation; `count` is how often a network of the suite has it."""

    op: str
    suite: str
    shape: dict[str, int]
    options: dict[str, Any] = field(default_factory=dict)
    count: int = 1

    def __hash__(self) -> int:
        return hash((self.op, self.name))

    @property
    def name(self) -> str:
        """suite/shape, for tables and messages."""
        s = self.shape
        if self.op == "network":
            return f"{self.suite}/{s['B']}x{s['channels']}x{s['H']}x{s['W']}"
        if self.op == "accumulate":
            return f"{self.suite}/N{s['N']} C{s['C']} M{s['M']}"
        if "C_in" in s:
            stride = f" /{s['stride']}" if s["stride"] != 1 else ""
            size = f"{s['B']}x{s['C_in']}x{s['H']}x{s['W']}"
            return f"{self.suite}/{size} -> {s['M']}{stride}"
        blocks = f" V{self.options['V']}" if self.op == "encode" else ""
        return f"{self.suite}/N{s['N']} {s['D']} -> {s['M']}{blocks}"


def conv(B: int, C_in: int, size: int, M: int, stride: int = 1) -> dict[str, int]:
    """Shape of a 3x3 convolution of padding 1 on square maps."""
    return {"B": B, "C_in": C_in, "H": size, "W": size, "M": M, "kernel": 3, "stride": stride}


def cases(resnet9_batch: int = 128, quick: bool = False) -> list[Case]:
    """Every case but the networks; `quick`: the same suites with one tiny shape each."""
    if quick:
        return _quick()
    all_cases = [Case("encode", "encode", s, {"V": 9}) for s in ENCODE_MAPS]
    all_cases += [Case("encode", "encode", linear(197, 768, 768), {"V": V}) for V in (8, 16)]
    all_cases += [Case("accumulate", "accumulate", s) for s in ACCUMULATE]
    all_cases += [Case("layer", "resnet18_3x3", s, {"V": 9}, n) for s, n in RESNET18]
    all_cases += [
        Case("layer", "resnet9_3x3", {**s, "B": resnet9_batch}, {"V": 9}, n) for s, n in RESNET9
    ]
    for V in (16, 8):
        suite = f"linear_v{V}"
        shapes = [linear(N, D, M) for N in (197, 1) for D, M in LINEAR]
        all_cases += [Case("layer", suite, s, {"V": V}) for s in shapes]
    for n in (1, 2, 3):
        shapes = [conv(1, 64, 56, 64), conv(1, 256, 14, 256), linear(197, 768, 768)]
        all_cases += [Case("bits", f"bits_{n}_{n}", s, {"width": n}) for s in shapes]
    all_cases += [Case("sign_magnitude", "sign_magnitude", s) for s in SIGN_MAGNITUDE]
    all_cases += [
        Case("train_step", "train_step", conv(8, C, 16, M), {"V": 9}) for C, M in TRAIN_STEP
    ]
    return all_cases


def linear(N: int, D: int, M: int) -> dict[str, int]:
    """Shape of a linear layer on N rows."""
    return {"N": N, "D": D, "M": M}


def lookups(N: int, C: int, M: int) -> dict[str, int]:
    """Shape of a look-up product: N rows, C codebooks of 16, M outputs."""
    return {"N": N, "C": C, "M": M, "K": 16}


# The 3x3 convolutions of ResNet-18 on one image of 224 x 224, and how many it has of each.
RESNET18 = [
    (conv(1, 64, 56, 64), 4),
    (conv(1, 64, 56, 128, 2), 1),
    (conv(1, 128, 28, 128), 3),
    (conv(1, 128, 28, 256, 2), 1),
    (conv(1, 256, 14, 256), 3),
    (conv(1, 256, 14, 512, 2), 1),
    (conv(1, 512, 7, 512), 3),
]
# Those of ResNet-9 on images of 32 x 32, its stem left out.
RESNET9 = [
    (conv(128, 64, 32, 128), 1),
    (conv(128, 128, 16, 128), 2),
    (conv(128, 128, 16, 256), 1),
    (conv(128, 256, 8, 512), 1),
    (conv(128, 512, 4, 512), 2),
]
LINEAR = [(768, 3072), (3072, 768), (768, 768)]
TRAIN_STEP = [(64, 128), (128, 128), (256, 256)]
ENCODE_MAPS = [conv(1, 64, 56, 64), conv(1, 256, 14, 256), conv(1, 512, 7, 512)]
SIGN_MAGNITUDE = [linear(256, 9216, 128), linear(197, 768, 768)]
ACCUMULATE = [
    lookups(3136, 64, 64),
    lookups(784, 128, 128),
    lookups(196, 256, 256),
    lookups(2048, 64, 512),
    lookups(197, 48, 3072),
    lookups(1, 48, 3072),
    lookups(3136, 8, 64),
]


def _quick() -> list[Case]:
    return [
        Case("encode", "encode", conv(1, 4, 6, 8), {"V": 9}),
        Case("encode", "encode", linear(9, 32, 8), {"V": 8}),
        Case("accumulate", "accumulate", lookups(64, 64, 16)),
        Case("layer", "resnet18_3x3", conv(1, 4, 6, 8), {"V": 9}, 2),
        Case("layer", "resnet9_3x3", conv(2, 4, 6, 8), {"V": 9}),
        Case("layer", "linear_v16", linear(9, 32, 16), {"V": 16}),
        Case("layer", "linear_v8", linear(9, 32, 16), {"V": 8}),
        Case("bits", "bits_1_1", conv(2, 12, 6, 8), {"width": 1}),
        Case("bits", "bits_2_2", conv(2, 12, 6, 8), {"width": 2}),
        Case("bits", "bits_3_3", linear(9, 40, 16), {"width": 3}),
        Case("sign_magnitude", "sign_magnitude", linear(20, 40, 16)),
        Case("train_step", "train_step", conv(2, 4, 6, 8), {"V": 9}),
    ]


def suites() -> list[str]:
    """Names `--only` takes: operations and suites."""
    return list(dict.fromkeys([*OPERATIONS, *(case.suite for case in cases())]))


def select_cases(
    candidates: list[Case], only: list[str], choices: list[str] | None = None
) -> list[Case]:
    """The cases whose operation or suite is named; all if none is. Raises HalutError for a name
    that is not `names`, those of the CPU if None."""
    choices = suites() if choices is None else choices
    for name in only:
        if name not in choices:
            raise HalutError(f"--only: unknown name {name!r}; choose from: {', '.join(choices)}")
    return [case for case in candidates if not only or case.op in only or case.suite in only]
