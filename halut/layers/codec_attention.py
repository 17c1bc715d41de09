"""Attention's two products of quantized factors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from halut.codecs import Codec, Layout
from halut.codecs.factors import QuantSpec, make_codec
from halut.errors import HalutError
from halut.ops.core.finite import kept_finite
from halut.sites.attention import AttentionProducts
from halut.sites.find import Site
from halut.sites.operator import ReplacedLayer

FORMATS = (
    *("integer", "minifloat_ieee", "minifloat_denorm", "log", "block_fp", "block_minifloat"),
    *("block_log", "mxint8", "sign_magnitude"),
)
"""Codecs that hold numbers of either sign, and so both factors of both products."""
BELOW_ONE = 1 - 2**-24
"""The largest a softmax is calibrated on: its range is known, one itself may saturate."""


class CodecAttention(ReplacedLayer):
    """y = Qa(softmax(scale Qq(q) Qk(k)')) Qv(v) of q, k, v [B, heads, N, d]; no weight.

    All four are activations. Blocks lie along what is summed over: d of q and k, the N tokens of
    the softmax and of v. Gradients are the codecs' and the dense products'.
    """

    def __init__(self, site: Site, spec: QuantSpec, source: nn.Module | None = None) -> None:
        super().__init__()
        self.site, self.spec = site, spec
        self.scale, self.drop = site.D**-0.5, 0.0
        if isinstance(source, AttentionProducts):
            self.scale, self.drop = source.scale, source.drop
        self.q, self.k = self._made(spec, site.D), self._made(spec, site.D)
        self.a, self.v = self._made(spec, site.M), self._made(spec, site.M)

    @staticmethod
    def _made(spec: QuantSpec, width: int) -> Codec:
        codec = make_codec(spec, Layout("activation", (1, width)))
        assert codec is not None
        return codec

    def _calibrate(
        self,
        rows: Tensor,
        seed: int,
        progress: Callable[[int], None] | None,
        target_rows: Tensor | None,
    ) -> None:
        """Calibrate q, k and v on rows [R, 3 d], the three of a token and head side by side; the
        softmax on its range."""
        q, k, v = rows.split(self.site.D, 1)
        tokens = self.site.M
        whole = v.flatten().repeat(-(-tokens // max(v.numel(), 1)))
        self.q.calibrate(q[:, None], seed=seed)
        self.k.calibrate(k[:, None], seed=seed)
        self.v.calibrate(whole[: len(whole) // tokens * tokens].view(-1, 1, tokens), seed=seed)
        self.a.calibrate(torch.full((1, 1, tokens), BELOW_ONE, device=v.device), seed=seed)
        if progress is not None:
            progress(1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.shape[-2] != self.site.M:
            raise HalutError(
                f"{self.site.name} was replaced for {self.site.M} tokens, got {q.shape[-2]}"
            )
        scores = quantized(self.q, q) @ quantized(self.k, k).transpose(-2, -1)
        a = quantized(self.a, (scores * self.scale).softmax(-1))
        a = nn.functional.dropout(a, self.drop if self.training else 0.0)
        return a @ quantized(self.v, v.transpose(-2, -1)).transpose(-2, -1)

    def exact(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v

    def codecs(self) -> tuple[Codec, ...]:
        """Those of q, k, the softmax and v."""
        return self.q, self.k, self.a, self.v

    def after_step(self, progress: float) -> None:
        for codec in self.codecs():
            codec.after_step(progress)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        groups: dict[str, list[nn.Parameter]] = {}
        for codec in self.codecs():
            for role, parameters in codec.param_groups().items():
                groups.setdefault(role, []).extend(parameters)
        return groups

    def cost(self) -> dict[str, int]:
        """Per sample; input_bits: of q, k and v [heads N, d] and of the softmax [heads N, N]."""
        tokens = self.site.rows // 2  # times heads
        q, k, a, v = self.codecs()
        columns = tokens // self.site.M * self.site.D  # of v, N values each
        bits = tokens * (q.bits() + k.bits() + a.bits()) + columns * v.bits()
        half = self.site.macs // 2
        return {
            "macs": self.site.macs,
            "bops": half * (q.width * k.width + a.width * v.width),
            "weight_bits": 0,
            "input_bits": bits,
            "weight_bytes": sum(4 * t.numel() for t in self.state_dict().values()),
        }

    def extra_repr(self) -> str:
        return f"{self.site.D} inputs, {self.site.M} tokens"


def quantized(codec: Codec, x: Tensor) -> Tensor:
    """Q(x) of x [.., C], of x's shape; NaN where x is NaN or infinite."""
    return kept_finite(codec.quantize(x.unsqueeze(-2)).squeeze(-2), x)
