"""The layers of the table family: encode, look up, add; trained straight through."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from halut.configs.tables import HARD_ESTIMATORS
from halut.encoders import Encoder, LookupTable, as_answer
from halut.errors import HalutError
from halut.layers.shared_input import Reading
from halut.layers.shared_product import SharedCodes
from halut.layers.table_layer import TableLayer, start_of
from halut.ops import ConvGeometry, accumulate, carry_gradient, identity_gradient
from halut.ops.core.edges import with_edges
from halut.ops.epilogue import as_map
from halut.ops.power_of_two import commitment_mse, normalized_mse, unit_of
from halut.ops.table_quantization import (
    average_groups,
    clipping_rate,
)
from halut.sites.find import exact_product


class LUTLayer(TableLayer):
    """y[n, m] = sum_c lut[c, code_c(x_n), m] + bias[m] at one site.

    The forward value is always the hard one: integer codes, quantized table; in training mode alone
    codes may be of noisy inputs (`noise`) and tables floats at first (`quantize_from`). `estimator`
    decides the gradient only (maths: Blalock and Guttag 2021; Tang et al. 2023; Schoenleber et al.
    2023): `tree` and `soft` relax the codes, `flip` takes the difference that one test of a tree
    makes if it comes out the other way, `identity` hands on the exact product's input
    gradient, and `blend` moves from the first to the second over a stage; `rotation` and `diveq`
    carry the gradient at the prototypes to the inputs (halut.ops.nearest.carry).
    """

    def forward(self, input: Tensor) -> Tensor:
        """The hard table product in the exact layer's shape and dtype."""
        x, geometry = self.encoder_input(input)
        if self.revival is not None and self.training and torch.is_grad_enabled():
            self.revival.note(x, geometry)
        if self.options.noise and self.training:
            x = self.with_noise(x)
        encoder: Encoder | SharedCodes = self.encoder
        table, ste_mix = self.lookup_table(), 1.0
        if self.estimator == "blend":
            ste_mix = self.ste_mix
        if self.readers is not None:
            shared_mix = None if self.estimator in HARD_ESTIMATORS else ste_mix
            reading = Reading(self.encoder, self.tau, x, geometry, shared_mix)
            encoder = self.readers.encoded(self, input, reading) or encoder
        if self.estimator in HARD_ESTIMATORS or self.options.average is not None:
            y = self._by_parts(encoder, x, geometry, table, ste_mix)
        else:
            y = encoder.lookup(x, geometry, table, self.tau, ste_mix)
        if y.ndim != input.ndim:
            y = self.reshape_output(y, input)
        if self.estimator in ("identity", "blend"):
            y = self.with_input_gradient(y, input)
        return y if y.dtype == input.dtype else y.to(input.dtype)

    def with_noise(self, x: Tensor) -> Tensor:
        """x + noise * RMS(x) * e, e standard normal, x as the encoder reads it.

        The gradient reaches x as that of x itself: the RMS, over the whole of x, has none.
        """
        rms = x.detach().float().square().mean().sqrt()
        return x + (self.options.noise * rms).to(x.dtype) * torch.randn_like(x)

    def _by_parts(
        self,
        encoder: Encoder | SharedCodes,
        x: Tensor,
        geometry: ConvGeometry | None,
        table: LookupTable,
        ste_mix: float,
    ) -> Tensor:
        """Encoder.lookup where codes have no gradient of their own, or averages replace sums."""
        codes, (lut, entries) = encoder.codes(x.detach(), geometry), table.in_units_of_scale()
        if self.estimator in HARD_ESTIMATORS:
            sums = accumulate(codes, lut + (entries - lut).detach())
        else:
            sums = encoder.sums(x, geometry, lut, entries, self.tau, ste_mix)
        if self.options.average is not None and table.scale is not None:
            averaged = average_groups(codes, entries, self.options.average)
            sums = sums + (averaged - sums).detach()
        y = table.apply_scale(sums)
        if self.estimator in ("rotation", "diveq") and torch.is_grad_enabled():
            weight = self.encoder.transformed_weight(self.weight.detach())
            P, W = self.encoder.prototypes, self.encoder.times_unit(weight)
            assert isinstance(P, Tensor)
            y = carry_gradient(y, x, codes, P, W, self.estimator, geometry)
        if self.estimator in HARD_ESTIMATORS and torch.is_grad_enabled():
            y = with_edges(y, self.parameters())  # some of them are not trained
        return as_answer(y, x, geometry, self.site.groups)

    @property
    def ste_mix(self) -> float:
        """Share of the relaxed codes in the gradient."""
        return 1.0 - float(self.blend) if self.estimator == "blend" else 1.0

    def with_input_gradient(self, y: Tensor, x: Tensor) -> Tensor:
        """y unchanged; its gradient also reaches x as the exact product's, where asked."""
        if self.estimator not in ("identity", "blend") or not torch.is_grad_enabled():
            return y
        share = 1.0 if self.estimator == "identity" else float(self.blend)
        return self.exact_gradient(y, x, share)

    def exact(self, x: Tensor) -> Tensor:
        """What the exact layer would answer."""
        return exact_product(x, self.weight, self.bias, self.site)

    def codes(self, x: Tensor) -> Tensor:
        """Codes [N, G * C] of the layer's input."""
        return self.encoder.codes(*self.encoder_input(x.detach()))

    def table_losses(self, x: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """Those of the losses reconstruction and commitment that are named, of the input x.

        With the float table's answer y_hat = x_hat W', the exact one y = x W' and sg(.) a constant,

            reconstruction = ||y_hat - sg(y)||^2 / ||sg(y)||^2
            commitment     = ||sg(y_hat) - y||^2 / ||sg(y)||^2

        The first trains tables and prototypes (and the weight they derive from), the second what
        is in front of the layer, and the weight where it is a parameter. Source: Li et al., PIM-DL
        (eLUT-NN), ASPLOS 2024.
        """
        with torch.set_grad_enabled("commitment" in names and torch.is_grad_enabled()):
            exact = exact_product(x, self.weight, None, self.site)
        with torch.set_grad_enabled("reconstruction" in names and torch.is_grad_enabled()):
            derived = self.options.parameterization == "derived"
            lut = self._derived_lut(self._table_prototypes()) if derived else self.full_lut()
            y = self.reshape_output(accumulate(self.codes(x), lut), x)
        losses = {}
        if "reconstruction" in names:
            losses["reconstruction"] = normalized_mse(y, exact.detach())
        if "commitment" in names:
            losses["commitment"] = commitment_mse(y, exact)
        return losses

    # -- figures ----------------------------------------------------------------------------

    @torch.no_grad()
    def diagnose(self, x: Tensor) -> dict[str, float]:
        """Figures of one layer on one batch x, for the logs.

        normalized_mse against the exact layer on the same input; code_perplexity and dead
        prototypes; drift, the relative distance of the encoder's parameters from where learning
        left them; soft_hard_gap, the relative difference of the relaxed and the hard product; the
        share of table entries clipped; the temperature.
        """
        inputs = self.encoder.gather_columns(*self.encoder_input(x))
        codes = self.encoder.encode(inputs)
        perplexity, dead = code_usage(codes, self.options.K)
        lut = self.full_lut()
        table = self.table(lut)
        figures = {
            "normalized_mse": float(normalized_mse(self.forward(x), self.exact(x))),
            "code_perplexity": perplexity,
            "dead_prototypes": float(dead),
            "drift": self._drift(),
            "clipping_rate": clipping_rate(lut, table) if table is not None else 0.0,
            "tau": float(self.tau.mean()),
        }
        if self.estimator not in HARD_ESTIMATORS:
            figures["soft_hard_gap"] = self._soft_hard_gap(inputs[:1024], codes[:1024], lut)
        return figures

    def _drift(self) -> float:
        change = power = 0.0
        for name, parameter in self.encoder.named_parameters():
            start = self.get_buffer(start_of(name))
            change += float((parameter - start).square().sum())
            power += float(start.square().sum())
        return (change / power) ** 0.5 if power else 0.0

    def _soft_hard_gap(self, inputs: Tensor, codes: Tensor, lut: Tensor) -> float:
        G, C, K, _ = lut.shape
        lut = lut / unit_of(float(lut.abs().max()))
        soft = self.encoder.assign(inputs, self.tau).view(-1, G, C, K).to(lut.dtype)
        hard = torch.nn.functional.one_hot(codes.long().view(-1, G, C), K).to(lut.dtype)
        difference = torch.einsum("ngck,gckm->ngm", soft - hard, lut)
        return float((difference.square().sum() / _power(hard, lut)).sqrt())

    # -- geometry (subclasses) --------------------------------------------------------------

    def encoder_input(self, x: Tensor) -> tuple[Tensor, ConvGeometry | None]:
        """Where the encoder's rows are, as `Encoder.transformed` gives them.

        Rows [N, D], or a map and its geometry.
        """
        raise NotImplementedError

    def exact_gradient(self, y: Tensor, x: Tensor, share: float) -> Tensor:
        """y unchanged; x also gets `share` of the exact layer's input gradient."""
        raise NotImplementedError

    def reshape_output(self, y: Tensor, x: Tensor) -> Tensor:
        """Rows [N, M] in the shape of the layer's output; the output itself stays as it is."""
        raise NotImplementedError


def code_usage(codes: Tensor, K: int) -> tuple[float, int]:
    """Mean perplexity over codebooks (1..K) and the number of prototypes no row chose.

    codes [N, C]; see usage_of.
    """
    return usage_of(code_counts(codes, K))


def code_counts(codes: Tensor, K: int) -> Tensor:
    """How often each of K prototypes was chosen: codes [N, C] -> [C, K] int64."""
    C = codes.shape[1]
    joint = codes.long() + K * torch.arange(C, device=codes.device)
    return torch.bincount(joint.flatten(), minlength=C * K).view(C, K)


def usage_of(counts: Tensor) -> tuple[float, int]:
    """Mean perplexity over codebooks and the number of unused prototypes, of counts [C, K].

    The perplexity of one codebook is exp of the entropy of its code frequencies.
    """
    counts = counts.double()
    share = counts / counts.sum(dim=1, keepdim=True).clamp_min(1)
    entropy = -(share * share.clamp_min(1e-30).log()).sum(dim=1)
    return float(entropy.exp().mean()), int((counts == 0).sum())


def _power(hard: Tensor, lut: Tensor) -> Tensor:
    return torch.einsum("ngck,gckm->ngm", hard, lut).square().sum().clamp_min(1e-30)


class LUTLinear(LUTLayer):
    """x [..., D] -> [..., M]; see LUTLayer."""

    def encoder_input(self, x: Tensor) -> tuple[Tensor, ConvGeometry | None]:
        if x.shape[-1] != self.site.D:
            raise HalutError(
                f"{self.site.name} takes {self.site.D} inputs, got x of shape {list(x.shape)}"
            )
        rows, transform = self.encoder.in_units(x.reshape(-1, self.site.D)), self.encoder.transform
        return (rows if transform is None else transform(rows)), None

    def reshape_output(self, y: Tensor, x: Tensor) -> Tensor:
        return y.view(*x.shape[:-1], self.site.M)

    def exact_gradient(self, y: Tensor, x: Tensor, share: float) -> Tensor:
        return identity_gradient(y, x, self.weight, None, share)


class LUTConv2d(LUTLayer):
    """x [B, C_in, H, W] -> [B, M, OH, OW]; groups, depthwise, stride, dilation, padding.

    The rows are the im2col rows, channel-major, which an encoder with its own operator reads from
    the map in place.
    See LUTLayer.
    """

    def encoder_input(self, x: Tensor) -> tuple[Tensor, ConvGeometry]:
        geometry = self.site.geometry
        assert geometry is not None
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise HalutError(
                f"{self.site.name} takes maps [B, {self.channels}, H, W], got {list(x.shape)}"
            )
        units, transform = self.encoder.in_units(x), self.encoder.transform
        inputs = units if transform is None else transform(units)
        return inputs, geometry.on(x) if geometry.same else geometry

    def reshape_output(self, y: Tensor, x: Tensor) -> Tensor:
        assert self.site.geometry is not None
        return as_map(y, x, self.site.geometry)

    def exact_gradient(self, y: Tensor, x: Tensor, share: float) -> Tensor:
        assert self.site.geometry is not None
        geometry = self.site.geometry.on(x)
        weight = self.weight.view(self.site.M, -1, *geometry.kernel_size)
        return identity_gradient(y, x, weight, geometry, share)
