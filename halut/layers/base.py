"""The layer of the table family: encode, look up, add; trained straight through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from halut.encoders import encoders, shared_prototypes
from halut.errors import HalutError
from halut.layers.diagnostics import diagnose, start_of
from halut.layers.operator import encoder_options
from halut.layers.options import TableOptions
from halut.layers.product import table_product
from halut.ops import ConvGeometry, accumulate
from halut.ops.blocks import Blocks
from halut.ops.core.finite import marked
from halut.ops.power_of_two import normalised_mse, unit_of
from halut.ops.table_quantization import QuantisedTable, best_clip, quantise_table
from halut.prototypes.ridge import blockwise_lut, refine, refine_prototypes
from halut.sites.find import Site, exact_product
from halut.sites.operator import ReplacedLayer, copied_parameters


class LUTLayer(ReplacedLayer):
    """y[n, m] = sum_c lut[c, code_c(x_n), m] + bias[m] at one site.

    The forward value is always the hard one: integer codes, quantised table. `estimator` decides
    the gradient only (maths: Blalock and Guttag 2021; Tang et al. 2023; Schoenleber et al. 2023):
    `tree` and `soft` relax the codes, `identity` hands on the exact product's input gradient, and
    `blend` moves from the first to the second over a stage. Parameterisation `free` trains the
    table [G, C, K, M_g] itself; `derived` trains prototypes and the weight, lut = P W'.

    `weight` [M, D] is the exact layer's: a parameter if tables derive from it, else a buffer kept
    for error figures, the identity estimator and the reconstruction loss.
    """

    weight: Tensor
    tau: nn.Parameter
    clip: Tensor
    blend: Tensor

    def __init__(
        self, site: Site, encoder: str, options: TableOptions, source: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.site, self.options, self.encoder_name = site, options, encoder
        self.blocks = Blocks(site.D, options.codebooks(site), site.groups)
        kind = encoders[encoder]
        self.encoder = kind(self.blocks, options.K, encoder_options(encoder, options))
        self.estimator = kind.estimators[0] if options.estimator == "auto" else options.estimator
        weight, self.bias = copied_parameters(site, source)
        G, C, M = site.groups, self.blocks.C, site.M // site.groups
        if options.parameterisation == "free":
            self.register_buffer("weight", weight.detach())
            self.lut = nn.Parameter(torch.zeros(G, C, options.K, M))
        else:
            self.weight = weight
            if not self.shares_prototypes:
                width = site.D if options.ridge is not None else self.blocks.V
                self.prototypes = nn.Parameter(torch.zeros(G * C, options.K, width))
        self.tau = nn.Parameter(torch.ones(G * C if options.tau_per == "codebook" else ()))
        self.register_buffer("clip", torch.ones(()))
        self.register_buffer("blend", torch.zeros(()))
        for name, parameter in self.encoder.named_parameters():
            self.register_buffer(start_of(name), torch.zeros_like(parameter))
        self._rows: list[Tensor] = []
        self.encoder_shared = False
        self.encoder.shared.join(self)

    def share(self, other: LUTLayer) -> None:
        """Encode by `other`'s encoder, at its temperature; inputs of both are encoded once."""
        self.encoder, self.tau, self.encoder_shared = other.encoder, other.tau, True
        self.encoder.shared.join(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.encoder.shared.join(self)

    # -- learning ---------------------------------------------------------------------------

    @property
    def shares_prototypes(self) -> bool:
        """True if derived tables use the prototypes the encoder compares with (no ridge)."""
        return hasattr(self.encoder, "prototypes") and self.options.ridge is None

    def observe(self, rows: Tensor) -> None:
        if rows.ndim != 2 or rows.shape[1] != self.blocks.inputs:
            raise HalutError(
                f"{self.site.name}: rows must be [N, {self.blocks.inputs}], got {list(rows.shape)}"
            )
        self._rows.append(rows.detach().float().cpu())

    def fit(self, seed: int = 0, progress: Any = None) -> None:
        """Learn table, and encoder and temperature unless they are another layer's; forget rows."""
        if not self._rows:
            raise HalutError(f"{self.site.name}: no calibration rows were observed")
        rows, self._rows = torch.cat(self._rows), []
        if not bool(torch.isfinite(rows).all()):
            raise HalutError(f"{self.site.name}: calibration rows hold NaN or infinite values")
        device = self.weight.device
        self.cpu()
        with torch.no_grad():
            weight = self.weight.detach().float()
            if not bool(torch.isfinite(weight).all()):
                raise HalutError(f"{self.site.name}: the weight holds NaN or infinite values")
            if not self.encoder_shared:
                self.encoder.unit.fill_(unit_of(float(rows.abs().max())))
            rows = self.encoder.in_units(rows)
            if self.encoder_shared:
                prototypes = shared_prototypes(self.encoder, rows)
            else:
                prototypes = self.encoder.learn(rows, seed=seed, weight=weight, progress=progress)
            self._fit_table(rows, prototypes, weight)
            if not self.encoder_shared:
                tau = self.options.tau
                self.tau.fill_(tau if tau is not None else self.encoder.initial_tau(rows))
            if self.options.bits is not None and self.options.clip == "mse":
                self.clip.fill_(best_clip(self.full_lut(), self.options.bits, self.options.scale))
            for name, parameter in self.encoder.named_parameters():
                self.get_buffer(start_of(name)).copy_(parameter)
        self.to(device)
        self.encoder.shared.forget()

    def _fit_table(self, rows: Tensor, prototypes: Tensor, weight: Tensor) -> None:
        codes = self.encoder.codes(rows)
        if self.options.parameterisation == "free":
            lut = refine(codes, prototypes, rows, weight, self.options.ridge)
            self.lut.copy_(self.encoder.times_unit(lut))
        elif not self.shares_prototypes:
            if self.options.ridge is not None:
                prototypes = refine_prototypes(
                    codes, prototypes, rows, self.site.groups, self.options.ridge
                )
            self.prototypes.copy_(prototypes)

    # -- the product ------------------------------------------------------------------------

    def full_lut(self) -> Tensor:
        """The unquantised table [G, C, K, M_g]; lut = P W' if it is derived."""
        if self.options.parameterisation == "free":
            return self.lut
        # With `identity`, prototypes learn from the reconstruction term alone.
        P = self._table_prototypes()
        return self._derived_lut(P.detach() if self.estimator == "identity" else P)

    def _table_prototypes(self) -> Tensor:
        P = self.encoder.prototypes if self.shares_prototypes else self.prototypes
        assert isinstance(P, Tensor)
        return P

    def _derived_lut(self, P: Tensor) -> Tensor:
        """P W' for prototypes of their block's inputs, or of all D (refined by ridge).

        Prototypes are in the encoder's unit, tables are not.
        """
        G, C, K = self.site.groups, self.blocks.C, self.options.K
        if P.shape[-1] == self.site.D and C > 1:
            W = self.weight.view(G, -1, self.site.D)  # [G, M_g, D]
            return self.encoder.times_unit(torch.einsum("gckd,gmd->gckm", P.view(G, C, K, -1), W))
        return self.encoder.times_unit(blockwise_lut(P, self.weight, self.blocks))

    def table(self, lut: Tensor) -> QuantisedTable | None:
        """The quantised form of `lut`, or None for float tables."""
        if self.options.bits is None:
            return None
        return quantise_table(lut, self.options.bits, self.options.scale, self.clip)

    def product(self, x: Tensor) -> Tensor:
        """Table product of the layer's input with bias: rows [N, M], or the layer's output."""
        return table_product(self, self.encoder.in_units(x))

    def relax(self) -> float:
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

    # -- training ---------------------------------------------------------------------------

    def after_step(self, progress: float) -> None:
        with torch.no_grad():
            self.tau.clamp_(min=1e-4)
            self.blend.fill_(min(max(progress, 0.0), 1.0))
        self.encoder.shared.forget()

    def reconstruction(self, x: Tensor) -> Tensor:
        """||x_hat W' - x W'||^2 over the exact answer's power: a loss for tables and prototypes."""
        with torch.no_grad():
            x = x.detach()
            wanted = exact_product(x, self.weight, None, self.site)
            codes = self.codes(x)
        derived = self.options.parameterisation == "derived"
        lut = self._derived_lut(self._table_prototypes()) if derived else self.full_lut()
        y = self.shaped(accumulate(codes, lut), x)
        return normalised_mse(y, wanted)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        groups = {role: list(found) for role, found in self.encoder.param_groups().items()}
        groups.setdefault("temperature", []).append(self.tau)
        if self.options.parameterisation == "free":
            groups.setdefault("table", []).append(self.lut)
        else:
            assert isinstance(self.weight, nn.Parameter)
            groups.setdefault("rest", []).append(self.weight)
            if not self.shares_prototypes:
                groups.setdefault("prototypes", []).append(self.prototypes)
        if self.bias is not None:
            groups.setdefault("rest", []).append(self.bias)
        return groups

    # -- geometry (subclasses) --------------------------------------------------------------

    def source(self, x: Tensor) -> tuple[Tensor, ConvGeometry | None]:
        """Where the encoder's rows are: rows [N, D], or a map and its geometry."""
        raise NotImplementedError

    def codes(self, x: Tensor) -> Tensor:
        """Codes [N, G * C] of the layer's input."""
        rows, geometry = self.source(self.encoder.in_units(x.detach()))
        return self.encoder.codes(rows, geometry)

    def exact_gradient(self, y: Tensor, x: Tensor, share: float) -> Tensor:
        """y unchanged; x also gets `share` of the exact layer's input gradient."""
        raise NotImplementedError

    def shaped(self, y: Tensor, x: Tensor) -> Tensor:
        """Rows [N, M] in the shape of the layer's output; the output itself stays as it is."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        """The hard table product in the exact layer's shape and dtype."""
        x = input
        y = self.shaped(self.product(x), x)
        y = self.with_input_gradient(y, x).to(x.dtype)
        return marked(y, x, self.source(x)[1], self.site.groups)

    def cost(self) -> dict[str, int]:
        from halut.layers.cost import table_cost

        return table_cost(self)

    def diagnose(self, x: Tensor) -> dict[str, float]:
        return diagnose(self, x)

    def extra_repr(self) -> str:
        o = self.options
        bits = "float" if o.bits is None else f"{o.bits} bits"
        return f"{self.encoder_name}, C={self.blocks.C}, K={o.K}, {bits}, {self.estimator}"
