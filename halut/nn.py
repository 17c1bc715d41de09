"""Replaced layers constructed like torch's own: for networks that have them from the start.

A layer's weight is drawn as torch draws it, and what is learned from data is learned from normally
distributed rows, so that it approximates what torch's layer computes. `calibrate(layer, x)` learns
that again from what the layer really gets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from halut.configs import CodecConfig, Config, Integer, TableConfig, Tree
from halut.errors import HalutError
from halut.layers import codec, lut
from halut.layers.codec_operator import CodecOperator
from halut.layers.table_operator import TableOperator
from halut.replace.operator_registry import operator_of
from halut.sites.calibration import patch_rows, row_count
from halut.sites.find import Site, site_of
from halut.sites.modules import take_over
from halut.sites.operator import ReplacedLayer
from halut.sites.plan import Entry

__all__ = ["CodecConv2d", "CodecLinear", "LUTConv2d", "LUTLinear", "calibrate"]

Size = int | tuple[int, int]
CALIBRATION_ROWS_PER_PROTOTYPE = 64
"""Rows per prototype that a new layer is learned from."""


class LUTLinear(lut.LUTLinear):
    """A Linear by look-up tables: x [..., in_features] -> [..., out_features].

    Args:
        config: of a table operator, such as `halut.PQ(V=4)`; `halut.Tree()` by default.

    Raises HalutError if the options do not fit the sizes.

    >>> LUTLinear(16, 4)(torch.zeros(2, 16)).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        config: TableConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        source = nn.Linear(in_features, out_features, bias, device, dtype)
        operator, site = _operator(source, config or Tree(), TableConfig, type(self))
        super().__init__(site, operator.config, source)
        _finish(self, source, operator)


class LUTConv2d(lut.LUTConv2d):
    """A Conv2d by look-up tables: x [B, in_channels, H, W] -> [B, out_channels, OH, OW].

    `config` as of LUTLinear.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        config: TableConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        source = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            device=device,
            dtype=dtype,
        )
        operator, site = _operator(source, config or Tree(), TableConfig, type(self))
        super().__init__(site, operator.config, source)
        _finish(self, source, operator)


class CodecLinear(codec.CodecLinear):
    """A Linear of quantized weight and inputs: x [..., in_features] -> [..., out_features].

    Args:
        config: of a codec, such as `halut.LQNet(width=2)`; `halut.Integer()` by default.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        config: CodecConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        source = nn.Linear(in_features, out_features, bias, device, dtype)
        operator, site = _operator(source, config or Integer(), CodecConfig, type(self))
        super().__init__(site, operator.specs, operator.contraction, source)
        _finish(self, source, operator)


class CodecConv2d(codec.CodecConv2d):
    """A Conv2d of quantized weight and inputs: x [B, C_in, H, W] -> [B, C_out, OH, OW].

    `config` as of CodecLinear.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        config: CodecConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        source = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            device=device,
            dtype=dtype,
        )
        operator, site = _operator(source, config or Integer(), CodecConfig, type(self))
        super().__init__(site, operator.specs, operator.contraction, source)
        _finish(self, source, operator)


def _operator(
    source: nn.Module, config: Config, config_type: type[Config], kind: type[nn.Module]
) -> tuple[Any, Site]:
    """The operator of a config, which must be a `config_type`, and the site that the source is."""
    if not isinstance(config, config_type):
        what = "table" if config_type is TableConfig else "codec"
        raise HalutError(f"{kind.__name__} takes the config of a {what}, got {config!r}")
    site = site_of(kind.__name__, source, 1)
    operator = operator_of(config)
    operator.check(site)
    return operator, site


def _finish(
    layer: ReplacedLayer, source: nn.Module, operator: TableOperator | CodecOperator
) -> None:
    """Attributes, device, and what is learned from drawn rows."""
    site = layer.site
    layer.entry = Entry(site, operator.config.name, operator.plan_options(site), stage=0)
    take_over(layer, source)
    reference = next(source.parameters())
    layer.to(device=reference.device)
    if reference.is_meta:
        return
    count = CALIBRATION_ROWS_PER_PROTOTYPE * getattr(operator.config, "K", 16)
    generator = torch.Generator().manual_seed(0)
    layer.calibrate(torch.randn(count, site.groups * site.D, generator=generator))


def calibrate(layer: ReplacedLayer, x: Tensor, rows: int = 65_536, seed: int = 0) -> None:
    """Learn the layer's encoder, tables and scales from its input x, of at most `rows` rows."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(row_count(x, layer.site), generator=generator)[:rows]
    layer.calibrate(patch_rows(x.detach(), layer.site, index.to(x.device)), seed=seed)
