"""Inference layers of bit planes: packed words, exclusive or, and bit counts."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from halut.codecs import Codec
from halut.codecs.planes import every_code
from halut.errors import HalutError
from halut.inference.base import InferenceLayer, absent
from halut.inference.codec_layers import restored
from halut.layers.codec import CodecLayer, canonical_input
from halut.ops import bit_planes, bit_product
from halut.ops.core.finite import marked
from halut.ops.epilogue import as_map
from halut.ops.geometry import ConvGeometry, pad
from halut.ops.integer.bit_planes import packed_planes


class BitLayer(InferenceLayer):
    """What a trained CodecLayer of two binary codecs answers, up to the rounding of float sums.

    With values w = sum_i alpha_i t_i + a of a weight and x = sum_j beta_j s_j + b of an input, t_i
    and s_j in {-1, +1}, an output is

        sum_ij alpha_i beta_j (D - 2 popcount(t_i xor s_j)) + b sum_k w_k + a sum_jk beta_j s_jk

    a and b are zero but for codecs of {0, 1}; the last sum is one more output, of weights that are
    all 1. Rows are bytes, ceil(C / 8) for the C inputs at a kernel position.

    The pad code is zero in every plane, as is that of -1: where padding lies, x counts as
    b - sum beta. That is zero for {0, 1}. Else `padded` [taps, outputs] has what a position on
    padding must give back, (sum beta - b) sum_c w, c the inputs there: a count, times factors.
    """

    words: Tensor
    alpha: Tensor
    beta: Tensor
    constant: Tensor
    offset: Tensor | None
    padded: Tensor | None
    thresholds: Tensor
    table: Tensor
    weight = property(absent)

    def __init__(self, layer: CodecLayer) -> None:
        super().__init__()
        self.site = layer.site
        weight, activation = layer.weight_codec, layer.activation_codec
        if weight is None or activation is None:
            raise HalutError(f"{self.site.name}: floats are no bit planes")
        with torch.no_grad():
            b = self._hold_input(activation, layer.weight.device)
            self._hold_weight(weight, layer, b)

    def _hold_input(self, codec: Codec, device: torch.device) -> Tensor:
        """Buffers of the input's codes; b."""
        planes = codec.planes(codec.scales(torch.zeros(codec.layout.shape, device=device)))
        if planes is None:
            raise HalutError(f"{self.site.name}: its inputs are no bit planes")
        factors, offset = planes.about_zero()
        self.planes, self.signed, steps = factors.shape[1], planes.signed, codec.steps()
        self.encoder = None if steps else copy.deepcopy(codec)
        steps = steps or every_code(self.planes, device)
        self.register_buffer("beta", factors[0].float().to(device).contiguous())
        self.register_buffer("thresholds", steps.thresholds.float().to(device))
        self.register_buffer("table", steps.table.to(device))
        return offset[0].double().to(device)

    def _hold_weight(self, codec: Codec, layer: CodecLayer, b: Tensor) -> None:
        """Buffers of the weight's words, its factors, and what is added to its products."""
        coded, G = codec.encode(layer.canonical_weight().detach().float()), self.site.groups
        planes = codec.planes(coded.scales)
        if planes is None:
            raise HalutError(f"{self.site.name}: its weights are no bit planes")
        (M, _, C), device = coded.codes.shape, coded.codes.device
        about = planes.about_zero()
        factors, a = (v.double().to(device).expand(M, *v.shape[1:]) for v in about)
        n = factors.shape[1]
        signs = ((coded.codes[..., None] >> torch.arange(n, device=device)) & 1) * 2 - 1
        by_tap = (signs.sum(2) * factors[:, None]).sum(-1) + C * a[:, None]  # [M, taps]
        bias = restored(layer)[1]
        constant = b * by_tap.sum(1) + (0.0 if bias is None else bias)
        padded = (self.beta.double().sum() - b) * by_tap
        words = words_of(_by_position(coded.codes.to(torch.uint8), n))  # [M, n, W]
        rows = (words, factors.float(), constant.float(), padded.float())
        rows_by_group = [value.reshape(G, M // G, *value.shape[1:]) for value in rows]
        if not planes.signed:
            ones = words_of(_by_position(torch.ones_like(coded.codes[:1], dtype=torch.uint8), n))
            one = F.one_hot(torch.zeros(1, dtype=torch.long, device=device), n)
            more = (ones[:, :1].expand(1, n, -1), one, torch.zeros(1), torch.zeros_like(padded[:1]))
            rows_by_group = [
                torch.cat([v, m.to(v).expand(G, *m.shape)], 1)
                for v, m in zip(rows_by_group, more, strict=True)
            ]
        self.register_buffer("offset", None if planes.signed else a.float().view(G, -1))
        self.register_buffer("words", rows_by_group[0].permute(0, 3, 2, 1).contiguous())
        self.register_buffer("alpha", rows_by_group[1].transpose(1, 2).contiguous())
        self.register_buffer("constant", rows_by_group[2].reshape(1, -1))
        g = self.site.geometry
        pads = self.signed and g is not None and (g.same or g.padding != (0, 0, 0, 0))
        self.register_buffer(
            "padded", rows_by_group[3].flatten(0, 1).T.contiguous() if pads else None
        )

    @property
    def bias(self) -> Tensor | None:
        """As the weight: whether there is one, and of which shape."""
        return self.like.detach().expand(self.site.M) if self.site.bias else None

    def magnitude(self) -> float:
        """sum_ij |alpha_i| |beta_j| D, of the largest output."""
        return float(self.alpha.abs().sum(1).max() * self.beta.abs().sum() * self.site.D)

    def forward(self, input: Tensor) -> Tensor:
        self.check(input)
        x, g = input, self.site.geometry
        if g is None:
            y = self._product(self.packed(x), self.constant)
            return marked(y.view(*x.shape[:-1], self.site.M).to(x.dtype), x, None, self.site.groups)
        y = self._product(self.packed(x), self._constant(x, g))
        return marked(as_map(y, x, g).to(x.dtype), x, g.on(x), self.site.groups)

    def packed(self, x: Tensor) -> Tensor:
        """The words of every row, [N, G, J, W]."""
        g = self.site.geometry
        rows = x if g is not None else x.reshape(-1, x.shape[-1])
        values = rows if self.encoder is None else self._codes(rows)
        packed_planes = bit_planes(
            values, self.thresholds, self.table, self.planes, self.site.groups
        )
        return words_of(packed_planes[:, 0, 0] if g is None else patches(packed_planes, g))

    def _codes(self, rows: Tensor) -> Tensor:
        """The codes as floats, in the shape of the input."""
        assert self.encoder is not None
        codes = self.encoder.encode(canonical_input(rows, self.site).float()).codes.float()
        return codes.squeeze(-2) if rows.ndim == 2 else codes.flatten(-2).permute(0, 3, 1, 2)

    def _product(self, words: Tensor, constant: Tensor) -> Tensor:
        """y [N, M] of words [N, G, J, W]."""
        y = bit_product(words, self.words, self.alpha, self.beta, constant, self.site.D)
        if self.offset is None:
            return y
        y = y.view(y.shape[0], self.site.groups, -1)
        return (y[..., :-1] + self.offset * y[..., -1:]).flatten(1)

    def _constant(self, x: Tensor, g: ConvGeometry) -> Tensor:
        """What is added to the products: [OH * OW, outputs], or [1, outputs] at all of them."""
        if self.padded is None:
            return self.constant
        ones = pad(torch.ones(1, 1, *x.shape[2:], device=x.device), g)
        inside = F.unfold(ones, g.kernel_size, g.dilation, 0, g.stride)[0]  # [taps, OH * OW]
        return (1 - inside).T @ self.padded + self.constant


def _by_position(codes: Tensor, n: int) -> Tensor:
    """codes uint8 [M, taps, C] -> planes as the bytes of rows, [M, n, taps * ceil(C / 8)]."""
    return packed_planes(codes, n).transpose(1, 2).flatten(2)


def words_of(rows: Tensor) -> Tensor:
    """Bytes uint8 [.., bytes], or words already, as words int64, zeros behind."""
    if rows.dtype == torch.int64:
        return rows
    return F.pad(rows, (0, -rows.shape[-1] % 8)).contiguous().view(torch.int64)


def patches(packed: Tensor, g: ConvGeometry) -> Tensor:
    """Planes [B, H, W, G, J, bytes] -> those of patches [B * OH * OW, G, J, taps * bytes], or
    words in place of bytes, if those are whole."""
    size = g.output_size(packed.shape[1], packed.shape[2])
    left, right, top, bottom = g.pads(packed.shape[1], packed.shape[2])
    packed = F.pad(packed, (0, 0, 0, 0, 0, 0, left, right, top, bottom))
    if packed.shape[-1] % 8 == 0:
        packed = packed.contiguous().view(torch.int64)
    places = [
        [step * d for step in range(k)] for k, d in zip(g.kernel_size, g.dilation, strict=True)
    ]
    (sh, sw), (OH, OW) = g.stride, size
    windows = [
        packed[:, i : i + sh * (OH - 1) + 1 : sh, j : j + sw * (OW - 1) + 1 : sw]
        for i in places[0]
        for j in places[1]
    ]
    return torch.stack(windows, -2).flatten(-2).flatten(0, 2)
