"""The layer of the codec family: y = Qx(x) Qw(W)' + Qb(b), trained straight through."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from halut.codecs import Codec, Layout
from halut.codecs.contraction import contractions
from halut.codecs.factors import QuantSpec, make_codec
from halut.configs import FACTORS
from halut.ops.core.finite import kept_finite
from halut.sites.find import Site, exact_product
from halut.sites.operator import ReplacedLayer, copied_parameters

FLOAT = 32
"""Bits of what is not quantized."""


class CodecLayer(ReplacedLayer):
    """y = Qx(x) Qw(W)' + Qb(b) at one site; a codec that is None keeps floats.

    `weight` [M, D] and `bias` [M] are the float masters that training moves; what is multiplied,
    in training too, are their quantized values. Quantization sees a weight as [M, taps, C] and an
    activation as [.., groups, C], C the inputs of one group at one kernel position: blocks of the
    two along C are the same inputs, and a pixel has one code whatever patch it is in.
    `contraction` names how the codes are multiplied once the layer is prepared for inference.
    """

    def __init__(
        self,
        site: Site,
        specs: dict[str, QuantSpec | None],
        contraction: str = "dense",
        source: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.site = site
        self.weight, self.bias = copied_parameters(site, source)
        layouts = self.layouts(site)
        by_role = {role: make_codec(specs.get(role), layouts[role]) for role in FACTORS}
        self.weight_codec, self.activation_codec = by_role["weight"], by_role["activation"]
        self.bias_codec = by_role["bias"] if site.bias else None
        self.contraction = contraction
        self.adds_bias_last = contractions[contraction].adds_bias_last

    @staticmethod
    def layouts(site: Site) -> dict[str, Layout]:
        """How the codecs see weight, activation and bias."""
        C = site.D // site.taps
        return {
            "weight": Layout("weight", (site.M, site.taps, C)),
            "activation": Layout("activation", (site.groups, C)),
            "bias": Layout("bias", (1, site.M)),
        }

    # -- learning ---------------------------------------------------------------------------

    def _calibrate(
        self,
        rows: Tensor,
        seed: int,
        progress: Callable[[int], None] | None,
        target_rows: Tensor | None,
    ) -> None:
        """Calibrate the codecs on the rows, the weight and the bias.

        What is drawn at random depends on `seed` and the site's name.
        """
        seed += zlib.crc32(self.site.name.encode())
        if self.activation_codec is not None:
            rows = rows.to(self.weight.device)
            taps, groups = self.site.taps, self.site.groups
            values = rows.view(len(rows), groups, -1, taps).permute(0, 3, 1, 2).flatten(0, 1)
            self.activation_codec.calibrate(values, seed=seed)
        self._require_finite(self.weight, "the weight holds")
        if self.weight_codec is not None:
            self.weight_codec.calibrate(self.canonical_weight().float(), seed=seed)
        if self.bias_codec is not None and self.bias is not None:
            self.bias_codec.calibrate(self.bias[None].float(), seed=seed)
        if progress is not None:
            progress(1)

    # -- the product ------------------------------------------------------------------------

    def canonical_weight(self) -> Tensor:
        """The master weight [M, taps, C]."""
        return self.weight.view(self.site.M, -1, self.site.taps).transpose(1, 2)

    def quantized_weight(self) -> Tensor:
        """Qw(W) [M, D]."""
        if self.weight_codec is None:
            return self.weight
        return self.weight_codec.quantize(self.canonical_weight()).transpose(1, 2).flatten(1)

    def quantized_bias(self) -> Tensor | None:
        """Qb(b) [M]."""
        if self.bias_codec is None or self.bias is None:
            return self.bias
        return self.bias_codec.quantize(self.bias[None])[0]

    def quantized_input(self, x: Tensor) -> Tensor:
        """Qx(x), of x's shape."""
        return quantized_input(self.activation_codec, x, self.site)

    def forward(self, input: Tensor) -> Tensor:
        x, weight, bias = (
            self.quantized_input(input),
            self.quantized_weight(),
            self.quantized_bias(),
        )
        if bias is None or not self.adds_bias_last:
            return exact_product(x, weight, bias, self.site)
        y = exact_product(x, weight, None, self.site)
        return y + (bias if self.site.geometry is None else bias[:, None, None])

    def exact(self, x: Tensor) -> Tensor:
        """The product of the float masters."""
        return exact_product(x, self.weight, self.bias, self.site)

    # -- training ---------------------------------------------------------------------------

    def factors(self) -> dict[str, Codec]:
        """The codecs there are, by what they quantize."""
        every = (self.weight_codec, self.activation_codec, self.bias_codec)
        return {role: c for role, c in zip(FACTORS, every, strict=True) if c is not None}

    def after_step(self, progress: float) -> None:
        for codec in self.factors().values():
            codec.after_step(progress)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        groups: dict[str, list[nn.Parameter]] = {"rest": [self.weight]}
        if self.bias is not None:
            groups["rest"].append(self.bias)
        for codec in self.factors().values():
            for role, parameters in codec.param_groups().items():
                groups.setdefault(role, []).extend(parameters)
        return groups

    @torch.no_grad()
    def diagnose(self, x: Tensor) -> dict[str, float]:
        """normalized_mse against the float masters on the same input; the share of inputs whose
        gradient is cut off (saturated); zeros among the quantized weights (weight_sparsity)."""
        figures = super().diagnose(x)
        figures["weight_sparsity"] = float((self.quantized_weight() == 0).float().mean())
        codec = self.activation_codec
        if codec is not None and codec.clips:
            values = canonical_input(x, self.site).float()
            gradient_mask = codec.gradient_mask(values, codec.scales(values))
            figures["saturated"] = (
                0.0 if gradient_mask is None else float((gradient_mask == 0).float().mean())
            )
        return figures

    def cost(self) -> dict[str, int]:
        """Multiply-adds and bits for one sample, and bytes of what inference must hold.

        macs are the exact product's: a narrow multiplication is one, and so is one by a pruned
        weight, as nothing here skips them. bops = (bits of a weight's code) * (bits of an
        activation's) * macs. weight_bits holds the weights' codes and shared scales; input_bits
        those of the rows * groups * D values that the product reads; weight_bytes also the bias and
        the calibrated scales.
        """
        site, by_role = self.site, self.factors()
        weight, activation = by_role.get("weight"), by_role.get("activation")
        bits = {role: codec.bits() for role, codec in by_role.items()}
        weight_bits = bits.get("weight", FLOAT * site.weights)
        bias_bits = bits.get("bias", FLOAT * (site.M if site.bias else 0))
        positions = site.rows * site.taps  # of groups * C inputs each
        inputs = activation.layout.numel if activation else site.groups * site.D // site.taps
        state = (
            sum(4 * tensor.numel() for tensor in activation.state_dict().values())
            if activation
            else 0
        )
        wide = (codec.width if codec else FLOAT for codec in (weight, activation))
        return {
            "macs": site.macs,
            "bops": site.macs * next(wide) * next(wide),
            "weight_bits": weight_bits,
            "input_bits": positions * bits.get("activation", FLOAT * inputs),
            "weight_bytes": -(-weight_bits // 8) + -(-bias_bits // 8) + state,
        }

    @torch.no_grad()
    def export(self) -> dict[str, Tensor]:
        """Packed codes and scales of weight and bias, or floats, and what activations need."""
        exported: dict[str, Tensor] = {}
        tensors = {"weight": self.canonical_weight()}
        if self.bias is not None:
            tensors["bias"] = self.bias[None]
        for role, tensor in tensors.items():
            codec = self.factors().get(role)
            packed = {"float": tensor} if codec is None else codec.export(tensor)
            exported.update({f"{role}.{name}": value for name, value in packed.items()})
        if self.activation_codec is not None:
            state = self.activation_codec.state_dict()
            exported.update({f"activation.{name}": value for name, value in state.items()})
        return exported

    def extra_repr(self) -> str:
        return f"{self.site.describe()}, {self.contraction}"


class CodecLinear(CodecLayer):
    """x [.., D] -> [.., M]; see CodecLayer."""


class CodecConv2d(CodecLayer):
    """x [B, C_in, H, W] -> [B, M, OH, OW]; groups, stride, dilation, padding; see CodecLayer.

    The zeros that padding adds stay zeros, also where a codec has no zero.
    """


def canonical_input(x: Tensor, site: Site) -> Tensor:
    """A view of a layer's input as codecs see it: [.., groups, C]."""
    if site.geometry is None:
        return x.unsqueeze(-2)
    return x.permute(0, 2, 3, 1).unflatten(-1, (site.groups, -1))


def quantized_input(codec: Codec | None, x: Tensor, site: Site) -> Tensor:
    """Qx(x), of x's shape; NaN where x is NaN or infinite, whatever code that would have."""
    if codec is None:
        return x
    q = codec.quantize(canonical_input(x, site))
    return kept_finite(
        q.squeeze(-2) if site.geometry is None else q.flatten(-2).permute(0, 3, 1, 2), x
    )
