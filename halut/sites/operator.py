"""Operators: what a site becomes. Tables and codecs share this life cycle and nothing else."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from halut import configs
from halut.errors import HalutError
from halut.ops.power_of_two import normalized_mse
from halut.option import why_without_effect
from halut.registry import Registry
from halut.sites.find import Site, check_map, exact_product

operators: Registry[type[Operator]] = Registry("operator")


class Operator:
    """Builds the module that takes a site's place.

    The module has `calibrate(rows)`, `forward`, `after_step(progress)`, `param_groups()`, `cost()`
    and `export()`; all of its state lives in parameters and buffers.
    """

    Config: ClassVar[type[configs.Config]] = configs.Config

    def __init__(self, config: configs.Config) -> None:
        self.config = config

    def supports(self, site: Site) -> str | None:
        """Why this operator cannot stand at the site by its nature, or None if it can."""
        return None

    def without_effect(self, path: str) -> str | None:
        """Why the option `path`, without halut. in front, has no effect; None: it has one."""
        return why_without_effect(self.config, path)

    def check(self, site: Site) -> None:
        """Raise HalutError if the options do not fit the site, naming the valid range."""

    def plan_options(self, site: Site) -> dict[str, Any]:
        """Every option as a plan keeps it: plain values, with what depends on the site settled."""
        return self.config.options()

    def summary(self, site: Site) -> dict[str, Any]:
        """What to show of the options at the site: those that are not the default."""
        defaults = type(self.config)().options()
        options = self.config.options()
        return {k: v for k, v in options.items() if v is not None and v != defaults[k]}

    def build(self, site: Site, source: nn.Module | None = None) -> nn.Module:
        """The module for the site; weight and bias are copied from `source` if it is given."""
        raise NotImplementedError


ReplacedRows = list[tuple[nn.Parameter, Tensor]]
"""Parameters with the mask, broadcast to their shape, of what took another value than a step's."""


class ReplacedLayer(nn.Module):
    """What takes a site's place. Layers with the same `shares` have one encoder.

    `entry` is the plan's (halut.sites.plan.Entry): what it takes to build the layer again.
    """

    site: Site
    entry: Any = None
    shares: str | None = None

    @torch.no_grad()
    def calibrate(
        self,
        rows: Tensor,
        *,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
        target_rows: Tensor | None = None,
    ) -> None:
        """Learn from rows [N, groups * D] of the site's input what the layer takes from samples.

        The rows are read as float32 and neither kept nor changed. `seed` decides what is drawn at
        random; `progress` is called with the number of codebooks just learned. `target_rows`, of
        the same shape, are what the exact network has at the same places: tables then answer the
        exact product of those (asymmetric calibration); other layers have no use for them. Raises
        HalutError naming the site if the rows have another shape, are none, or hold NaN or infinite
        values, or if the weight does.

        >>> layer = ExactLayer(Site("head", "linear", D=4, M=2))
        >>> layer.calibrate(torch.ones(8, 4))
        """
        rows = self._checked(rows)
        if target_rows is not None:
            target_rows = self._checked(target_rows)
            if target_rows.shape != rows.shape:
                raise HalutError(
                    f"{self.site.name}: target_rows must be {list(rows.shape)} as rows are, got "
                    f"{list(target_rows.shape)}"
                )
        self._calibrate(rows, seed, progress, target_rows)

    def _checked(self, rows: Tensor) -> Tensor:
        width = self.site.groups * self.site.D
        if rows.ndim != 2 or rows.shape[1] != width:
            raise HalutError(f"{self.site.name}: rows must be [N, {width}], got {list(rows.shape)}")
        if not len(rows):
            raise HalutError(f"{self.site.name}: there are no calibration rows")
        rows = rows.detach().float().contiguous()
        self._require_finite(rows, "calibration rows hold")
        return rows

    def _calibrate(
        self,
        rows: Tensor,
        seed: int,
        progress: Callable[[int], None] | None,
        target_rows: Tensor | None,
    ) -> None:
        """What a kind of layer learns, from rows that were checked. To be overridden."""

    def _require_finite(self, values: Tensor, what: str) -> None:
        """Raise HalutError "SITE: WHAT NaN or infinite values" unless all values are finite."""
        if not bool(torch.isfinite(values).all()):
            raise HalutError(f"{self.site.name}: {what} NaN or infinite values")

    def exact(self, *x: Any, **kwargs: Any) -> Tensor:
        """What the exact product would answer to the layer's input x: what errors refer to."""
        raise NotImplementedError

    def begin_fit(self, progress: float) -> None:
        """Called before the first step of a stage, or of what is left of it; see `after_step`."""

    def after_step(self, progress: float) -> ReplacedRows | None:
        """Called after every optimizer step; `progress` in 0..1 is the share of the stage done.

        What the optimizer has gathered of rows that are replaced is forgotten
        (halut.replace.after_step).
        """

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by optimizer role: table, prototypes, thresholds, temperature, basis, rest."""
        return {"rest": list(self.parameters())}

    def diagnose(self, *x: Any, **kwargs: Any) -> dict[str, float]:
        """Figures of the layer on one batch x, for the logs: its normalized_mse, ..."""
        y, exact = self.forward(*x), self.exact(*x)  # without hooks
        return {"normalized_mse": float(normalized_mse(y.to(exact.dtype), exact))}

    def cost(self) -> dict[str, int]:
        """Per sample: macs, encode_macs, lookups, bops, ...; and weight_bytes, table_bytes, ..."""
        raise NotImplementedError

    def export(self) -> dict[str, Tensor]:
        """What inference needs, as named tensors."""
        return dict(self.state_dict())


@operators.register("exact")
class ExactOperator(Operator):
    """The exact product as a replaced layer: changes nothing, as a control."""

    Config = configs.Exact

    def build(self, site: Site, source: nn.Module | None = None) -> nn.Module:
        return ExactLayer(site, source)


class ExactLayer(ReplacedLayer):
    """y = x W' + bias for any site, bit for bit what the replaced module computed."""

    def __init__(self, site: Site, source: nn.Module | None = None) -> None:
        super().__init__()
        self.site = site
        self.weight, self.bias = copied_parameters(site, source)

    def forward(self, input: Tensor) -> Tensor:
        check_map(input, self.site)
        return exact_product(input, self.weight, self.bias, self.site)

    def exact(self, x: Tensor) -> Tensor:
        return self.forward(x)  # not self(x): hooks may be asking

    def cost(self) -> dict[str, int]:
        parameters = self.site.weights + (self.site.M if self.site.bias else 0)
        return {"macs": self.site.macs, "weight_bytes": 4 * parameters}


def copied_parameters(
    site: Site, source: nn.Module | None
) -> tuple[nn.Parameter, nn.Parameter | None]:
    """weight [M, D] and bias [M] of the source module, or zeros of their shapes."""
    if source is None:
        bias = nn.Parameter(torch.zeros(site.M)) if site.bias else None
        return nn.Parameter(torch.zeros(site.M, site.D)), bias
    weight = typing.cast(Tensor, source.weight).detach().reshape(site.M, site.D).clone()
    if not site.bias:
        return nn.Parameter(weight), None
    return nn.Parameter(weight), nn.Parameter(typing.cast(Tensor, source.bias).detach().clone())
