"""Sites: the matrix products of a network that can be replaced, with their shapes and geometry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from halut.attention import KIND, AttentionProducts
from halut.errors import HalutError
from halut.geometry import Geometry, pad
from halut.modes import evaluating


@dataclass(frozen=True)
class Site:
    """One replaceable product: rows [N, groups * D] times weight [M, D], M outputs in all.

    Or attention's two, q k' and a v: D inputs of a head, M tokens, rows for both products, and
    groups 3: what is captured of a token and head is q, k and v.

    `rows` counts the rows of one sample (output positions of a convolution, tokens of a Linear),
    over all calls of the module in one forward pass.
    """

    name: str
    kind: str
    """"linear", "conv2d" or "attention"."""
    D: int
    M: int
    groups: int = 1
    bias: bool = True
    rows: int = 1
    geometry: Geometry | None = None

    @property
    def macs(self) -> int:
        """Multiply-adds of the exact product for one sample."""
        return self.rows * self.D * self.M

    @property
    def weights(self) -> int:
        """Entries of the weight matrix."""
        return 0 if self.kind == KIND else self.M * self.D

    @property
    def inputs(self) -> int:
        """Values that the product reads for one sample."""
        if self.kind == KIND:  # q, k, v and the softmax
            return self.rows // 2 * (3 * self.D + self.M)
        return self.rows * self.groups * self.D

    @property
    def depthwise(self) -> bool:
        """True if every group holds a single channel."""
        return self.geometry is not None and self.groups > 1 and self.taps == self.D

    @property
    def taps(self) -> int:
        """Kernel positions: kh * kw, 1 for a Linear."""
        return self.geometry.kernel[0] * self.geometry.kernel[1] if self.geometry else 1

    def describe(self) -> str:
        """One word on what it is: linear, attention, conv 3x3, depthwise 3x3, grouped 3x3."""
        if self.geometry is None:
            return self.kind
        size = f"{self.geometry.kernel[0]}x{self.geometry.kernel[1]}"
        prefix = "depthwise" if self.depthwise else "grouped" if self.groups > 1 else "conv"
        return f"{prefix} {size}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Site:
        """Inverse of to_dict."""
        geometry = fields.get("geometry")
        if geometry is not None:
            pairs = {k: tuple(v) if isinstance(v, list) else v for k, v in geometry.items()}
            geometry = Geometry(**pairs)
        return cls(**{**fields, "geometry": geometry})


@dataclass(frozen=True)
class Unsupported:
    """A module that multiplies but cannot be replaced, and why."""

    name: str
    reason: str


class _Trace:
    """Forward hooks that note the order of calls and the rows of each."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.tokens: dict[str, int] = {}  # of attention's products

    def hook(self, name: str) -> Any:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, AttentionProducts):
                self.tokens[name] = output.shape[-2]
                count = 2 * output.numel() // output.shape[-1]
            else:
                channels = output.shape[-1] if isinstance(module, nn.Linear) else output.shape[1]
                count = output.numel() // channels
            self.rows[name] = self.rows.get(name, 0) + count

        return note


def find_sites(network: nn.Module, example: Tensor) -> tuple[list[Site], list[Unsupported]]:
    """All sites of `network` in the order one forward pass of `example` (a batch of 1) calls them.

    The network is run in evaluation mode and left in the mode it had. Raises HalutError if a
    forward pass of the example fails.
    """
    inside_attention = _inside_attention(network)
    candidates: dict[str, nn.Module] = {
        n: m
        for n, m in network.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d | AttentionProducts)
    }
    trace = _run(network, example, candidates)
    sites: list[Site] = []
    unsupported: list[Unsupported] = []
    for name in sorted(candidates, key=_order(trace.rows, candidates)):
        reason = unsupported_reason(candidates[name])
        if name in inside_attention:
            reason = "nn.MultiheadAttention reads its weight without calling it"
        elif name not in trace.rows:
            reason = "not called in a forward pass"
        elif name == "":
            reason = "it is the whole network, which has no place to be replaced in"
        if reason:
            unsupported.append(Unsupported(name, reason))
        else:
            tokens = trace.tokens.get(name, 0)
            sites.append(site_of(name, candidates[name], trace.rows[name], tokens))
    return sites, unsupported


def _inside_attention(network: nn.Module) -> set[str]:
    return {
        f"{name}.{child}"
        for name, module in network.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        for child, _ in module.named_modules()
        if child
    }


def _order(rows: dict[str, int], names: Iterable[str]) -> Any:
    called = {name: i for i, name in enumerate(rows)}
    listed = {name: i for i, name in enumerate(names)}
    return lambda name: (called.get(name, len(called)), listed[name])


def _run(network: nn.Module, example: Tensor, candidates: dict[str, nn.Module]) -> _Trace:
    trace = _Trace()
    handles = [m.register_forward_hook(trace.hook(n)) for n, m in candidates.items()]
    try:
        with evaluating(network, handles):
            network(example)
    except HalutError:
        raise
    # Networks check their input in their own ways: timm by assertions, others by ValueError.
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        raise HalutError(
            f"the network cannot take an input of shape {list(example.shape)}: {error}"
        ) from error
    return trace


def unsupported_reason(module: nn.Module) -> str | None:
    """Why a Linear or Conv2d cannot be replaced, or None. Subclasses may compute otherwise."""
    kind = type(module)
    if kind in (nn.Linear, AttentionProducts):
        return None
    if kind is nn.Conv2d or _pads_as_tensorflow(module):
        mode = getattr(module, "padding_mode", "zeros")
        return None if mode == "zeros" else f"padding_mode={mode!r}: only zeros can be replaced"
    return f"{kind.__name__} is a subclass that may compute its weight otherwise"


def _pads_as_tensorflow(module: nn.Module) -> bool:
    """True for timm's Conv2dSame, told by name: the core does without importing timm."""
    kind = type(module)
    return kind.__name__ == "Conv2dSame" and kind.__module__.startswith("timm.")


def site_of(name: str, module: nn.Module, rows: int, tokens: int = 0) -> Site:
    """The site of one supported module; `tokens` of attention's products."""
    if isinstance(module, AttentionProducts):
        return Site(name, KIND, module.d, tokens, 3, False, rows)
    bias = module.bias is not None
    if isinstance(module, nn.Linear):
        return Site(name, "linear", module.in_features, module.out_features, 1, bias, rows)
    assert isinstance(module, nn.Conv2d)
    D = module.weight[0].numel()
    return Site(
        name, "conv2d", D, module.out_channels, module.groups, bias, rows, _geometry(module)
    )


def _geometry(module: nn.Conv2d) -> Geometry:
    kh, kw = module.kernel_size
    sh, sw = module.stride
    dh, dw = module.dilation
    padding: tuple[int, int, int, int] | str
    if _pads_as_tensorflow(module):
        padding = "same"
    elif module.padding == "same":
        wide, high = dw * (kw - 1), dh * (kh - 1)
        padding = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
    elif module.padding == "valid":
        padding = (0, 0, 0, 0)
    else:
        assert not isinstance(module.padding, str)
        top, left = module.padding
        padding = (left, left, top, top)
    return Geometry((kh, kw), (sh, sw), padding, (dh, dw))


def exact_product(x: Tensor, weight: Tensor, bias: Tensor | None, site: Site) -> Tensor:
    """The exact product of a site; weight [M, D] or in the layer's own shape.

    Bit for bit what the replaced module computes: symmetric padding is left to the convolution.
    """
    g = site.geometry
    if g is None:
        return F.linear(x, weight, bias)
    weight = weight.reshape(site.M, -1, *g.kernel)
    left, right, top, bottom = g.pads(x.shape[2], x.shape[3])
    if left == right and top == bottom:
        return F.conv2d(x, weight, bias, g.stride, (top, left), g.dilation, site.groups)
    return F.conv2d(pad(x, g), weight, bias, g.stride, 0, g.dilation, site.groups)
