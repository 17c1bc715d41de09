"""The operator of the table family: one for every registered encoder."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from torch import nn

from halut.encoders import encoders
from halut.errors import HalutError
from halut.layers.lut import LUTConv2d, LUTLinear
from halut.layers.options import TableOptions, encoder_options
from halut.ops.blocks import Blocks
from halut.sites.attention import KIND
from halut.sites.find import Site
from halut.sites.operator import Operator


class TableOperator(Operator):
    """Encode the activations, look up, add. `encoder` is set by `table_operator`."""

    encoder: str

    @classmethod
    def about(cls) -> str:
        return _first_line(encoders[cls.encoder])

    def supports(self, site: Site) -> str | None:
        return "tables multiply by a weight, attention has none" if site.kind == KIND else None

    def check(self, site: Site) -> None:
        blocks = Blocks(site.D, self.options.codebooks(site), site.groups)
        kind = encoders[self.encoder]
        options = encoder_options(self.encoder, self.options)
        kind(blocks, self.options.K, options)
        run = self.options.average
        if run is not None and (run < 2 or run & (run - 1) or blocks.C % run):
            raise HalutError(
                f"{site.name} has {blocks.C} codebooks: halut.average must be a power of two "
                f"from 2 that divides them, got {run}"
            )
        chosen = self.options.estimator
        if chosen != "auto" and chosen not in kind.estimators:
            known = ", ".join(kind.estimators)
            raise HalutError(
                f"encoder {self.encoder!r} has no estimator {chosen!r}; choose one of: {known}"
            )

    def frozen(self, site: Site) -> dict[str, Any]:
        """The options with C as it is at this site, in place of V or the default."""
        return {**super().frozen(site), "C": self.options.codebooks(site), "V": None}

    def summary(self, site: Site) -> dict[str, Any]:
        shown = {"C": self.options.codebooks(site), "K": self.options.K, "bits": self.options.bits}
        return {**shown, **{k: v for k, v in super().summary(site).items() if k not in shown}}

    def build(self, site: Site, source: nn.Module | None = None) -> nn.Module:
        self.check(site)
        kind = LUTLinear if site.geometry is None else LUTConv2d
        return kind(site, self.encoder, self.options, source)


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").split("\n")[0]


@functools.cache
def options_type(encoder: str) -> type[TableOptions]:
    """TableOptions and the encoder's own options in one flat dataclass."""
    own = encoders[encoder].Options

    def post_init(self: TableOptions) -> None:
        TableOptions.__post_init__(self)
        if hasattr(own, "__post_init__"):
            own.__post_init__(self)

    return dataclasses.make_dataclass(
        f"{encoder.title().replace('_', '')}TableOptions",
        [],
        bases=(own, TableOptions),
        namespace={"__post_init__": post_init},
    )


@functools.cache
def table_operator(encoder: str) -> type[TableOperator]:
    """The operator class of one encoder."""
    return type(
        f"{encoder}_operator",
        (TableOperator,),
        {"encoder": encoder, "Options": options_type(encoder)},
    )
