"""Configurations of the operators by look-up tables: encode the inputs, look up, add."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from halut.configs.base import Config, documented
from halut.errors import HalutError
from halut.option import between, choice, every, option, redefined, where

SCALES = ("layer", "channel", "codebook")
CLIPS = ("none", "mse", "output")
ESTIMATORS = ("auto", "tree", "flip", "soft", "identity", "blend", "rotation", "diveq")
HARD_ESTIMATORS = ("identity", "rotation", "diveq")
"""Estimators without relaxed codes: inputs get their gradient by the exact layer's weight."""
RESIDUAL_ESTIMATORS = ("auto", "soft", "identity", "blend")
"""Of PQ with residual codebooks."""
PARAMETERIZATIONS = ("free", "derived")
TAU_PER = ("layer", "codebook")
METRICS = ("l2", "l1", "chebyshev")
TRANSFORMS = ("none", "hadamard", "permute")

with_bits = where(lambda own: own.bits is not None, "tables are floats: it needs halut.bits")
with_estimate = where(lambda own: own.tau is None, "halut.tau is the starting temperature")
with_temperature = where(
    lambda own: own.estimator not in HARD_ESTIMATORS,
    "halut.estimator=identity, rotation and diveq have no temperature; it needs another estimator",
)


@documented
@dataclass(kw_only=True)
class TableConfig(Config):
    """Codebooks, prototypes, table format and how they learn, of every operator by tables.

    Give C (codebooks per group) or V (inputs per codebook), or neither: then V = kh * kw for a
    convolution, i.e. one codebook per input channel, and V = 8 for a 1x1 or a Linear: 2 bytes of
    table for a weight (K = 16, 8 bits), half of a float. V = 4 takes as much as floats do.

    Raises HalutError for a value out of range, naming the range.
    """

    C: int | None = option(None, "codebooks of a layer, or of each of its groups")
    V: int | None = option(None, "inputs of a codebook, in place of C")
    K: int = option(16, "prototypes of a codebook, 2..256; trees: 2^depth")
    bits: int | None = option(8, "signed bits of a table entry, 2..8; null: float")
    scale: str = option("channel", "what shares a scale", choices=SCALES, needs=with_bits)
    clip: str = option(
        "none",
        "range of a table: whole, or of least error of entries or sums",
        choices=CLIPS,
        needs=with_bits,
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
    ridge: float | int | str | None = option(
        None,
        "lambda of the ridge regression; cv: by cross-validation; null: none",
    )
    tau: float | None = option(
        None, "starting temperature; null: from the data", needs=with_temperature
    )
    tau_scale: float = option(
        1.0,
        "factor of the estimated starting temperature",
        needs=every(with_temperature, with_estimate),
    )
    tau_per: str = option(
        "layer", "what shares a temperature", choices=TAU_PER, needs=with_temperature
    )
    transform: str = option(
        "none",
        "of what a Linear or 1x1 convolution reads: rotated, or correlated inputs together",
        choices=TRANSFORMS,
    )
    noise: float = option(
        0.0,
        "Gaussian noise on what encoders read while training, over its RMS",
    )
    quantize_from: float = option(
        0.0,
        "share of a stage in which tables train as floats, before the rest of it",
        needs=with_bits,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits is not None:
            if not 2 <= self.bits <= 8:
                raise HalutError(
                    f"halut.bits must be in 2..8 or null for float tables, got {self.bits}"
                )
            choice("halut.scale", self.scale, SCALES)
        if self.average is not None and (self.bits is None or self.scale == "codebook"):
            raise HalutError("halut.average needs integer tables with scale layer or channel")
        choice("halut.estimator", self.estimator, ESTIMATORS)
        choice("halut.parameterization", self.parameterization, PARAMETERIZATIONS)
        choice("halut.clip", self.clip, CLIPS)
        choice("halut.tau_per", self.tau_per, TAU_PER)
        choice("halut.transform", self.transform, TRANSFORMS)
        for name in ("C", "V"):
            value = getattr(self, name)
            if value is not None:
                between(f"halut.{name}", value, 1)
        if self.C is not None and self.V is not None:
            raise HalutError("give halut.C or halut.V, not both")
        between("halut.K", self.K, 2, 256)
        if self.ridge not in (None, "cv") and (isinstance(self.ridge, str) or not self.ridge > 0):
            raise HalutError(f"halut.ridge must be above 0, cv or null, got {self.ridge}")
        if self.tau is not None and self.tau <= 0:
            raise HalutError(f"halut.tau must be positive, got {self.tau}")
        if not 0 < self.tau_scale < float("inf"):
            raise HalutError(f"halut.tau_scale must be positive, got {self.tau_scale}")
        between("halut.noise", self.noise, 0)
        between("halut.quantize_from", self.quantize_from, 0, 1)

    @property
    def stages(self) -> int:
        """Codebooks of every block of inputs."""
        return 1


def encoder_options(config: TableConfig) -> dict[str, Any]:
    """The options that the encoder alone reads: two layers of the same can share one."""
    common = {field.name for field in fields(TableConfig)} - {"transform"}
    return {key: value for key, value in config.options().items() if key not in common}


@documented
@dataclass(kw_only=True)
class Tree(TableConfig):
    """Hash trees: a code is the path through a binary tree of depth log2 K, one per codebook.

    log2 K compares a code; all nodes of a level test one input. Its prototypes span all D inputs,
    so it starts with the ridge refinement.

    >>> Tree(C=16, K=8).options()["ridge"]
    1.0
    """

    name: str = "tree"
    ridge: float | int | str | None = redefined(TableConfig, "ridge", 1.0)
    candidates: int = option(8, "inputs tried per level: those of largest error")
    output_metric: bool = option(True, "cut by the error of the output, not of inputs")
    boosting: int = option(1, "passes that learn trees on what others leave")
    residual: int = option(0, "further codebooks of a block, for what is left")

    def __post_init__(self) -> None:
        super().__post_init__()
        between("halut.candidates", self.candidates, 1)
        between("halut.boosting", self.boosting, 0)
        between("halut.residual", self.residual, 0)

    @property
    def stages(self) -> int:
        """Codebooks of every block of inputs."""
        return 1 + self.residual


@documented
@dataclass(kw_only=True)
class PQ(TableConfig):
    """Product quantization: a code is the nearest of K prototypes."""

    name: str = "pq"
    ridge: float | int | str | None = redefined(TableConfig, "ridge", 1.0)
    metric: str = option("l2", "distance to a prototype; l2 is squared", choices=METRICS)
    output_metric: bool = option(False, "measure l2 at the output: (x-p)' W_c W_c' (x-p)")
    learn_rows: int = option(65536, "rows drawn for k-means")
    iterations: int = option(25, "iterations of k-means")
    restarts: int = option(1, "starts of k-means, of which the best is taken")
    revive_every: int | None = option(
        None, "steps after which unused prototypes move onto inputs; null: never"
    )
    residual: int = redefined(Tree, "residual", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("halut.metric", self.metric, METRICS)
        if self.output_metric and self.metric != "l2":
            raise HalutError(f"halut.output_metric needs metric l2, got {self.metric!r}")
        for name in ("learn_rows", "iterations", "restarts"):
            between(f"halut.{name}", getattr(self, name), 1)
        if self.revive_every is not None:
            between("halut.revive_every", self.revive_every, 1)
        between("halut.residual", self.residual, 0)
        if self.residual and self.output_metric:
            raise HalutError("halut.residual of pq needs halut.output_metric=false")
        if self.residual:
            choice("halut.estimator beside halut.residual", self.estimator, RESIDUAL_ESTIMATORS)

    @property
    def stages(self) -> int:
        """Codebooks of every block of inputs."""
        return 1 + self.residual


@documented
@dataclass(kw_only=True)
class DecisionTree(TableConfig):
    """Decision trees: as Tree, with an input and a threshold of its own at every node."""

    name: str = "decision_tree"
    learn_rows: int = option(16384, "rows drawn for k-means and the trees")
    iterations: int = option(25, "iterations of k-means")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learn_rows", "iterations"):
            between(f"halut.{name}", getattr(self, name), 1)
