"""One small member of every family of timm and torchvision that takes images, to prepare.

A family is a module of timm (timm.list_modules), or of torchvision.models. Its member is the
smallest that there is; what says its depth and width in arguments is made smaller by them, the code
stays the same. Weights are random.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from halut.errors import HalutError
from halut.inference import prepare
from halut.inference.onednn import Grid
from halut.replace import swap
from halut.replace.operator_registry import make_operator
from halut.sites.calibration import capture
from halut.sites.find import Site, find_sites
from halut.sites.operator import ReplacedLayer
from halut.sites.plan import Entry

V = {"depth": 2, "embed_dim": 48, "num_heads": 3}
S = {"depths": (1, 1, 2, 1)}
TIMM: dict[str, tuple[str, int, dict[str, Any]]] = {  # family: (member, size, arguments)
    "beit": ("beit_base_patch16_224", 64, {"img_size": 64, **V}),
    "byoanet": ("lambda_resnet26t", 64, {}),
    "byobnet": ("test_byobnet", 64, {}),
    "cait": ("cait_xxs24_224", 64, {"img_size": 64, **V}),
    "coat": ("coat_lite_tiny", 64, {"img_size": 64}),
    "convit": ("convit_tiny", 64, {"img_size": 64, "depth": 2, "local_up_to_layer": 1}),
    "convmixer": ("timm.models.convmixer:ConvMixer", 56, {"dim": 64, "depth": 4}),
    "convnext": ("test_convnext", 64, {}),
    "cpubone": ("cpubone_nano", 64, {}),
    "crossvit": ("crossvit_tiny_240", 240, {"depth": ((1, 1, 0), (1, 1, 0))}),
    "csatv2": ("csatv2_21m", 128, {}),
    "cspnet": ("cs3darknet_focus_s", 64, {}),
    "cspnext": ("cspnext_tiny", 64, {}),
    "davit": ("davit_tiny", 64, {"depths": (1, 1, 1, 1)}),
    "deit": ("deit_tiny_patch16_224", 64, {"img_size": 64, **V}),
    "densenet": ("densenet121", 64, {"block_config": (2, 2, 2, 2)}),
    "dla": ("dla46x_c", 64, {}),
    "dpn": ("dpn48b", 64, {}),
    "edgenext": ("edgenext_xx_small", 64, {}),
    "efficientformer": ("efficientformer_l1", 224, {"depths": (1, 1, 1, 2)}),
    "efficientformer_v2": ("efficientformerv2_s0", 224, {}),
    "efficientnet": ("mobilenetv2_035", 64, {}),
    "efficientvim": ("efficientvim_m1", 64, {}),
    "efficientvit_mit": ("efficientvit_b0", 64, {}),
    "efficientvit_msra": ("efficientvit_m0", 224, {}),
    "eva": ("eva02_tiny_patch14_224", 56, {"img_size": 56, **V}),
    "fasternet": ("fasternet_t0", 64, {}),
    "fastvit": ("fastvit_t8", 64, {}),
    "focalnet": ("focalnet_tiny_srf", 64, {}),
    "gcvit": ("gcvit_xxtiny", 224, {}),
    "ghostnet": ("ghostnet_050", 64, {}),
    "hardcorenas": ("hardcorenas_a", 64, {}),
    "hgnet": ("hgnetv2_b0", 64, {}),
    "hiera": ("hiera_tiny_224", 224, {"stages": (1, 1, 1, 1), "embed_dim": 48}),
    "hieradet_sam2": ("hieradet_small", 128, {}),
    "hrnet": ("hrnet_w18_small", 64, {}),
    "iformer": ("iformer_t", 64, {}),
    "inception_next": ("inception_next_atto", 64, {}),
    "inception_resnet_v2": ("inception_resnet_v2", 96, {}),
    "inception_v3": ("inception_v3", 96, {}),
    "inception_v4": ("inception_v4", 96, {}),
    "lcnetv2": ("lcnetv2_small", 64, {}),
    "levit": ("levit_conv_128s", 224, {"depth": (1, 1, 1)}),
    "lowformer": ("lowformer_b0", 64, {}),
    "mambaout": ("test_mambaout", 64, {}),
    "maxxvit": ("maxvit_pico_rw_256", 64, {"img_size": 64}),
    "metaformer": ("poolformer_s12", 64, {}),
    "mlp_mixer": ("gmlp_ti16_224", 64, {"img_size": 64}),
    "mobilenetv3": ("mobilenetv3_small_050", 64, {}),
    "mobilevit": ("mobilevit_xxs", 64, {}),
    "mvitv2": ("mvitv2_tiny", 64, {"img_size": 64}),
    "naflexvit": ("naflexvit_base_patch16_gap", 64, V),
    "nasnet": ("nasnetalarge", 64, {}),
    "nest": ("nest_tiny", 64, {"img_size": 64}),
    "nextvit": ("nextvit_small", 64, {}),
    "nfnet": ("test_nfnet", 64, {}),
    "pit": ("pit_ti_224", 64, {"img_size": 64}),
    "pnasnet": ("pnasnet5large", 96, {}),
    "pvt_v2": ("pvt_v2_b0", 64, {"depths": (1, 1, 1, 1)}),
    "rdnet": ("rdnet_tiny", 64, {"num_blocks_list": (1, 1, 1, 1, 1, 1, 1)}),
    "regnet": ("regnetx_002", 64, {}),
    "repghost": ("repghostnet_050", 64, {}),
    "repvit": ("repvit_m0_9", 64, {"depth": (1, 1, 2, 1)}),
    "res2net": ("res2net50_14w_8s", 64, {"layers": (1, 1, 1, 1)}),
    "resnest": ("resnest14d", 64, {}),
    "resnet": ("resnet10t", 64, {}),
    "resnetv2": ("resnetv2_18", 64, {}),
    "rexnet": ("rexnet_100", 64, {}),
    "selecsls": ("selecsls42b", 64, {}),
    "senet": ("legacy_seresnet18", 64, {}),
    "sequencer": ("sequencer2d_s", 56, {"img_size": 56, "layers": (1, 1, 1, 1)}),
    "shvit": ("shvit_s1", 64, {}),
    "sknet": ("skresnet18", 64, {}),
    "starnet": ("starnet_s050", 64, {}),
    "swiftformer": ("swiftformer_xs", 64, {}),
    "swin_transformer": (
        "swin_tiny_patch4_window7_224",
        112,
        {"img_size": 112, **S, "embed_dim": 48},
    ),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", 64, {"img_size": 64, **S, "embed_dim": 48}),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", 64, {"img_size": 64, **S, "embed_dim": 48}),
    "tiny_vit": ("tiny_vit_5m_224", 64, {"depths": (1, 1, 1, 1)}),
    "tnt": ("tnt_s_legacy_patch16_224", 64, {"img_size": 64, "depth": 2}),
    "tresnet": ("tresnet_m", 64, {"layers": (1, 1, 1, 1)}),
    "twins": ("twins_svt_small", 64, {"img_size": 64, "depths": (1, 1, 2, 1)}),
    "vgg": ("vgg11", 64, {"mlp_ratio": 0.05}),
    "visformer": ("visformer_tiny", 64, {"img_size": 64}),
    "vision_transformer": ("vit_tiny_patch16_224", 64, {"img_size": 64, **V}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 64, {"img_size": 64, **V}),
    "vision_transformer_relpos": ("vit_relpos_small_patch16_224", 64, {"img_size": 64, **V}),
    "vision_transformer_sam": ("samvit_base_patch16_224", 64, {"img_size": 64, **V}),
    "vitamin": ("vitamin_small_224", 64, {"img_size": 64, "depth": 2}),
    "volo": ("volo_d1_224", 64, {"img_size": 64}),
    "vovnet": ("ese_vovnet19b_slim_dw", 64, {}),
    "xception": ("legacy_xception", 96, {}),
    "xception_aligned": ("xception41", 64, {}),
    "xcit": ("xcit_nano_12_p16_224", 64, {"img_size": 64, "depth": 2}),
}

TORCHVISION: dict[str, tuple[str, int, dict[str, Any]]] = {
    "alexnet": ("alexnet", 64, {}),
    "convnext": ("convnext_tiny", 64, {}),
    "densenet": ("densenet121", 64, {}),
    "efficientnet": ("efficientnet_b0", 64, {}),
    "googlenet": ("googlenet", 64, {"init_weights": False}),
    "inception": ("inception_v3", 96, {"init_weights": False}),
    "maxvit": ("maxvit_t", 224, {}),
    "mnasnet": ("mnasnet0_5", 64, {}),
    "mobilenetv2": ("mobilenet_v2", 64, {}),
    "mobilenetv3": ("mobilenet_v3_small", 64, {}),
    "regnet": ("regnet_y_400mf", 64, {}),
    "resnet": ("resnet18", 64, {}),
    "shufflenetv2": ("shufflenet_v2_x0_5", 64, {}),
    "squeezenet": ("squeezenet1_1", 64, {}),
    "swin_transformer": ("swin_t", 64, {}),
    "vgg": ("vgg11_bn", 32, {}),
    "vision_transformer": ("vit_b_16", 64, {"image_size": 64}),
}
FAMILIES = {
    **{f"timm {name}": member for name, member in TIMM.items()},
    **{f"torchvision {name}": member for name, member in TORCHVISION.items()},
}
LEFT = {  # families without a member of less than 150 million parameters
    "deepseek_vit": "412 million parameters at least",
    "gemma4_vit": "167 million parameters at least",
    "mobilenetv5": "294 million parameters at least",
    "qwen3_vit": "305 million parameters at least",
}
OPERATORS = ("tree", "integer", "tree", "pq", "tree", "integer")
"""What sites become, from the first to the last: so many of a network, evenly spread."""
SMALL = 40_000
"""Weights of a site that is replaced, at most: larger ones take long to learn."""
FLOAT_ERROR = 1e-4
"""What a prepared network may differ by, as a share of the largest answer, unless rounding makes
the network itself differ by as much: see `shaken`."""
SHAKE = 2.0**-20
"""Relative change of an input by a few roundings to float32, as other orders of sums make it."""


def int8_error(rounding: float) -> float:
    """What one with 8-bit activations may differ by, where rounding inputs of layers to 8 bits
    alone makes `rounding`: answers and weights are rounded as well."""
    return 3 * rounding + 0.05


def build(family: str) -> tuple[nn.Module, Tensor]:
    """The family's member in evaluation mode, its norms as after training, and four inputs."""
    torch.manual_seed(0)
    name, size, options = FAMILIES[family]
    if ":" in name:
        module, _, kind = name.partition(":")
        network = getattr(importlib.import_module(module), kind)(**options)
    elif family.startswith("timm"):
        network = timm.create_model(name, pretrained=False, **options)
    else:
        network = torchvision.models.get_model(name, weights=None, **options)
    x = torch.randn(4, 3, size, size)
    for layer in (m for m in network.modules() if isinstance(m, nn.Linear)):
        if not bool(layer.weight.any()):  # heads that start from zero say nothing
            nn.init.normal_(layer.weight, std=0.02)
    norms = [m for m in network.eval().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
        if norm.weight is not None:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
    with torch.no_grad():
        network(x)
    return network.eval(), x


def chosen(sites: list[Site]) -> dict[str, str]:
    """The operator of every site that is replaced, by name."""
    small = [s for s in sites if s.D * s.M <= SMALL] or sorted(sites, key=lambda s: s.weights)[:3]
    places = {
        i * (len(small) - 1) // (len(OPERATORS) - 1): kind for i, kind in enumerate(OPERATORS)
    }
    return {small[i].name: kind for i, kind in places.items()}


def replaced(network: nn.Module, x: Tensor) -> tuple[int, int]:
    """Put operators into the network; (how many, of how many sites)."""
    sites, _ = find_sites(network, x[:1])
    entries = []
    for site in sites:
        name = chosen(sites).get(site.name)
        if name is None:
            continue
        operator = make_operator(name, **({} if name == "integer" else {"K": 8}))
        if operator.supports(site) is None:
            entries.append(Entry(site, name, operator.plan_options(site), stage=0))
    rows = capture(network, [entry.site for entry in entries], [x], rows=256)
    for entry in entries:
        swap.replace_site(network, entry, rows[entry.site.name])
    return len(entries), len(sites)


def rounded_inputs(network: nn.Module, calibration: Tensor, x: Tensor) -> Any:
    """The network's answer, every product's input rounded to the 8 bits of its range."""
    ranges: dict[nn.Module, list[float]] = {}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        ranges.setdefault(module, []).extend(map(float, torch.aminmax(args[0])))

    def rounds(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        grid = Grid.of(min(ranges[module]), max(ranges[module]))
        return grid.dequantize(grid.quantize(args[0])), *args[1:]

    for hook, batch in ((note, calibration), (rounds, x)):
        with before_products(network, hook):
            answer = network(batch)
    return answer


def shaken(network: nn.Module, x: Tensor, draws: int = 8) -> Tensor:
    """How far each sample's answer moves, at most, where inputs of products move by `SHAKE`.

    What moves so far has a code beside a threshold: no other order of its sums can be nearer.
    """
    expected = network(x)
    generator = torch.Generator().manual_seed(0)

    def shake(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        signs = torch.randint(-1, 2, args[0].shape, generator=generator)
        return args[0] * (1 + SHAKE * signs), *args[1:]

    with before_products(network, shake):
        return torch.stack([errors(network(x), expected) for _ in range(draws)]).amax(0)


@contextmanager
def before_products(network: nn.Module, hook: Any) -> Iterator[None]:
    """Hook what comes before every product of the network."""
    kinds = (nn.Conv2d, nn.Linear, ReplacedLayer)
    layers = [module for module in network.modules() if isinstance(module, kinds)]
    handles = [module.register_forward_pre_hook(hook) for module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def errors(ours: Any, theirs: Any) -> Tensor:
    """The largest difference of each sample, over its largest answer."""
    pairs = zip(tree_leaves(ours), tree_leaves(theirs), strict=True)
    far = [((a - b).flatten(1).abs().amax(1) / b.flatten(1).abs().amax(1)) for a, b in pairs]
    return torch.stack(far).amax(0)


@torch.no_grad()
def figures(family: str) -> dict[str, Any]:
    """Sites, and errors of the network prepared from one example, on three inputs; or why not."""
    network, x = build(family)
    count, sites = replaced(network.eval(), x)
    other = torch.cat([x[1:], x[:1].flip(-1)])[1:]  # two that were seen, and one that was not
    expected = network(other)
    row: dict[str, Any] = {"network": FAMILIES[family][0], "size": x.shape[-1], "sites": sites}
    row |= {"replaced": count}
    row["rounding"] = float(errors(rounded_inputs(network, x, other), expected).median())
    try:
        float32 = errors(prepare(network, x[:1])(other), expected)
        row["float"] = float(float32.max())
        if row["float"] >= FLOAT_ERROR:
            row["own"] = float(shaken(network, other)[float32.argmax()])
    except HalutError as refusal:
        row["float"] = str(refusal)
    try:
        row["int8"] = float(errors(prepare(network, calibration=x)(other), expected).median())
    except HalutError as refusal:
        row["int8"] = str(refusal)
    return row


def main() -> None:
    """Write the table, or some lines anew: python -m tests.inference.families benchmarks."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    file = asked.folder / "prepare_families.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    rows: dict[str, dict[str, Any]] = {name: known[name] for name in FAMILIES if name in known}
    for family in asked.families:
        begun = time.perf_counter()
        rows[family] = figures(family)
        print(family, rows[family], f"{time.perf_counter() - begun:.1f} s", flush=True)
    file.write_text(json.dumps(rows, indent=1) + "\n")
    (asked.folder / "prepare_families.md").write_text(table(rows))


def shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.1e}"


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The figures in Markdown."""
    near = sum(
        isinstance(row["float"], float) and row["float"] < FLOAT_ERROR for row in rows.values()
    )
    unmoved = sum(row["float"] <= 3 * row["own"] for row in rows.values() if "own" in row)
    lines = [
        "# Networks of timm and torchvision, prepared\n",
        "Random weights, up to six sites replaced (tree, integer, pq). The largest difference of",
        "an answer to the network's in evaluation mode over its largest entry: prepared in floats",
        "from an example of one input, the worst of three inputs; in 8 bits from a calibration of",
        f"four, the median of the three. Own, where floats differ by more than {FLOAT_ERROR}: how",
        "far the network's own answer to that input moves where inputs of its products move by",
        "2^-20 of themselves, which flips codes that lie beside a threshold. Rounding: what",
        "rounding every product's input to 8 bits does alone.\n",
        f"In floats {near} of {len(rows)} are within {FLOAT_ERROR}; {unmoved} more differ no",
        "further than their own answers move.\n",
        "| family | network | pixels | sites, replaced | float | own | 8 bits | rounding |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family, row in rows.items():
        cells = [family, row["network"], row["size"], f"{row['sites']}, {row['replaced']}"]
        cells += [shown(row.get(key, "")) for key in ("float", "own", "int8", "rounding")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
