"""Options every operator of the table family has."""

from __future__ import annotations

from dataclasses import dataclass, field

from halut.errors import HalutError
from halut.sites import Site
from halut.tables import check_options

ESTIMATORS = ("auto", "tree", "soft", "identity", "blend")
PARAMETERISATIONS = ("free", "derived")

DEFAULT_V = 8
"""Inputs per codebook where a kernel's taps give none."""


@dataclass
class TableOptions:
    """Codebooks, prototypes, table format and how they learn.

    Give C (codebooks per group) or V (inputs per codebook), or neither: then V = kh * kw for a
    convolution, i.e. one codebook per input channel, and V = 8 for a 1x1 or a Linear: 2 bytes of
    table for a weight (K = 16, 8 bits), half of a float. V = 4 takes as much as floats do.
    """

    C: int | None = None
    V: int | None = None
    K: int = 16
    bits: int | None = field(
        default=8, metadata={"help": "signed bits of a table entry; null: float"}
    )
    scale: str = field(default="channel", metadata={"help": "layer, channel or codebook"})
    clip: str = field(default="none", metadata={"help": "none, or mse: the range of least error"})
    average: int | None = field(
        default=None,
        metadata={"help": "codebooks per run of MADDNESS' averaging accumulator; null: exact sums"},
    )
    estimator: str = field(default="auto", metadata={"help": "auto, tree, soft, identity, blend"})
    parameterisation: str = field(default="free", metadata={"help": "free or derived"})
    ridge: float | None = field(
        default=None, metadata={"help": "lambda of the ridge refinement; null: none"}
    )
    tau: float | None = field(
        default=None, metadata={"help": "starting temperature; null: estimated from the data"}
    )
    tau_per: str = field(default="layer", metadata={"help": "layer or codebook"})

    def __post_init__(self) -> None:
        if self.bits is not None:
            check_options(self.bits, self.scale)
        if self.average is not None and (self.bits is None or self.scale == "codebook"):
            raise HalutError("halut.average needs integer tables with scale layer or channel")
        _choice("estimator", self.estimator, ESTIMATORS)
        _choice("parameterisation", self.parameterisation, PARAMETERISATIONS)
        _choice("clip", self.clip, ("none", "mse"))
        _choice("tau_per", self.tau_per, ("layer", "codebook"))
        for name in ("C", "V"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise HalutError(f"halut.{name} must be at least 1, got {value}")
        if self.C is not None and self.V is not None:
            raise HalutError("give halut.C or halut.V, not both")
        if not 2 <= self.K <= 256:
            raise HalutError(f"halut.K must be in 2..256, got {self.K}")
        if self.ridge is not None and not self.ridge > 0:
            raise HalutError(f"halut.ridge must be above 0, or null, got {self.ridge}")
        if self.tau is not None and self.tau <= 0:
            raise HalutError(f"halut.tau must be positive, got {self.tau}")

    def codebooks(self, site: Site) -> int:
        """C for the site; raises HalutError naming it if C exceeds its inputs."""
        if self.C is not None:
            if not 1 <= self.C <= site.D:
                each = " per group" if site.groups > 1 else ""
                raise HalutError(
                    f"{site.name} has {site.D} inputs{each}: C must be in 1..{site.D}, got {self.C}"
                )
            return self.C
        V = self.V if self.V is not None else site.taps if site.taps > 1 else DEFAULT_V
        return max(1, -(-site.D // V))


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise HalutError(f"unknown halut.{name} {value!r}; choose one of: {', '.join(choices)}")
