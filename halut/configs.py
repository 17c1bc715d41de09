"""Configurations of every operator, as dataclasses: what `halut.replace_` is told.

They hold plain values and import nothing of torch; a value is checked when its operator is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar


@dataclass(kw_only=True)
class Config:
    """A configuration of one operator; `operator` is its name in plans and on the command line."""

    operator: ClassVar[str]

    def options(self) -> dict[str, Any]:
        """Every option as a plan and the command line have it: plain values."""
        return asdict(self)


@dataclass(kw_only=True)
class Exact(Config):
    """The exact product, in a layer of halut: changes nothing."""

    operator: ClassVar[str] = "exact"


@dataclass(kw_only=True)
class TableConfig(Config):
    """Options of every operator by look-up tables.

    Args:
        C: codebooks of a layer (of a group, if it has groups).
        V: inputs of a codebook, in place of C.
        K: prototypes of a codebook, 2..256; trees: a power of two.
        bits: signed bits of a table entry, 2..8; None: float.
        scale: what shares a scale: layer, channel, codebook.
        clip: range of a table: whole, or of least error: none, mse.
        average: codebooks per run of MADDNESS' averaging accumulator; None: exact sums.
        estimator: gradient of the codes; auto: the encoder's own: auto, tree, soft, identity,
            blend.
        parameterization: what trains: the table, or prototypes and weight: free, derived.
        ridge: lambda of the ridge refinement; None: none.
        tau: starting temperature; None: estimated from the data.
        tau_per: what shares a temperature: layer, codebook.
    """

    C: int | None = None
    V: int | None = None
    K: int = 16
    bits: int | None = 8
    scale: str = "channel"
    clip: str = "none"
    average: int | None = None
    estimator: str = "auto"
    parameterization: str = "free"
    ridge: float | None = None
    tau: float | None = None
    tau_per: str = "layer"


@dataclass(kw_only=True)
class Tree(TableConfig):
    """Hash trees: a code is the path through a binary tree of depth log2 K, one per codebook.

    Args:
        ridge: lambda of the ridge refinement; None: none.
        candidates: inputs of a codebook tried per level: those of the largest squared error.
    """

    operator: ClassVar[str] = "tree"
    ridge: float | None = 1.0
    candidates: int = 8


@dataclass(kw_only=True)
class PQ(TableConfig):
    """Product quantization: a code is the nearest of K prototypes.

    Args:
        metric: distance to a prototype; l2 is squared: l2, l1, chebyshev.
        output_metric: measure l2 at the output: (x-p)' W_c W_c' (x-p).
        learn_rows: rows drawn for k-means.
        iterations: iterations of k-means.
        restarts: starts of k-means, of which the best is taken.
    """

    operator: ClassVar[str] = "pq"
    metric: str = "l2"
    output_metric: bool = False
    learn_rows: int = 65536
    iterations: int = 25
    restarts: int = 1


@dataclass(kw_only=True)
class DecisionTree(TableConfig):
    """Decision trees: as Tree, with an input and a threshold of its own at every node.

    Args:
        learn_rows: rows drawn for k-means and the trees.
        iterations: iterations of k-means.
    """

    operator: ClassVar[str] = "decision_tree"
    learn_rows: int = 16384
    iterations: int = 25


@dataclass(kw_only=True)
class CodecConfig(Config):
    """Options of every operator by a codec: weight and activation quantized, then multiplied.

    Args:
        weight: codec of the weight. "same": this one; another config, such as
            `halut.Binary(per="channel")`; a name; a mapping with `name` and options; None: float.
        activation: codec of the layer's input, likewise.
        bias: codec of the bias, likewise; it stays float unless asked.
        contraction: how codes are multiplied: auto, or a name of the registry.
        gradient: straight-through; clipped: zero where saturated; auto: clipped for activations.
    """

    weight: CodecConfig | Mapping[str, Any] | str | None = "same"
    activation: CodecConfig | Mapping[str, Any] | str | None = "same"
    bias: CodecConfig | Mapping[str, Any] | str | None = None
    contraction: str = "auto"
    gradient: str = "auto"

    def options(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**own, **{role: _factor(own[role]) for role in FACTORS}}


FACTORS = ("weight", "activation", "bias")


def _factor(codec: CodecConfig | Mapping[str, Any] | str | None) -> dict[str, Any]:
    """A factor's codec as the command line has it: its name and its options."""
    if isinstance(codec, CodecConfig):
        left_out = (*FACTORS, "contraction")
        own = {f.name: getattr(codec, f.name) for f in fields(codec) if f.name not in left_out}
        return {"name": codec.operator, **own}
    return dict(codec) if isinstance(codec, Mapping) else {"name": codec}


@dataclass(kw_only=True)
class ABCNet(CodecConfig):
    """ABC-Net: q = sum_n alpha_n (+1 or -1 by bit n of the code).

    Args:
        width: bases, 1..8.
        per: what of a weight shares its factors: auto, tensor, channel.
    """

    operator: ClassVar[str] = "abcnet"
    width: int = 3
    per: str = "auto"


@dataclass(kw_only=True)
class Binary(CodecConfig):
    """Signs: +1 where x >= 0, else -1; unsigned: mean abs x where x > 0, else 0, so that zero
    stays.

    Args:
        per: what shares a scale; auto: channel for weights, tensor for activations: auto,
            tensor, channel.
        unsigned: {0, 1} times mean abs, not +-1.
    """

    operator: ClassVar[str] = "binary"
    per: str = "auto"
    unsigned: bool = False


@dataclass(kw_only=True)
class BinaryResidual(CodecConfig):
    """Residual binarization: q = sum_l |g_l| sign(r_l), r_1 = x, r_(l+1) = r_l - |g_l| sign(r_l);
    bit l of a code is 1.

    Args:
        levels: signs, 1..8.
        fitted: start from the residuals' means; False: 2/3, 1/3.
    """

    operator: ClassVar[str] = "binary_residual"
    levels: int = 2
    fitted: bool = True


@dataclass(kw_only=True)
class BinaryScaling(CodecConfig):
    """XNOR-Net: alpha where x >= 0, else -alpha; alpha = mean abs x, of all scales that of least
    squared error.

    Args:
        per: what shares a scale; auto: channel for weights, tensor for activations: auto,
            tensor, channel.
    """

    operator: ClassVar[str] = "binary_scaling"
    per: str = "auto"


@dataclass(kw_only=True)
class BlockFP(CodecConfig):
    """Block floating point: m 2^(E - w + 2), E = floor(log2 max abs x) of the block, m rounded to
    even within +-(2^(w-1) - 1).

    Args:
        block: values of a block along the input axis.
        width: bits with the sign, 2..24.
    """

    operator: ClassVar[str] = "block_fp"
    block: int = 16
    width: int = 8


@dataclass(kw_only=True)
class BlockLog(CodecConfig):
    """Block logarithmic: log elements, the highest of them the power of two nearest to the
    block's maximum.

    Args:
        block: values of a block along the input axis.
        width: bits, 2..8.
    """

    operator: ClassVar[str] = "block_log"
    block: int = 16
    width: int = 4


@dataclass(kw_only=True)
class BlockMinifloat(CodecConfig):
    """Block minifloat: minifloat_ieee elements, their bias the highest at which the block's
    maximum is in range.

    Args:
        block: values of a block along the input axis.
        width: bits, 2..16.
        exponent: bits of the exponent.
    """

    operator: ClassVar[str] = "block_minifloat"
    block: int = 16
    width: int = 8
    exponent: int = 4


@dataclass(kw_only=True)
class Chain(CodecConfig):
    """What pruning leaves, in a number format; what it has set to zero stays zero.

    Args:
        codecs: prune, then a number format.
        width: bases, 1..8.
        per: what of a weight shares its factors.
        unsigned: {0, 1} times mean abs, not +-1.
        levels: signs, 1..8.
        fitted: start from the residuals' means; False: 2/3, 1/3.
        block: values of a block along the input axis.
        exponent: bits of the exponent.
        fraction: bits behind the point; None: calibrated.
        calibrate: the point: no value cut off, or least squared error.
        exponent_bias: bias of the exponent; None: calibrated.
        sparsity: share of zeros, from 0 to below 1.
        method: which become zero: l1, the smallest, or random ones.
        scope: a share of each layer, or of all together.
    """

    operator: ClassVar[str] = "chain"
    codecs: list[str] = field(default_factory=lambda: ["prune", "integer"])
    width: int | None = None
    per: str | None = None
    unsigned: bool | None = None
    levels: int | None = None
    fitted: bool | None = None
    block: int | None = None
    exponent: int | None = None
    fraction: int | None = None
    calibrate: str | None = None
    exponent_bias: int | None = None
    sparsity: float | None = None
    method: str | None = None
    scope: str | None = None


@dataclass(kw_only=True)
class Integer(CodecConfig):
    """Fixed point: q = clamp(round_half_even(x 2^f), -2^(w-1), 2^(w-1) - 1) / 2^f.

    Args:
        per: what shares a scale; auto: channel for weights, tensor for activations: auto,
            tensor, channel, block.
        block: values of a block along the input axis.
        width: bits with the sign, 2..32.
        fraction: bits behind the point; None: calibrated.
        calibrate: the point: no value cut off, or least squared error: max, mse.
    """

    operator: ClassVar[str] = "integer"
    per: str = "auto"
    block: int = 16
    width: int = 8
    fraction: int | None = None
    calibrate: str = "max"


@dataclass(kw_only=True)
class Log(CodecConfig):
    """Powers of two: sign(x) 2^clamp(round(log2 |x|), -b, 2^(w-1) - 1 - b), zero only for zero.

    Args:
        per: what shares a scale; auto: channel for weights, tensor for activations: auto,
            tensor, channel, block.
        block: values of a block along the input axis.
        width: bits, 2..8.
        exponent_bias: bias of the exponent; None: calibrated.
    """

    operator: ClassVar[str] = "log"
    per: str = "auto"
    block: int = 16
    width: int = 8
    exponent_bias: int | None = None


@dataclass(kw_only=True)
class LQNet(CodecConfig):
    """LQ-Nets: q = v . b, the nearest of 2^n levels, the lower one of a tie; bit j of a code is
    b_j > 0.

    Args:
        width: bits n, 1..4.
        fitted: start fitted to the data; False: as published.
    """

    operator: ClassVar[str] = "lqnet"
    width: int = 2
    fitted: bool = True


@dataclass(kw_only=True)
class MinifloatDenorm(CodecConfig):
    """Minifloat without normal numbers: Nearest of +-m 2^-M 2^(e - bias), m in [0, 2^M): ties to
    even m, saturating.

    Args:
        width: bits, 2..16.
        exponent: bits of the exponent.
        exponent_bias: None: 2^(exponent - 1) - 1.
    """

    operator: ClassVar[str] = "minifloat_denorm"
    width: int = 8
    exponent: int = 4
    exponent_bias: int | None = None


@dataclass(kw_only=True)
class MinifloatIEEE(CodecConfig):
    """Minifloat: Nearest of +-(1 + m 2^-M) 2^(e - bias) and the subnormals +-m 2^(1 - bias - M).

    Args:
        width: bits, 2..16.
        exponent: bits of the exponent.
        exponent_bias: None: 2^(exponent - 1) - 1.
    """

    operator: ClassVar[str] = "minifloat_ieee"
    width: int = 8
    exponent: int = 4
    exponent_bias: int | None = None


@dataclass(kw_only=True)
class MXINT8(CodecConfig):
    """MXINT8: (m / 64) 2^floor(log2 max abs x) of the block of 32, m rounded to even within
    +-127.
    """

    operator: ClassVar[str] = "mxint8"


@dataclass(kw_only=True)
class Prune(CodecConfig):
    """Pruning: x where `mask`, else 0; round(sparsity * numel) zeros, as torch.nn.utils.prune has
    them.

    Args:
        sparsity: share of zeros, from 0 to below 1.
        method: which become zero: l1, the smallest, or random ones: l1, random.
        scope: a share of each layer, or of all together: local, global.
    """

    operator: ClassVar[str] = "prune"
    sparsity: float = 0.5
    method: str = "l1"
    scope: str = "local"


@dataclass(kw_only=True)
class SignMagnitude(CodecConfig):
    """The values of `integer`; halut.ops.sign_magnitude multiplies their magnitudes, unsigned.

    Args:
        per: what shares a scale; auto: channel for weights, tensor for activations: auto,
            tensor, channel, block.
        block: values of a block along the input axis.
        width: bits with the sign, 2..8.
        fraction: bits behind the point; None: calibrated.
        calibrate: the point: no value cut off, or least squared error: max, mse.
    """

    operator: ClassVar[str] = "sign_magnitude"
    per: str = "auto"
    block: int = 16
    width: int = 8
    fraction: int | None = None
    calibrate: str = "max"


CONFIGS: dict[str, type[Config]] = {
    kind.operator: kind
    for kind in (
        Exact,
        Tree,
        PQ,
        DecisionTree,
        ABCNet,
        Binary,
        BinaryResidual,
        BinaryScaling,
        BlockFP,
        BlockLog,
        BlockMinifloat,
        Chain,
        Integer,
        Log,
        LQNet,
        MinifloatDenorm,
        MinifloatIEEE,
        MXINT8,
        Prune,
        SignMagnitude,
    )
}
"""By the operator's name."""
