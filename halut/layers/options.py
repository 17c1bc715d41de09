"""Options every operator of the table family has."""

from __future__ import annotations

from dataclasses import dataclass, fields

from halut.encoders import EncoderOptions, encoders
from halut.errors import HalutError
from halut.ops.table_quantization import SCALES, check_options
from halut.option import option, unknown, where
from halut.sites.find import Site

ESTIMATORS = ("auto", "tree", "soft", "identity", "blend")
PARAMETERIZATIONS = ("free", "derived")
CLIPS = ("none", "mse")
TAU_PER = ("layer", "codebook")

with_bits = where(lambda own: own.bits is not None, "tables are floats: it needs halut.bits")
with_temperature = where(
    lambda own: own.estimator != "identity",
    "halut.estimator=identity has no temperature; it needs another estimator",
)

DEFAULT_V = 8
"""Inputs per codebook where a kernel's taps give none."""


@dataclass
class TableOptions:
    """Codebooks, prototypes, table format and how they learn.

    Give C (codebooks per group) or V (inputs per codebook), or neither: then V = kh * kw for a
    convolution, i.e. one codebook per input channel, and V = 8 for a 1x1 or a Linear: 2 bytes of
    table for a weight (K = 16, 8 bits), half of a float. V = 4 takes as much as floats do.
    """

    C: int | None = option(None, "codebooks of a layer (of a group, if it has groups)")
    V: int | None = option(None, "inputs of a codebook, in place of C")
    K: int = option(16, "prototypes of a codebook, 2..256; trees: a power of two")
    bits: int | None = option(8, "signed bits of a table entry, 2..8; null: float")
    scale: str = option("channel", "what shares a scale", choices=SCALES, needs=with_bits)
    clip: str = option(
        "none", "range of a table: whole, or of least error", choices=CLIPS, needs=with_bits
    )
    average: int | None = option(
        None, "codebooks per run of MADDNESS' averaging accumulator; null: exact sums"
    )
    estimator: str = option(
        "auto", "gradient of the codes; auto: the encoder's own", choices=ESTIMATORS
    )
    parameterization: str = option(
        "free", "what trains: the table, or prototypes and weight", choices=PARAMETERIZATIONS
    )
    ridge: float | None = option(None, "lambda of the ridge refinement; null: none")
    tau: float | None = option(
        None, "starting temperature; null: estimated from the data", needs=with_temperature
    )
    tau_per: str = option(
        "layer", "what shares a temperature", choices=TAU_PER, needs=with_temperature
    )

    def __post_init__(self) -> None:
        if self.bits is not None:
            check_options(self.bits, self.scale)
        if self.average is not None and (self.bits is None or self.scale == "codebook"):
            raise HalutError("halut.average needs integer tables with scale layer or channel")
        _choice("estimator", self.estimator, ESTIMATORS)
        _choice("parameterization", self.parameterization, PARAMETERIZATIONS)
        _choice("clip", self.clip, CLIPS)
        _choice("tau_per", self.tau_per, TAU_PER)
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


def encoder_options(encoder: str, options: TableOptions) -> EncoderOptions:
    """The encoder's own part of the flat options."""
    kind = encoders[encoder].Options
    return kind(**{f.name: getattr(options, f.name) for f in fields(kind)})


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise HalutError(unknown(f"halut.{name}", value, choices))
