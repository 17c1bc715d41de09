"""Sites: the matrix products of a network that can be replaced, with their shapes and geometry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halut.errors import HalutError
from halut.ops.geometry import ConvGeometry, pad
from halut.sites.attention import KIND, AttentionProducts
from halut.sites.calls import Call, example_call
from halut.sites.eval_mode import eval_mode
from halut.sites.modules import replace_module, set_module
from halut.sites.replaceable import pads_as_tensorflow, unsupported_reason
from halut.sites.usage import counting, followed, forwards, same, seeded


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
    geometry: ConvGeometry | None = None

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
        return self.geometry.kernel_size[0] * self.geometry.kernel_size[1] if self.geometry else 1

    def describe(self) -> str:
        """One word on what it is: linear, attention, conv 3x3, depthwise 3x3, grouped 3x3."""
        if self.geometry is None:
            return self.kind
        size = f"{self.geometry.kernel_size[0]}x{self.geometry.kernel_size[1]}"
        prefix = "depthwise" if self.depthwise else "grouped" if self.groups > 1 else "conv"
        return f"{prefix} {size}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "geometry": geometry_fields(self.geometry)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Site:
        """Inverse of to_dict; raises TypeError for values of other types."""
        site = cls(**{**fields, "geometry": geometry_of(fields.get("geometry"))})
        for key, kind in (("name", str), ("kind", str), ("bias", bool)):
            if not isinstance(getattr(site, key), kind):
                raise TypeError(f"{key} must be {kind.__name__}, got {getattr(site, key)!r}")
        for key in ("D", "M", "groups", "rows"):
            if not _whole(getattr(site, key), 1):
                raise TypeError(f"{key} must be a number from 1, got {getattr(site, key)!r}")
        return site


def geometry_fields(geometry: ConvGeometry | None) -> dict[str, Any] | None:
    """A geometry in a plan file, where `padding` is four numbers or "same"."""
    if geometry is None:
        return None
    return {
        "kernel": geometry.kernel_size,
        "stride": geometry.stride,
        "padding": "same" if geometry.same else geometry.padding,
        "dilation": geometry.dilation,
    }


def geometry_of(fields: dict[str, Any] | None) -> ConvGeometry | None:
    """Inverse of geometry_fields; raises TypeError for values of other types."""
    if fields is None:
        return None
    options: dict[str, Any] = {"same": fields.get("padding") == "same"}
    sizes = {"kernel": (2, 1), "stride": (2, 1), "dilation": (2, 1), "padding": (4, 0)}
    if fields.keys() != sizes.keys():
        raise TypeError(f"a geometry has {', '.join(sizes)}, got {', '.join(map(str, fields))}")
    for key, (count, least) in sizes.items():
        value = fields[key]
        if key == "padding" and options["same"]:
            continue
        numbers = isinstance(value, list | tuple) and all(_whole(each, least) for each in value)
        if not (numbers and len(value) == count):
            raise TypeError(f"{key} must be {count} numbers from {least}, got {value!r}")
        options["kernel_size" if key == "kernel" else key] = tuple(value)
    return ConvGeometry(**options)


def _whole(value: Any, least: int) -> bool:
    """True for an integer, which True is not, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclass(frozen=True)
class Unsupported:
    """A module that multiplies but cannot be replaced, and why."""

    name: str
    reason: str


def find_sites(
    network: nn.Module, example: Any, samples: int = 1
) -> tuple[list[Site], list[Unsupported]]:
    """All sites of `network` in the order one forward pass of `example` calls them.

    `example` is a Tensor, a tuple of positional arguments, a mapping (keyword arguments, or the one
    argument of a forward that takes none of its keys), or a halut.Call; it holds `samples` samples,
    by which the rows of a site are divided.

    The network is run in evaluation mode, without gradients and without module hooks, as these
    switch torch's fused paths off; it is left in the mode it had. A site is a layer that is called,
    whose weight is read by nobody else, on whose answer the network's depends, and in whose place
    the same product leaves the network's answer what it was. What multiplies and is none comes with
    the reason. Raises HalutError if a forward pass of the example fails.
    """
    inside_attention = _inside_attention(network)
    candidates: dict[str, nn.Module] = {
        n: m
        for n, m in network.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d | AttentionProducts)
    }
    owners = _owners(network)
    call = example_call(network, example)
    with eval_mode(network):
        trace = _run(network, call, candidates)
        flow = followed(network, call, candidates)
    read, reaching = flow if flow is not None else (set(), set(candidates))
    sites: list[Site] = []
    unsupported: list[Unsupported] = []
    for name in sorted(candidates, key=_order(trace.rows, candidates)):
        module = candidates[name]
        reason = unsupported_reason(module) or _tied(name, module, owners)
        if name in inside_attention:
            reason = "nn.MultiheadAttention reads its weight without calling it"
        elif name not in trace.rows and name in read:
            reason = "its weight is read without calling it, as torch's fused paths do"
        elif name not in trace.rows:
            mask = isinstance(module, AttentionProducts)
            reason = f"not called in a forward pass{', or with a mask' if mask else ''}"
        elif name == "":
            reason = "it is the whole network, which has no place to be replaced in"
        elif not reason and name in read:
            reason = "its weight is read outside of its own forward: tied, or computed with"
        elif not reason and name not in reaching:
            reason = "the network's answer does not depend on it"
        if reason:
            unsupported.append(Unsupported(name, reason))
        else:
            tokens = trace.tokens.get(name, 0)
            rows = max(trace.rows[name] // samples, 1)
            sites.append(site_of(name, module, rows, tokens))
    reasons = _rehearsed(network, call, sites)
    unsupported += [Unsupported(name, reason) for name, reason in reasons.items()]
    return [site for site in sites if site.name not in reasons], unsupported


def _inside_attention(network: nn.Module) -> set[str]:
    return {
        f"{name}.{child}"
        for name, module in network.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        for child, _ in module.named_modules()
        if child
    }


def _owners(network: nn.Module) -> dict[int, list[str]]:
    """Names of the modules that hold each parameter, by identity."""
    owners: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        for parameter in module._parameters.values():
            owners.setdefault(id(parameter), []).append(name)
    return owners


def _tied(name: str, module: nn.Module, owners: dict[int, list[str]]) -> str | None:
    for key in ("weight", "bias"):
        value = getattr(module, key, None)
        others = [o for o in owners.get(id(value), []) if o != name] if value is not None else []
        if others:
            return f"its {key} is that of {others[0]} too: tied layers stay as they are"
    return None


def _order(rows: dict[str, int], names: Iterable[str]) -> Any:
    called = {name: i for i, name in enumerate(rows)}
    positions = {name: i for i, name in enumerate(names)}
    return lambda name: (called.get(name, len(called)), positions[name])


class _Trace:
    """The order of calls, and the rows of each."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        self.layers = layers
        self.rows: dict[str, int] = {}
        self.tokens: dict[str, int] = {}  # of attention's products

    def wrap(self, name: str, forward: Any) -> Any:
        module = self.layers[name]

        def run(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            if isinstance(module, AttentionProducts):
                self.tokens[name] = output.shape[-2]
                count = 2 * output.numel() // output.shape[-1]
            else:
                axis = -1 if isinstance(module, nn.Linear) else -3
                count = output.numel() // output.shape[axis]
            self.rows[name] = self.rows.get(name, 0) + count
            return output

        return run


def _run(network: nn.Module, call: Call, candidates: dict[str, nn.Module]) -> _Trace:
    """What the call calls."""
    trace = _Trace(candidates)
    try:
        with forwards(candidates, trace.wrap):
            call(network)
    except HalutError:
        raise
    # Networks check their input in their own ways: timm by assertions, others by ValueError.
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        lone = call.tensors[0].shape if len(call.tensors) == 1 else None
        description = f"an input of shape {list(lone)}" if lone is not None else repr(call)
        raise HalutError(f"the network cannot take {description}: {error}") from error
    return trace


class _StandIn(nn.Module):
    """The exact product in a site's place, of a weight [M, D] as all replacements have it."""

    def __init__(self, site: Site, source: nn.Module) -> None:
        super().__init__()
        self.site = site
        weight: Any = source.weight
        self.weight = nn.Parameter(weight.detach().reshape(site.M, site.D), False)
        self.bias = source.bias

    def forward(self, input: Tensor) -> Tensor:
        check_map(input, self.site)
        return exact_product(input, self.weight, self.bias, self.site)  # type: ignore[arg-type]


def check_map(x: Tensor, site: Site) -> None:
    """Raise HalutError if a convolution is given no batch of maps."""
    if site.geometry is not None and x.ndim != 4:
        raise HalutError(f"{site.name} takes maps [B, C, H, W], got {list(x.shape)}")


def _rehearsed(network: nn.Module, call: Call, sites: list[Site]) -> dict[str, str]:
    """Sites in whose place even the exact product changes the network, with the reason."""
    tried = [site for site in sites if site.kind != KIND]
    if any(t.is_meta for t in call.tensors):  # shapes alone: nothing can be compared
        return {}
    if all(t.is_floating_point() and not bool(t.any()) for t in call.tensors):  # tells little
        generator = torch.Generator().manual_seed(0)
        call = call.map(lambda t: torch.randn(t.shape, generator=generator).to(t))
    with eval_mode(network):
        expected, again = (seeded(network, call) for _ in range(2))
        if not same(again, expected):
            expected = None
        if not tried or _changed(network, call, expected, tried) is None:
            return {}
        reasons = {}
        for site in tried:
            reason = _changed(network, call, expected, [site])
            if reason is not None:
                reasons[site.name] = reason
        rest = [site for site in tried if site.name not in reasons]
        reason = _changed(network, call, expected, rest)
        reasons.update({site.name: reason for site in rest} if reason is not None else {})
    return reasons


def _changed(network: nn.Module, call: Call, expected: Any, sites: list[Site]) -> str | None:
    """What goes wrong with stand-ins at the sites, or None; expected None: any answer is right."""
    sources = {site.name: network.get_submodule(site.name) for site in sites}
    stand_ins = {site.name: _StandIn(site, sources[site.name]) for site in sites}
    try:
        for name, stand_in in stand_ins.items():
            replace_module(network, name, stand_in.eval())
        runs: dict[str, nn.Module] = {f"new {n}": m for n, m in stand_ins.items()}
        runs.update({f"old {n}": m for n, m in sources.items()})
        counts = dict.fromkeys(runs, 0)
        with forwards(runs, counting(counts)):
            output = seeded(network, call)
    except Exception as error:  # the network's own code, which meets another layer than it knows
        return f"in another layer's place the network fails: {error!r}".splitlines()[0]
    finally:
        for name, source in sources.items():
            set_module(network, stand_ins[name], source)
    if any(counts[f"old {name}"] or not counts[f"new {name}"] for name in sources):
        return "it is called by a reference that is no submodule: another layer would not be"
    if expected is not None and not same(output, expected):
        return "the network answers otherwise with another layer in its place"
    return None


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


def _geometry(module: nn.Conv2d) -> ConvGeometry:
    kh, kw = module.kernel_size
    sh, sw = module.stride
    dh, dw = module.dilation
    if pads_as_tensorflow(module):
        return ConvGeometry((kh, kw), (sh, sw), dilation=(dh, dw), same=True)
    if module.padding == "same":
        wide, high = dw * (kw - 1), dh * (kh - 1)
        padding = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
    elif module.padding == "valid":
        padding = (0, 0, 0, 0)
    else:
        assert not isinstance(module.padding, str)
        top, left = module.padding
        padding = (left, left, top, top)
    return ConvGeometry((kh, kw), (sh, sw), padding, (dh, dw))


def exact_product(x: Tensor, weight: Tensor, bias: Tensor | None, site: Site) -> Tensor:
    """The exact product of a site; weight [M, D] or in the layer's own shape.

    Bit for bit what the replaced module computes: symmetric padding is left to the convolution.
    """
    g = site.geometry
    if g is None:
        return F.linear(x, weight, bias)
    weight = weight.reshape(site.M, -1, *g.kernel_size)
    left, right, top, bottom = g.pads(x.shape[2], x.shape[3])
    if left == right and top == bottom:
        return F.conv2d(x, weight, bias, g.stride, (top, left), g.dilation, site.groups)
    return F.conv2d(pad(x, g), weight, bias, g.stride, 0, g.dilation, site.groups)
