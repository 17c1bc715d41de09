"""The layers of the table family: encode, look up, add; trained straight through.

Bit operations follow one rule in every layer: a multiply-add of a b1-bit by a b2-bit factor counts
b1 b2 (as in van Baalen et al., Bayesian Bits, 2020), an add or a compare of b-bit operands b, and a
look-up of a b-bit entry b. The bits by which accumulators grow, biases, norms and activation
functions are not counted, nor is what makes codes of a codec's inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from halut.configs import TableConfig
from halut.configs.tables import HARD_ESTIMATORS
from halut.encoders import Encoder, LookupTable, as_answer, encoders, shared_prototypes
from halut.encoders.transform import Permutation
from halut.encoders.tree import TreeEncoder
from halut.errors import HalutError
from halut.layers.revival import Moved, Revival
from halut.layers.shared_input import Reading, SharedInput
from halut.layers.shared_product import SharedCodes
from halut.ops import ConvGeometry, accumulate, carry_gradient, identity_gradient
from halut.ops.blocks import Blocks
from halut.ops.core.edges import with_edges
from halut.ops.epilogue import as_map
from halut.ops.power_of_two import commitment_mse, normalized_mse, unit_of
from halut.ops.table_quantization import (
    QuantizedTable,
    average_groups,
    clipping_rate,
    quantize_table,
)
from halut.prototypes.buckets import bucket_means
from halut.prototypes.clip import best_clip
from halut.prototypes.ridge import blockwise_lut, refine, refine_prototypes
from halut.sites.find import Site, exact_product
from halut.sites.operator import ReplacedLayer, ReplacedRows, copied_parameters

FLOAT = 32
"""Bits of what encoders read and compare with."""


DEFAULT_V = 8
"""Inputs per codebook where a kernel's positions give none."""


def codebooks(config: TableConfig, site: Site) -> int:
    """C of a group and stage at the site; raises HalutError naming it if C exceeds its inputs."""
    if config.C is not None:
        if config.C > site.D:
            each = " per group" if site.groups > 1 else ""
            raise HalutError(
                f"{site.name} has {site.D} inputs{each}: C must be in 1..{site.D}, got {config.C}"
            )
        return config.C
    V = config.V if config.V is not None else site.taps if site.taps > 1 else DEFAULT_V
    return max(1, -(-site.D // V))


def blocks_of(config: TableConfig, site: Site) -> Blocks:
    """The blocks of the codebooks at the site, in as many stages as the options have."""
    return Blocks(site.D, config.stages * codebooks(config, site), site.groups, config.stages)


class LUTLayer(ReplacedLayer):
    """y[n, m] = sum_c lut[c, code_c(x_n), m] + bias[m] at one site.

    The forward value is always the hard one: integer codes, quantized table; in training mode alone
    codes may be of noisy inputs (`noise`) and tables floats at first (`quantize_from`). `estimator`
    decides the gradient only (maths: Blalock and Guttag 2021; Tang et al. 2023; Schoenleber et al.
    2023): `tree` and `soft` relax the codes, `identity` hands on the exact product's input
    gradient, and `blend` moves from the first to the second over a stage; `rotation` and `diveq`
    carry the gradient at the prototypes to the inputs (halut.ops.nearest.carry). Parameterization
    `free` trains the table [G, C, K, M_g] itself; `derived` trains prototypes and the weight,
    lut = P W'.

    `weight` [M, D] is the exact layer's: a parameter if tables derive from it, else a buffer kept
    for error figures, estimators without relaxed codes and `table_losses`.
    """

    weight: Tensor
    tau: nn.Parameter
    clip: Tensor
    blend: Tensor

    def __init__(self, site: Site, config: TableConfig, source: nn.Module | None = None) -> None:
        super().__init__()
        self.site, self.options = site, config
        self.blocks = blocks_of(config, site)
        self.channels = site.groups * site.D // site.taps
        kind = encoders[config.name]
        self.encoder = kind(self.blocks, config.K, config)
        self.estimator = kind.estimators[0] if config.estimator == "auto" else config.estimator
        weight, self.bias = copied_parameters(site, source)
        G, C, M = site.groups, self.blocks.C, site.M // site.groups
        if config.parameterization == "free":
            self.register_buffer("weight", weight.detach())
            self.lut = nn.Parameter(torch.zeros(G, C, config.K, M))
        else:
            self.weight = weight
            if not self.shares_prototypes:
                width = site.D if config.ridge is not None else self.blocks.V
                self.prototypes = nn.Parameter(torch.zeros(G * C, config.K, width))
        self.tau = nn.Parameter(torch.ones(G * C if config.tau_per == "codebook" else ()))
        self.register_buffer("clip", torch.ones(()))
        self.register_buffer("blend", torch.zeros(()))
        for name, parameter in self.encoder.named_parameters():
            self.register_buffer(start_of(name), torch.zeros_like(parameter))
        every = getattr(config, "revive_every", None)
        self.revival = Revival(every, self.blocks.total, config.K) if every else None
        self.encoder_shared = False
        self.readers: SharedInput | None = None

    def share(self, other: LUTLayer) -> None:
        """Encode by `other`'s encoder, at its temperature; inputs of both are encoded once."""
        self.encoder, self.tau, self.encoder_shared = other.encoder, other.tau, True
        self.revival = None  # the other's is for both
        if other.readers is None:
            other.readers = SharedInput()
            other.readers.join(other)
        self.readers = other.readers
        self.readers.join(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.readers is not None:
            self.readers.join(self)

    # -- learning ---------------------------------------------------------------------------

    @property
    def shares_prototypes(self) -> bool:
        """True if derived tables use the prototypes the encoder compares with (no ridge)."""
        return hasattr(self.encoder, "prototypes") and self.options.ridge is None

    def _calibrate(
        self,
        rows: Tensor,
        seed: int,
        progress: Callable[[int], None] | None,
        target_rows: Tensor | None,
    ) -> None:
        """Learn the table, and encoder and temperature unless they are another layer's."""
        device, weight = self.weight.device, self.weight.detach().cpu().float()
        self._require_finite(weight, "the weight holds")
        self.cpu()
        rows = rows.cpu()
        if not self.encoder_shared:
            self.encoder.unit.fill_(unit_of(float(rows.abs().max())))
            if self.encoder.transform is not None:
                self.encoder.transform.learn(self.encoder.in_units(rows))
        rows, weight = self.encoder.transformed(rows), self.encoder.transformed_weight(weight)
        targets = None if target_rows is None else self.encoder.transformed(target_rows.cpu())
        if self.encoder_shared:
            prototypes = shared_prototypes(self.encoder, rows)
        else:
            prototypes = self.encoder.calibrate(rows, seed=seed, weight=weight, progress=progress)
        if not self.encoder_shared:
            again = self.encoder.calibrate_jointly(rows, prototypes, weight, targets)
            prototypes = prototypes if again is None else again
        codes = self._calibrate_table(rows, prototypes, weight, targets)
        if not self.encoder_shared:
            tau = self.options.tau
            scale = self.options.tau_scale
            self.tau.fill_(tau if tau is not None else scale * self.encoder.initial_tau(rows))
        if self.options.bits is not None and self.options.clip != "none":
            used = codes if self.options.clip == "output" else None
            clip = best_clip(self.full_lut(), self.options.bits, self.options.scale, used)
            self.clip.fill_(clip)
        for name, parameter in self.encoder.named_parameters():
            self.get_buffer(start_of(name)).copy_(parameter)
        self.to(device)
        if self.readers is not None:
            self.readers.forget()

    def _calibrate_table(
        self, rows: Tensor, prototypes: Tensor, weight: Tensor, targets: Tensor | None
    ) -> Tensor:
        """Fit the table, or its prototypes, to the rows or their targets; returns the codes."""
        codes, ridge = self.encoder.codes(rows), self.options.ridge
        if targets is not None:
            rows, prototypes = targets, bucket_means(targets, codes, self.blocks, prototypes)
        if self.options.parameterization == "free":
            lut = refine(codes, prototypes, rows, weight, ridge, self.blocks.stages)
            self.lut.copy_(self.encoder.times_unit(lut))
        elif not self.shares_prototypes:
            if ridge is not None:
                groups, stages = self.site.groups, self.blocks.stages
                prototypes = refine_prototypes(codes, prototypes, rows, groups, ridge, stages)
            self.prototypes.copy_(prototypes)
        return codes

    # -- the product ------------------------------------------------------------------------

    def full_lut(self) -> Tensor:
        """The unquantized table [G, C, K, M_g]; lut = P W' if it is derived."""
        if self.options.parameterization == "free":
            return self.lut
        # With `identity`, prototypes learn from the reconstruction term alone; with `diveq` those
        # that encode by their distance to the inputs.
        P = self._table_prototypes()
        alone = self.estimator == "identity" or (self.estimator == "diveq" and P is self._nearest)
        return self._derived_lut(P.detach() if alone else P)

    @property
    def _nearest(self) -> Tensor | None:
        """The prototypes the encoder compares with, if it does."""
        return getattr(self.encoder, "prototypes", None)

    def _table_prototypes(self) -> Tensor:
        P = self.encoder.prototypes if self.shares_prototypes else self.prototypes
        assert isinstance(P, Tensor)
        return P

    def _derived_lut(self, P: Tensor) -> Tensor:
        """P W' for prototypes of their block's inputs, or of all D (refined by ridge).

        Prototypes are of transformed inputs in the encoder's unit, tables are not.
        """
        G, C, K = self.site.groups, self.blocks.C, self.options.K
        weight = self.encoder.transformed_weight(self.weight)
        if P.shape[-1] == self.site.D and C > 1:
            W = weight.view(G, -1, self.site.D)  # [G, M_g, D]
            return self.encoder.times_unit(torch.einsum("gckd,gmd->gckm", P.view(G, C, K, -1), W))
        return self.encoder.times_unit(blockwise_lut(P, weight, self.blocks))

    def table(self, lut: Tensor) -> QuantizedTable | None:
        """The quantized form of `lut`, or None for float tables."""
        if self.options.bits is None:
            return None
        return quantize_table(lut, self.options.bits, self.options.scale, self.clip)

    def lookup_table(self) -> LookupTable:
        """The table as the forward reads it, quantized as the options say, with the bias."""
        options = self.options
        lut = self.lut if options.parameterization == "free" else self.full_lut()
        if options.bits is None or (options.quantize_from and self.trains_by_floats()):
            return LookupTable(lut, lut.detach(), self.bias)
        if options.scale == "codebook":
            table = quantize_table(lut, options.bits, options.scale, self.clip)
            return LookupTable(lut, table.dequantize(), self.bias)
        quantized = torch.ops.halut.quantize(lut.detach(), options.bits, options.scale, self.clip)
        q, scale, offset = quantized
        shift = offset.sum(1).view(-1)
        return LookupTable(lut, q, shift if self.bias is None else shift + self.bias, scale, offset)

    def trains_by_floats(self) -> bool:
        """True in training mode before the share `quantize_from` of a stage: no quantization."""
        return self.training and float(self.blend) < self.options.quantize_from

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

    # -- training ---------------------------------------------------------------------------

    def begin_fit(self, progress: float) -> None:
        with torch.no_grad():
            self.blend.fill_(min(max(progress, 0.0), 1.0))

    def after_step(self, progress: float) -> ReplacedRows:
        with torch.no_grad():
            self.tau.clamp_(min=1e-4)
        self.begin_fit(progress)
        rows = self._revive() if self.revival is not None else []
        if self.readers is not None:  # changes of `data` are not counted
            self.readers.forget()
        return rows

    def _revive(self) -> ReplacedRows:
        """Move unused prototypes onto inputs, and copy for them the entries those inputs had."""
        assert self.revival is not None
        moved = self.revival.after_step(self.encoder)
        if moved is None:
            return []
        assert isinstance(self.encoder.prototypes, nn.Parameter)
        rows = [(self.encoder.prototypes, moved.which[:, :, None])]
        members = self.readers.members if self.readers is not None else (self,)
        for layer in members:
            if isinstance(layer, LUTLayer) and layer.encoder is self.encoder:
                rows += layer._copy_entries(moved)
        return rows

    @torch.no_grad()
    def _copy_entries(self, moved: Moved) -> ReplacedRows:
        """Start the entries of moved prototypes as those that their new inputs have had."""
        if self.options.parameterization == "free":
            self.lut.copy_(moved.entries(self.lut.flatten(0, 1)).view_as(self.lut))
            return [(self.lut, moved.which.view(*self.lut.shape[:3], 1))]
        if self.shares_prototypes:
            return []
        self.prototypes.copy_(moved.entries(self.prototypes))
        return [(self.prototypes, moved.which[:, :, None])]

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

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        groups = {
            role: list(parameters) for role, parameters in self.encoder.param_groups().items()
        }
        groups.setdefault("temperature", []).append(self.tau)
        if self.options.parameterization == "free":
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

    def encoder_input(self, x: Tensor) -> tuple[Tensor, ConvGeometry | None]:
        """Where the encoder's rows are, as `Encoder.transformed` gives them.

        Rows [N, D], or a map and its geometry.
        """
        raise NotImplementedError

    def codes(self, x: Tensor) -> Tensor:
        """Codes [N, G * C] of the layer's input."""
        return self.encoder.codes(*self.encoder_input(x.detach()))

    def exact_gradient(self, y: Tensor, x: Tensor, share: float) -> Tensor:
        """y unchanged; x also gets `share` of the exact layer's input gradient."""
        raise NotImplementedError

    def reshape_output(self, y: Tensor, x: Tensor) -> Tensor:
        """Rows [N, M] in the shape of the layer's output; the output itself stays as it is."""
        raise NotImplementedError

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

    def cost(self) -> dict[str, int]:
        """Operations for one sample and bytes of what inference must hold.

        Encode: N C log2 K compares for a tree, N D K multiply-adds and N C (K - 1) compares for
        nearest prototypes; N D log2 D adds for a Hadamard transform; N C M look-ups and as many
        adds; tables C K M bits / 8 bytes; codes N C log2 K bits. N counts tokens or output
        positions. The exact product's N D M multiply-adds are gone; the one per output that
        rescales integer sums, like the bias, is not counted.
        Entries of fewer than 8 bits are counted packed, as hardware with such tables holds them;
        kernels here read a byte for each (halut.analysis.memory.prepared_figures), and a bundle has
        the floats that train on.
        bops: bit operations, of which the encoder has encode_bops. weight_bytes holds the bias,
        with the folded zero points of quantized tables, and the tables' scales; weight_bits the
        tables and those scales.
        """
        site, options, blocks = self.site, self.options, self.blocks
        encode = self.encoder.cost(site.rows)
        transform_adds, transform_bytes = self._transform_cost()
        lookups = site.rows * blocks.C * site.M  # every group adds C entries to each of its outputs
        quantized = options.bits is not None
        bits = FLOAT if options.bits is None else options.bits
        entries = blocks.C * options.K * site.M
        compares, macs = encode["compares"], encode["macs"]
        adds = encode.get("adds", 0) + transform_adds
        encode_bops = FLOAT * (compares + adds) + FLOAT * FLOAT * macs
        return {
            "macs": 0,
            "encode_compares": compares,
            "encode_macs": macs,
            "encode_adds": adds,
            "lookups": lookups,
            "adds": lookups,
            "bops": encode_bops + 2 * bits * lookups,
            "encode_bops": encode_bops,
            "weight_bytes": 4 * ((site.M if site.bias or quantized else 0) + self.scales()),
            "table_bytes": math.ceil(entries * bits / 8),
            "weight_bits": entries * bits + FLOAT * self.scales(),
            "encoder_bytes": encode["state_bytes"] + transform_bytes,
            "index_bits": site.rows * blocks.total * math.ceil(math.log2(options.K)),
        }

    def _transform_cost(self) -> tuple[int, int]:
        """Adds of one sample, at the positions that are read, and bytes of the input's transform.

        The columns that a hash tree tests take a permutation into themselves.
        """
        transform = self.encoder.transform
        if transform is None:
            return 0, 0
        folds = isinstance(transform, Permutation) and type(self.encoder) is TreeEncoder
        return self.site.rows * transform.adds, 0 if folds else transform.state_bytes

    def scales(self) -> int:
        """Scales the quantized table has; 0 for a float table."""
        if self.options.bits is None:
            return 0
        sizes = {"layer": 1, "channel": self.site.M, "codebook": self.blocks.total}
        return sizes[self.options.scale]

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

    def extra_repr(self) -> str:
        o = self.options
        bits = "float" if o.bits is None else f"{o.bits} bits"
        return f"{o.name}, C={self.blocks.C}, K={o.K}, {bits}, {self.estimator}"


def start_of(parameter: str) -> str:
    """Name of the buffer that holds where learning left an encoder's parameter."""
    return "start_" + parameter.replace(".", "_")


def code_usage(codes: Tensor, K: int) -> tuple[float, int]:
    """Mean perplexity over codebooks (1..K) and the number of prototypes no row chose.

    codes [N, C]; the perplexity of one codebook is exp of the entropy of its code frequencies.
    """
    C = codes.shape[1]
    joint = codes.long() + K * torch.arange(C, device=codes.device)
    counts = torch.bincount(joint.flatten(), minlength=C * K).view(C, K).double()
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
        return self.encoder.transformed(x.reshape(-1, self.site.D)), None

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
        return self.encoder.transformed(x), geometry.on(x) if geometry.same else geometry

    def reshape_output(self, y: Tensor, x: Tensor) -> Tensor:
        assert self.site.geometry is not None
        return as_map(y, x, self.site.geometry)

    def exact_gradient(self, y: Tensor, x: Tensor, share: float) -> Tensor:
        assert self.site.geometry is not None
        geometry = self.site.geometry.on(x)
        weight = self.weight.view(self.site.M, -1, *geometry.kernel_size)
        return identity_gradient(y, x, weight, geometry, share)
