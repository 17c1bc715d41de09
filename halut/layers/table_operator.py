"""The operator of the table family: encode the activations, look up, add."""

from __future__ import annotations

from typing import Any

from torch import nn

from halut.configs import TableConfig
from halut.encoders import encoders
from halut.errors import HalutError
from halut.layers.lut import LUTConv2d, LUTLayer, LUTLinear
from halut.layers.table_layer import blocks_of, codebooks
from halut.ops.blocks import Blocks
from halut.sites.attention import KIND
from halut.sites.find import Site
from halut.sites.operator import Operator


class TableOperator(Operator):
    """Builds the LUTLayer of a site; the configuration's name is that of an encoder."""

    config: TableConfig

    def supports(self, site: Site) -> str | None:
        return "tables multiply by a weight, attention has none" if site.kind == KIND else None

    def check(self, site: Site) -> None:
        config = self.config
        blocks = blocks_of(config, site)
        encoder = encoders[config.name]
        encoder(blocks, config.K, config)
        _check_transform(config.transform, blocks.of_stage, site)
        run = config.average
        if run is not None and (run < 2 or run & (run - 1) or blocks.C % run):
            raise HalutError(
                f"{site.name} has {blocks.C} codebooks: halut.average must be a power of two "
                f"from 2 that divides them, got {run}"
            )
        if config.estimator != "auto" and config.estimator not in encoder.estimators:
            choices = ", ".join(encoder.estimators)
            raise HalutError(
                f"encoder {config.name!r} has no estimator {config.estimator!r}; choose one of: "
                f"{choices}"
            )

    def plan_options(self, site: Site) -> dict[str, Any]:
        """The options with C as it is at this site, in place of V or the default."""
        return {**super().plan_options(site), "C": codebooks(self.config, site), "V": None}

    def summary(self, site: Site) -> dict[str, Any]:
        config = self.config
        figures = {"C": codebooks(config, site), "K": config.K, "bits": config.bits}
        return {**figures, **{k: v for k, v in super().summary(site).items() if k not in figures}}

    def build(self, site: Site, source: nn.Module | None = None) -> LUTLayer:
        self.check(site)
        kind = LUTLinear if site.geometry is None else LUTConv2d
        return kind(site, self.config, source)


def _check_transform(transform: str, blocks: Blocks, site: Site) -> None:
    """Raise HalutError where the inputs are not the same at every tap, or nothing would change."""
    if transform == "none":
        return
    if site.taps > 1:
        raise HalutError(
            f"{site.name} has {site.taps} taps: halut.transform={transform} needs a Linear or a "
            "1x1 convolution; choose none there"
        )
    if transform == "permute" and not 1 < blocks.C < blocks.D:
        raise HalutError(
            f"{site.name} has {blocks.C} codebooks of {blocks.D} inputs: halut.transform=permute "
            f"needs 2..{blocks.D - 1} of them, or nothing changes; choose none or hadamard there"
        )
