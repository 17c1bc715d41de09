"""Configurations of the operators by codecs: y = contract(Qx(x), Qw(W))."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from halut.configs.base import Config, checked_values, documented
from halut.errors import HalutError
from halut.option import between, choice, option, where

FACTORS = ("weight", "activation", "bias")
SAME = "same"
GRADIENTS = ("auto", "identity", "clipped")
PER_CHANNEL = ("auto", "tensor", "channel")
PER_BLOCK = ("auto", "tensor", "channel", "block")
EXPONENT = 127
"""Scales are powers of two between 2^-127 and 2^127."""

PER = "what shares a scale; auto: channel for weights, tensor for activations"
BLOCK = "values of a block along the input axis"
pruned = where(lambda own: own.sparsity > 0, "it needs sparsity above 0")


@dataclass(kw_only=True)
class _AnyCodec:
    """Options of every codec of halut; None: left open."""

    width: int | None = option(None, "bits of a code; abcnet: bases")
    per: str | None = option(None, f"what shares a scale: {', '.join(PER_BLOCK)}")
    block: int | None = option(None, BLOCK)
    fraction: int | None = option(None, "integer: bits behind the point")
    calibrate: str | None = option(None, "integer: how the point is chosen: max, mse")
    exponent: int | None = option(None, "minifloats: bits of the exponent")
    exponent_bias: int | None = option(None, "log and minifloats: bias of the exponent")
    levels: int | None = option(None, "binary_residual: signs")
    fitted: bool | None = option(None, "lqnet, binary_residual: start fitted to the data")
    unsigned: bool | None = option(None, "binary: {0, 1} times mean abs, not +-1")
    sparsity: float | None = option(None, "prune: share of zeros")
    method: str | None = option(None, "prune: which become zero: l1, random")
    scope: str | None = option(None, "prune: of each layer, or of all together: local, global")


@dataclass(kw_only=True)
class _Factor:
    name: str | None = option(SAME, "a codec; same: the operator's; null: float")
    gradient: str | None = option(None, "zero where saturated, or not", choices=GRADIENTS)
    codecs: list[str] | None = option(None, "chain: prune, then a number format")


@documented
@dataclass(kw_only=True)
class FactorConfig(_AnyCodec, _Factor):
    """Codec of one factor: halut.weight, halut.activation or halut.bias.

    What is None is the operator's own option of that name, else the codec's default.
    """


@documented
@dataclass(kw_only=True)
class CodecConfig(Config):
    """Which codecs quantize weight, activations and bias, and how the codes are multiplied.

    `weight`, `activation` and `bias` are each a FactorConfig, or in Python what stands for one:
    another configuration, such as `halut.Binary(per="channel")`, the name of a codec, a mapping
    with `name` and options, or None: float.
    """

    weight: Any = option(
        FactorConfig, "codec of the weight: its name and options, where they differ; null: float"
    )
    activation: Any = option(FactorConfig, "codec of the layer's input, likewise; null: float")
    bias: Any = option(
        lambda: FactorConfig(name=None), "codec of the bias, likewise; it is float unless asked"
    )
    contraction: str = option(
        "auto", "how codes are multiplied: auto, dense, sign_magnitude, popcount"
    )
    gradient: str = option(
        "auto",
        "straight-through; clipped: zero where saturated; auto: clipped for activations",
        choices=GRADIENTS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("halut.gradient", self.gradient, GRADIENTS)

    def options(self) -> dict[str, Any]:
        options = super().options()
        return {**options, **{role: factor_options(options[role]) for role in FACTORS}}


def factor_options(factor: Any) -> dict[str, Any]:
    """The codec of one factor as plain values: its name, and the options that are given."""
    if isinstance(factor, CodecConfig):
        default = type(factor)()
        for key in (*FACTORS, "contraction"):
            if getattr(factor, key) != getattr(default, key):
                raise HalutError(
                    f"{type(factor).__name__}(...) is the codec of one factor: it has no {key}"
                )
        options = {key: getattr(factor, key) for key in codec_options(type(factor))}
        return {"name": factor.name, **options}
    if isinstance(factor, FactorConfig):
        return {"name": factor.name} | {k: v for k, v in vars(factor).items() if v is not None}
    if isinstance(factor, Mapping):
        return {"name": SAME, **factor}
    if factor is None or isinstance(factor, str):
        return {"name": factor}
    raise HalutError(f"a codec is a configuration, a name, a mapping or None, got {factor!r}")


def check_factor(role: str, options: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """Raise HalutError for an option of a factor that no codec has, or of a wrong type."""
    checked_values(FactorConfig, options, f"halut.{role}.", extra)


def codec_options(kind: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a CodecConfig that are the codec's own, and not the operator's."""
    ours = ("name", *FACTORS, "contraction")
    return {field.name: field for field in dataclasses.fields(kind) if field.name not in ours}


def check_minifloat(width: int, exponent: int, least_mantissa: int = 0) -> None:
    """Raise HalutError unless sign, exponent and mantissa fit the width, and float32 the range."""
    between("halut.width", width, 2 + least_mantissa, 16)
    highest = min(width - 1 - least_mantissa, 7)
    why = "the sign and the mantissa need bits too" if highest < 7 else "float32 has no wider range"
    between("halut.exponent", exponent, 1, highest, f"of {width} bits, {why}")


@dataclass(kw_only=True)
class _Granular(CodecConfig):
    """What shares an exponent; auto: each output channel of a weight, all of the activations."""

    fixed: ClassVar[str] = ""
    """The option that fixes the exponent, where it is not null; "": none does."""

    per: str = option(
        "auto",
        PER,
        choices=PER_BLOCK,
        needs=where(lambda own: not own.is_fixed(), "a fixed scale is shared by all"),
    )
    block: int = option(
        16,
        BLOCK,
        needs=where(lambda own: own.per == "block" and not own.is_fixed(), "it needs per=block"),
    )

    def is_fixed(self) -> bool:
        """True if an option gives the exponent."""
        return bool(self.fixed) and getattr(self, self.fixed) is not None

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("halut.per", self.per, PER_BLOCK)
        between("halut.block", self.block, 1, 65_536)


@dataclass(kw_only=True)
class _Blocks(CodecConfig):
    """A shared exponent for every `block` values along the input axis; the last may be shorter."""

    block: int = option(16, BLOCK)

    def __post_init__(self) -> None:
        super().__post_init__()
        between("halut.block", self.block, 1, 65_536)


@documented
@dataclass(kw_only=True)
class Integer(_Granular):
    """Fixed point: q = clamp(round_half_even(x 2^f), -2^(w-1), 2^(w-1) - 1) / 2^f.

    calibrate: `max`, the largest f with max abs x < 2^(w-1-f), so that nothing loses more than a
    step; `mse`, the f of least squared error among that and the three above it.
    """

    name: str = "integer"
    fixed: ClassVar[str] = "fraction"
    width: int = option(8, "bits with the sign, 2..32")
    fraction: int | None = option(None, "bits behind the point; null: calibrated")
    calibrate: str = option(
        "max",
        "the point: no value cut off, or least squared error",
        choices=("max", "mse"),
        needs=where(lambda own: own.fraction is None, "it needs fraction=null"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        between("halut.width", self.width, 2, 32)
        choice("halut.calibrate", self.calibrate, ("max", "mse"))
        if self.fraction is not None:
            between("halut.fraction", self.fraction, -EXPONENT, EXPONENT)


@documented
@dataclass(kw_only=True)
class SignMagnitude(Integer):
    """The values of `integer`; halut.ops.sign_magnitude multiplies their magnitudes, unsigned.

    Up to a byte, and without blocks: a sum of products has one scale. A magnitude has all `width`
    bits, so that -2^(width - 1) has one too: |-128| = 128.
    """

    name: str = "sign_magnitude"
    width: int = option(8, "bits with the sign, 2..8")

    def __post_init__(self) -> None:
        super().__post_init__()
        between("halut.width", self.width, 2, 8, "magnitudes are bytes")
        choice("halut.per", self.per, PER_CHANNEL)


@documented
@dataclass(kw_only=True)
class Log(_Granular):
    """Powers of two: sign(x) 2^clamp(round(log2 |x|), -b, 2^(w-1) - 1 - b), zero only for zero."""

    name: str = "log"
    fixed: ClassVar[str] = "exponent_bias"
    width: int = option(8, "bits, 2..8")
    exponent_bias: int | None = option(None, "bias of the exponent; null: calibrated")

    def __post_init__(self) -> None:
        super().__post_init__()
        between("halut.width", self.width, 2, 8, "float32 has no wider range")
        if self.exponent_bias is not None:
            between("halut.exponent_bias", self.exponent_bias, 2 ** (self.width - 1) - 128, 126)


@documented
@dataclass(kw_only=True)
class MinifloatIEEE(CodecConfig):
    """Minifloat: Nearest of +-(1 + m 2^-M) 2^(e - bias) and the subnormals +-m 2^(1 - bias - M).

    `width` bits: sign, `exponent` bits, and the mantissa in the rest.
    """

    name: str = "minifloat_ieee"
    least_mantissa: ClassVar[int] = 0
    width: int = option(8, "bits, 2..16")
    exponent: int = option(4, "bits of the exponent")
    exponent_bias: int | None = option(None, "null: 2^(exponent - 1) - 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minifloat(self.width, self.exponent, self.least_mantissa)
        if self.exponent_bias is not None:
            between("halut.exponent_bias", self.exponent_bias, 2**self.exponent - 128, 126)


@documented
@dataclass(kw_only=True)
class MinifloatDenorm(MinifloatIEEE):
    """Minifloat without normal numbers: Nearest of +-m 2^-M 2^(e - bias), m in [0, 2^M): ties to
    even m, saturating.

    `width` bits: sign, `exponent` bits, and the mantissa, of one bit at least, in the rest.
    """

    name: str = "minifloat_denorm"
    least_mantissa: ClassVar[int] = 1


@documented
@dataclass(kw_only=True)
class BlockFP(_Blocks):
    """Block floating point: m 2^(E - w + 2), E = floor(log2 max abs x) of the block, m rounded to
    even within +-(2^(w-1) - 1).
    """

    name: str = "block_fp"
    width: int = option(8, "bits with the sign, 2..24")

    def __post_init__(self) -> None:
        super().__post_init__()
        between("halut.width", self.width, 2, 24, "float32 has no longer mantissa")


@documented
@dataclass(kw_only=True)
class BlockLog(_Blocks):
    """Block logarithmic: log elements, the highest of them the power of two nearest to the
    block's maximum.
    """

    name: str = "block_log"
    width: int = option(4, "bits, 2..8")

    def __post_init__(self) -> None:
        super().__post_init__()
        between("halut.width", self.width, 2, 8, "float32 has no wider range")


@documented
@dataclass(kw_only=True)
class BlockMinifloat(_Blocks):
    """Block minifloat: minifloat_ieee elements, their bias the highest at which the block's
    maximum is in range.
    """

    name: str = "block_minifloat"
    width: int = option(8, "bits, 2..16")
    exponent: int = option(4, "bits of the exponent")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minifloat(self.width, self.exponent)


@documented
@dataclass(kw_only=True)
class MXINT8(CodecConfig):
    """MXINT8: (m / 64) 2^floor(log2 max abs x) of the block of 32, m rounded to even within
    +-127.
    """

    name: str = "mxint8"


@documented
@dataclass(kw_only=True)
class BinaryScaling(CodecConfig):
    """XNOR-Net: alpha where x >= 0, else -alpha; alpha = mean abs x, of all scales that of least
    squared error.
    """

    name: str = "binary_scaling"
    per: str = option("auto", PER, choices=PER_CHANNEL)

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("halut.per", self.per, PER_CHANNEL)


@documented
@dataclass(kw_only=True)
class Binary(BinaryScaling):
    """Signs: +1 where x >= 0, else -1; unsigned: mean abs x where x > 0, else 0, so that zero
    stays.
    """

    name: str = "binary"
    unsigned: bool = option(False, "{0, 1} times mean abs, not +-1")


@documented
@dataclass(kw_only=True)
class BinaryResidual(CodecConfig):
    """Residual binarization: q = sum_l |g_l| sign(r_l), r_1 = x, r_(l+1) = r_l - |g_l| sign(r_l);
    bit l of a code is 1 where r_l >= 0.
    """

    name: str = "binary_residual"
    levels: int = option(2, "signs, 1..8")
    fitted: bool = option(True, "start from the residuals' means; false: 2/3, 1/3")

    def __post_init__(self) -> None:
        super().__post_init__()
        between("halut.levels", self.levels, 1, 8)


@documented
@dataclass(kw_only=True)
class ABCNet(CodecConfig):
    """ABC-Net: q = sum_n alpha_n (+1 or -1 by bit n of the code).

    `width` bases, M of weights, N of activations.
    """

    name: str = "abcnet"
    width: int = option(3, "bases, 1..8")
    per: str = option("auto", "what of a weight shares its factors", choices=PER_CHANNEL)

    def __post_init__(self) -> None:
        super().__post_init__()
        between("halut.width", self.width, 1, 8)
        choice("halut.per", self.per, PER_CHANNEL)


@documented
@dataclass(kw_only=True)
class LQNet(CodecConfig):
    """LQ-Nets: q = v . b, the nearest of 2^n levels, the lower one of a tie; bit j of a code is
    b_j > 0.
    """

    name: str = "lqnet"
    width: int = option(2, "bits n, 1..4")
    fitted: bool = option(True, "start fitted to the data; false: as published")

    def __post_init__(self) -> None:
        super().__post_init__()
        between("halut.width", self.width, 1, 4)


@documented
@dataclass(kw_only=True)
class Prune(CodecConfig):
    """Pruning: x where `mask`, else 0; round(sparsity * numel) zeros, as torch.nn.utils.prune has
    them.
    """

    name: str = "prune"
    sparsity: float = option(0.5, "share of zeros, from 0 to below 1")
    method: str = option(
        "l1",
        "which become zero: l1, the smallest, or random ones",
        choices=("l1", "random"),
        needs=pruned,
    )
    scope: str = option(
        "local",
        "a share of each layer, or of all together",
        choices=("local", "global"),
        needs=pruned,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("halut.method", self.method, ("l1", "random"))
        choice("halut.scope", self.scope, ("local", "global"))
        if not 0 <= self.sparsity < 1:
            raise HalutError(f"halut.sparsity must be at least 0 and below 1, got {self.sparsity}")


@documented
@dataclass(kw_only=True)
class Chain(_AnyCodec, CodecConfig):
    """What pruning leaves, in a number format; what it has set to zero stays zero.

    The other options are those of the codecs in the chain, by their own names; what is None is the
    codec's default.
    """

    name: str = "chain"
    codecs: list[str] = option(["prune", "integer"], "prune, then a number format")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(isinstance(name, str) for name in self.codecs):
            raise HalutError(f"halut.codecs are names such as prune, got {self.codecs}")
