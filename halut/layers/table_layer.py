"""The table of a layer of the table family: what it holds, how it learns, what it costs.

Bit operations follow one rule in every layer: a multiply-add of a b1-bit by a b2-bit factor counts
b1 b2 (as in van Baalen et al., Bayesian Bits, 2020), an add or a compare of b-bit operands b, and a
look-up of a b-bit entry b. The bits by which accumulators grow, biases, norms and activation
functions are not counted, nor is what makes codes of a codec's inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from halut.configs import TableConfig
from halut.encoders import LookupTable, encoders, shared_prototypes
from halut.encoders.transform import Permutation
from halut.encoders.tree import TreeEncoder
from halut.errors import HalutError
from halut.layers.revival import Moved, Revival
from halut.layers.shared_input import SharedInput
from halut.ops.blocks import Blocks
from halut.ops.power_of_two import unit_of
from halut.ops.table_quantization import (
    QuantizedTable,
    quantize_table,
)
from halut.prototypes.buckets import bucket_means
from halut.prototypes.clip import best_clip
from halut.prototypes.ridge import blockwise_lut, refine, refine_prototypes
from halut.sites.find import Site
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


class TableLayer(ReplacedLayer):
    """Encoder and table of a site, in parameters and buffers; LUTLayer multiplies by them.

    Parameterization `free` trains the table [G, C, K, M_g] itself; `derived` trains prototypes and
    the weight, lut = P W'. `weight` [M, D] is the exact layer's: a parameter if tables derive from
    it, else a buffer kept for error figures, estimators without relaxed codes and losses.
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

    def share(self, other: TableLayer) -> None:
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
            prototypes = self.encoder.calibrate_codebooks(
                rows, weight, seed=seed, progress=progress, target_rows=targets
            )
        codes = self._calibrate_table(rows, prototypes, weight, targets)
        if not self.encoder_shared:
            tau = self.options.tau
            scale = self.options.tau_scale
            self.tau.fill_(tau if tau is not None else scale * self.encoder.initial_tau(rows))
        self.after_learning(codes)
        self.to(device)
        if self.readers is not None:
            self.readers.forget()

    def after_learning(self, codes: Tensor) -> None:
        """Take the table's range, of the rows' codes, and where the encoder's parameters begin."""
        options = self.options
        if options.bits is not None and options.clip != "none":
            used = codes if options.clip == "output" else None
            self.clip.fill_(best_clip(self.full_lut(), options.bits, options.scale, used))
        for name, parameter in self.encoder.named_parameters():
            self.get_buffer(start_of(name)).copy_(parameter)

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

    # -- the table --------------------------------------------------------------------------

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
            if isinstance(layer, TableLayer) and layer.encoder is self.encoder:
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

    # -- cost -------------------------------------------------------------------------------

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

    def extra_repr(self) -> str:
        o = self.options
        bits = "float" if o.bits is None else f"{o.bits} bits"
        return f"{o.name}, C={self.blocks.C}, K={o.K}, {bits}, {self.estimator}"


def start_of(parameter: str) -> str:
    """Name of the buffer that holds where learning left an encoder's parameter."""
    return "start_" + parameter.replace(".", "_")
