"""Latency on this machine of what a plan makes of a network, before anything is really learned.

Layers are learned from the network's answers to random inputs, by the quick part of their learning
alone: codes are spread over the tables as they are in use, which decides what a look-up takes, and
the answers are worth nothing.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from halut.analysis.latency import latency
from halut.analysis.plan_cost import EXACT, PLAN
from halut.analysis.timing import interleaved
from halut.errors import HalutError
from halut.inference import onednn
from halut.inference.base import InferenceLayer
from halut.inference.bit_layers import BitLayer
from halut.inference.codec_layers import DecodedCodecLayer
from halut.inference.int8 import is_product
from halut.inference.mxint8 import Mxint8Layer
from halut.inference.onednn import Grid, Int8Product, Quantize
from halut.inference.prepare import prepare, with_packed_layers
from halut.inference.sign_magnitude import SignMagnitudeLayer
from halut.inference.table_layers import PackedLayer
from halut.layers.codec_attention import CodecAttention
from halut.ops import status
from halut.replace import swap
from halut.sites.attention import expose_attention
from halut.sites.calibration import capture
from halut.sites.modules import replace_module
from halut.sites.operator import ReplacedLayer
from halut.sites.plan import Entry, Plan
from halut.sites.usage import forwards

ROWS = 512
"""Rows that a layer is learned from."""
SAMPLES = 4
"""Random inputs that these are taken from, at least."""
QUICK: dict[str, Any] = {"ridge": None, "boosting": 0, "output_metric": False, "tau": 1.0}
"""Options of learning tables that decide neither shapes nor what runs."""
ROUNDS, SITE_ROUNDS = 15, 7
CODEC_FORMS: dict[type[nn.Module], str] = {
    BitLayer: "counted bits",
    CodecAttention: "float products of quantized values",
    DecodedCodecLayer: "float products of quantized values",
    Mxint8Layer: "float products of values decoded at use",
    SignMagnitudeLayer: "sums of unsigned products of bytes",
}
"""What codecs' layers run as, in words."""
NO_INT8 = "no INT8 kernel: this torch has no oneDNN"
NO_INT8_PRODUCT = "no INT8 kernel for this product"
NO_INT4 = "no kernel of 4-bit weights"


@torch.no_grad()
def plan_latency(
    network: nn.Module,
    plan: Plan,
    batch: int = 1,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Median milliseconds of a batch, by the network in the variants of plan_cost, as far as they
    can run here.

    exact: in float32, batch norms folded. int8: oneDNN's INT8 products at the sites that the plan
    replaces, all else in float32; ranges are those of the batch, and neighbors pass bytes. plan:
    its replacement, prepared. int4: nothing here multiplies 4-bit weights. Maps are timed
    contiguous and channels_last, and the quicker counts. All that is timed is taken in turns: on a
    busy machine only ratios say much.

    `network` is the exact one of the plan, of any weights, on the CPU; it is not changed. Returns
    {"batch", "threads", "ms": {variant: ms}, "spread": likewise, "sites": {name: {variant: ms}},
    "ran": {variant: what ran, in words}, "missing": {variant: why there is no time}, "missing_at":
    {name: likewise}}; the sites' layers run alone, from float32 to float32, at the shapes that they
    meet in the network. `progress` is called with 1 as a layer is learned. Codecs run as prepared
    networks have them: most multiply decoded floats.

    Raises HalutError where the plan's layers cannot be prepared.
    """
    exact = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    expose_attention(exact)
    shape = plan.model["input_shape"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x = torch.randn(max(batch, SAMPLES), *shape)
        ready = _learned(exact, plan, x, seed, progress)
        networks = {EXACT: prepare(exact, x), PLAN: prepare(ready, x)}
        names = [entry.site.name for entry in plan.replaced]
        x = x[:batch].clone()
        integers, note, alone = _in_int8(exact, names, x)
        networks |= {"int8": integers} if integers is not None else {}
        forms = with_packed_layers(copy.deepcopy(ready))
        sites, missing_at = _sites(exact, forms, alone, names, x)
    ran = {EXACT: "PyTorch, batch norms folded", PLAN: _words(ready)}
    return {
        **_quicker(networks, x),
        "sites": sites,
        "ran": ran | ({"int8": note} if integers is not None else {}),
        "missing": {"int4": NO_INT4} | ({"int8": note} if integers is None else {}),
        "missing_at": missing_at,
    }


@torch.no_grad()
def options_latency(
    network: nn.Module,
    input_shape: Sequence[int],
    options: Sequence[Sequence[Entry]],
    batch: int = 1,
    seed: int = 0,
) -> list[float]:
    """Median seconds of a batch by each option of a site, prepared, all of them taken in turns.

    An option is the site's entry, or one for each of several sites that read one input: they are
    timed together, and where they share an encoder run as one layer. Kept sites have their exact
    layer. Layers are learned as in `plan_latency`, maps are timed in both memory formats, and the
    quicker counts.

    `network` is the exact one, which is not changed, for inputs [batch, *input_shape]. Raises
    HalutError where a layer cannot be prepared.
    """
    exact = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    sites = [entry.site for entry in options[0]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x = torch.randn(max(batch, SAMPLES), *input_shape)
        rows = capture(exact, sites, [x], ROWS, seed=seed)
        first = sites[0].name
        arguments = _inputs(exact, [first], x[:batch].clone())[first]
        layers = [_layers_alone(exact, entries, rows, seed, arguments) for entries in options]
        formats = _formats(arguments)
        runs = {
            f"{number} {place}": _call(layer, each)
            for number, layer in enumerate(layers)
            for place, each in enumerate(formats)
        }
        times = interleaved(runs, SITE_ROUNDS)
    return [
        min(times[f"{number} {place}"].median for place in range(len(formats)))
        for number in range(len(layers))
    ]


@torch.no_grad()
def networks_latency(
    networks: Mapping[str, nn.Module], input_shape: Sequence[int], batch: int = 1, seed: int = 0
) -> dict[str, float]:
    """Median seconds of a batch by networks in float32, prepared, taken in turns on the CPU, each
    in the memory format that it is quicker in."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x = torch.randn(max(batch, SAMPLES), *input_shape)
        ready = {name: prepare(copy.deepcopy(each).cpu(), x) for name, each in networks.items()}
        times = _quicker(ready, x[:batch].clone())
    return {name: ms / 1e3 for name, ms in times["ms"].items()}


def _layers_alone(
    exact: nn.Module,
    entries: Sequence[Entry],
    rows: Mapping[str, Tensor],
    seed: int,
    arguments: tuple[Any, ...],
) -> nn.Module:
    """The layers of sites that read one input, as prepared networks have them."""
    network = copy.deepcopy(exact)
    for entry in entries:
        if entry.replaced:
            swap.replace_site(network, _quick(entry), rows[entry.site.name], seed)
    network.eval().requires_grad_(False)
    names = [entry.site.name for entry in entries]
    if len(names) > 1:
        return prepare(_Beside([network.get_submodule(name) for name in names]), arguments)
    return with_packed_layers(network).get_submodule(names[0])


class _Beside(nn.Module):
    """Layers that answer one input."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [layer(x) for layer in self.layers]


def _in_int8(
    exact: nn.Module, names: list[str], x: Tensor
) -> tuple[nn.Module | None, str, dict[str, nn.Module]]:
    """The network with oneDNN's INT8 products at the sites, and in words what it runs; or None, and
    why there is none. And the sites' INT8 layers alone, from float32 to float32."""
    if not onednn.available():
        return None, NO_INT8, {}
    products = {n: exact.get_submodule(n) for n in names if is_product(exact.get_submodule(n))}
    if not products:
        return None, NO_INT8_PRODUCT, {}
    alone: dict[str, nn.Module] = {}
    for name, (inputs, *_) in _inputs(exact, products, x).items():
        grid = Grid.around(inputs)
        product = Int8Product(products[name], grid, None, inputs.shape)  # type: ignore[arg-type]
        alone[name] = nn.Sequential(Quantize(grid), product)
    layers = {n: m for n, m in exact.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    count, passing, network = 0, "bytes between neighbors", exact
    with contextlib.suppress(HalutError):  # torch.fx follows nothing of it
        network = prepare(exact, calibration=x, keep=[n for n in layers if n not in names])
        count = sum(isinstance(module, Int8Product) for module in network.modules())
    if count < len(products):
        network, count, passing = copy.deepcopy(exact), len(products), "each from and to float32"
        for name, layer in alone.items():
            replace_module(network, name, layer)
    where = f"{count} of {len(names)} sites" if count < len(names) else "all replaced sites"
    return network, f"oneDNN's INT8 products at {where}, {passing}; the rest in float32", alone


def _sites(
    exact: nn.Module,
    forms: nn.Module,
    alone: Mapping[str, nn.Module],
    names: list[str],
    x: Tensor,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, str]]]:
    """Milliseconds of every site's layer alone by variant, and of those without, why not."""
    forms.requires_grad_(False)
    inputs = _inputs(exact, names, x)
    sites, missing = {}, {}
    for name in names:
        arguments = inputs[name]
        layers = {EXACT: exact.get_submodule(name), PLAN: forms.get_submodule(name)}
        missing[name] = {"int4": NO_INT4}
        if name in alone:
            layers["int8"] = alone[name]
        else:
            missing[name]["int8"] = NO_INT8_PRODUCT if onednn.available() else NO_INT8
        runs = {
            (variant, place): _call(layers[variant], each)
            for variant in layers
            for place, each in enumerate(_formats(arguments))
        }
        times = interleaved({str(key): run for key, run in runs.items()}, SITE_ROUNDS)
        sites[name] = {
            variant: 1e3 * min(times[str(key)].median for key in runs if key[0] == variant)
            for variant in layers
        }
    return sites, missing


def _quicker(networks: Mapping[str, nn.Module], x: Tensor) -> dict[str, Any]:
    """`latency` of the networks, each in the memory format that it is quicker in."""
    last = {
        f"{name} channels_last": _ChannelsLast(copy.deepcopy(network))
        for name, network in networks.items()
        if x.ndim == 4
    }
    times = latency({**networks, **last}, x, ROUNDS)
    ms, spread = times["ms"], times["spread"]
    best = {
        name: min((key for key in (name, f"{name} channels_last") if key in ms), key=ms.__getitem__)
        for name in networks
    }
    figures = {"ms": ms, "spread": spread}
    return {
        **times,
        **{key: {n: of[best[n]] for n in networks} for key, of in figures.items()},
    }


class _ChannelsLast(nn.Module):
    """A network whose convolutions' weights and input maps lie channels_last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
        self.network = network

    def forward(self, x: Tensor) -> Any:
        return self.network(x.contiguous(memory_format=torch.channels_last))


def _formats(arguments: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """The arguments of a layer, and if they are maps the same channels_last."""
    if not isinstance(arguments[0], Tensor) or arguments[0].ndim != 4:
        return [arguments]
    formats = (torch.contiguous_format, torch.channels_last)
    return [
        tuple(each.contiguous(memory_format=f) if _is_map(each) else each for each in arguments)
        for f in formats
    ]


def _is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def _words(network: nn.Module) -> str:
    """What the replaced layers of a network run as, once it is prepared."""
    forms = with_packed_layers(copy.deepcopy(network)).modules()
    kinds = Counter(_kind(m) for m in forms if isinstance(m, InferenceLayer | ReplacedLayer))
    return ", ".join(f"{count} by {kind}" for kind, count in kinds.items())


def _kind(layer: nn.Module) -> str:
    if isinstance(layer, PackedLayer):
        name = "code_layer" if layer.form == "encoder" else f"{layer.form}_layer"
        return f"{name}, {status.kernels()[name]}"
    return CODEC_FORMS.get(type(layer), type(layer).__name__)


def _learned(
    exact: nn.Module, plan: Plan, x: Tensor, seed: int, progress: Callable[[int], None] | None
) -> nn.Module:
    """A copy of the exact network whose sites are replaced, learned from its answers to x."""
    rows = capture(exact, [entry.site for entry in plan.replaced], [x], ROWS, seed=seed)
    network = copy.deepcopy(exact)
    for entry in plan.replaced:
        swap.replace_site(network, _quick(entry), rows.pop(entry.site.name), seed)
        if progress is not None:
            progress(1)
    return network.eval()


def _quick(entry: Entry) -> Entry:
    quick = {key: value for key, value in QUICK.items() if key in entry.options}
    return replace(entry, options={**entry.options, **quick}) if entry.has_tables else entry


def _inputs(network: nn.Module, names: Iterable[str], x: Tensor) -> dict[str, tuple[Any, ...]]:
    """The arguments of the first call of every named module, for the batch x."""
    seen: dict[str, tuple[Any, ...]] = {}

    def wrap(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            seen.setdefault(name, (*args, *kwargs.values()))
            return forward(*args, **kwargs)

        return run

    with forwards({name: network.get_submodule(name) for name in names}, wrap):
        network(x)
    return seen


def _call(layer: nn.Module, arguments: tuple[Any, ...]) -> Callable[[], Any]:
    return lambda: layer(*arguments)
