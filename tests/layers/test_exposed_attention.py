"""timm's attention around a module of its products answers as timm's own forward, bit for bit."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers.attention import Attention, AttentionRope
from torch import Tensor, nn

import halut
from halut.errors import HalutError
from halut.replace import swap
from halut.replace.policy import Rule, resolve
from halut.sites.attention import expose_attention, unexposed
from halut.sites.calibration import capture
from halut.sites.find import find_sites

NORMS = {"qk_norm": True, "scale_norm": True, "norm_layer": nn.LayerNorm}
OPTIONS = {
    "plain": {},
    "bias": {"qkv_bias": True},
    "no bias at the end": {"proj_bias": False},
    "norms of q and k": {"qk_norm": True, "norm_layer": nn.LayerNorm},
    "norm behind": {"scale_norm": True, "norm_layer": nn.LayerNorm},
    "gate": {"gated": True, "qkv_bias": True},
    "widths": {"attn_head_dim": 3, "dim_out": 12},
    "dropout": {"attn_drop": 0.3, "proj_drop": 0.2},
    "all": {**NORMS, "gated": True, "attn_drop": 0.3, "proj_drop": 0.2, "qkv_bias": True},
}
"""Of timm's Attention: each way that it computes."""


def attention(**options) -> Attention:
    torch.manual_seed(0)
    return Attention(8, num_heads=2, **options)


def tokens(seed: int = 1) -> Tensor:
    return torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(seed))


def answers(module: nn.Module, x: Tensor, **named) -> list[Tensor]:
    """The answer and the gradients of x and all parameters, for random numbers of one seed."""
    torch.manual_seed(5)
    x = x.clone().requires_grad_()
    y = module(x, **named)
    towards = [x, *module.parameters()]
    return [
        y,
        *torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), towards),
    ]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_answers_and_gradients_are_those_of_timm(options, fused, training):
    theirs = attention(**options)
    theirs.fused_attn = fused
    ours = copy.deepcopy(theirs)
    assert expose_attention(ours) == ["products"]
    assert unexposed(ours) == {}
    for found, wanted in zip(
        *(answers(module.train(training), tokens()) for module in (ours, theirs)), strict=True
    ):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "named",
    [
        {"attn_mask": torch.ones(6, 6, dtype=torch.bool).tril()},
        {"attn_mask": torch.linspace(-2, 2, 36).view(6, 6)},
        {"is_causal": True},
    ],
    ids=["boolean", "bias", "causal"],
)
def test_with_a_mask_timms_own_forward_answers(named, fused):
    theirs = attention(attn_drop=0.3, gated=True)
    theirs.fused_attn = fused
    ours = copy.deepcopy(theirs)
    assert expose_attention(ours) == ["products"]
    masked = answers(ours, tokens(), **named)
    assert not torch.equal(masked[0], answers(ours, tokens())[0])
    for found, wanted in zip(masked, answers(theirs, tokens(), **named), strict=True):
        assert torch.equal(found, wanted)


class Masked(nn.Module):
    """A network that gives its attention a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.head = attention(), nn.Linear(8, 2)

    def forward(self, x: Tensor, is_causal: bool = True) -> Tensor:
        return self.head(self.attn(x, is_causal=is_causal).mean(1))


def test_products_that_a_mask_bypasses_are_no_site():
    network = Masked()
    expose_attention(network)
    sites, unsupported = find_sites(network, tokens())
    assert {site.kind for site in sites} == {"linear"}
    reasons = {one.name: one.reason for one in unsupported}
    assert reasons["attn.products"] == "not called in a forward pass, or with a mask"


def test_replaced_products_refuse_a_mask():
    network = Masked().eval()
    network.forward = lambda x, is_causal=False: Masked.forward(network, x, is_causal)
    expose_attention(network)
    sites, _ = find_sites(network, tokens())
    (entry,) = resolve(sites, [Rule(kind="attention", operator="integer")], "keep", {}).replaced
    layer = swap.build(network, entry)
    layer.calibrate(capture(network, [entry.site], [tokens()])["attn.products"])
    swap.swap(network, entry, layer)
    network(tokens())
    with pytest.raises(HalutError, match="with a mask has no products"):
        network(tokens(), is_causal=True)


def reshape_output(**methods) -> type[Attention]:
    """A class that looks like timm's own, of a forward or attributes of its own."""
    return type("Attention", (Attention,), {**methods, "__module__": "timm.layers.attention"})


def scaled(self, x: Tensor, attn_mask=None) -> Tensor:
    return Attention.forward(self, x) * self.layer_scale


def drifted(self, x: Tensor, attn_mask=None, is_causal: bool = False) -> Tensor:
    """What a later timm may do: one more step that no attribute tells of."""
    return Attention.forward(self, x - x.mean(1, keepdim=True), attn_mask, is_causal)


def only_in_training(self, x: Tensor) -> Tensor:
    return Attention.forward(self, 0.5 * x if self.training else x)


def positioned(self, x: Tensor, positions: Tensor) -> Tensor:
    return Attention.forward(self, x + positions)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (scaled, "this timm's Attention computes otherwise than its plain attention"),
        (drifted, "this timm's Attention computes otherwise than its plain attention"),
        (only_in_training, "this timm's Attention computes otherwise than its plain attention"),
        (positioned, "Attention fails where timm's plain attention answers: TypeError"),
    ],
)
def test_another_forward_is_left_alone_and_told_of(forward, reason):
    module = reshape_output(forward=forward)(8, num_heads=2)
    module.layer_scale = 0.5
    network = nn.Sequential(module, nn.Linear(8, 2))
    assert expose_attention(network) == []
    assert type(module).__name__ == "Attention"
    assert not hasattr(module, "products")
    ((name, told),) = unexposed(network).items()
    assert name == "0"
    assert told.startswith(reason)
    assert "\n" not in told


def test_the_plan_tells_which_attention_stays_and_why():
    network = Masked().eval()
    network.attn = reshape_output(forward=drifted)(8, num_heads=2)
    rules = [halut.Rule(kind="attention", operator="integer"), ("head", halut.Integer())]
    plan = halut.replace_(network, calibration=[tokens()], rules=rules)
    assert [entry.site.name for entry in plan.replaced] == ["head"]
    assert "this timm's Attention computes otherwise" in plan.unsupported["attn"]


def test_what_lacks_an_attribute_is_left_alone_and_told_of():
    module = attention()
    del module.head_dim
    assert expose_attention(module) == []
    assert unexposed(module) == {"": "Attention has no head_dim, which timm's plain attention has"}


def test_a_forward_set_on_the_module_is_left_alone():
    module = attention()
    module.forward = lambda x: x
    assert expose_attention(module) == []
    assert "replaced by another function" in unexposed(module)[""]


def test_attention_of_other_projects_is_not_taken():
    """Of the same name, even with the same attributes."""
    other = type("Attention", (Attention,), {"__module__": "my_project.layers"})
    network = nn.ModuleList([other(8, num_heads=2), nn.MultiheadAttention(8, 2)])
    assert expose_attention(network) == []
    assert unexposed(network) == {}


def test_rotated_attention_keeps_its_own_forward():
    torch.manual_seed(0)
    grouped = AttentionRope(8, num_heads=4, num_kv_heads=2, qkv_fused=False)
    assert expose_attention(grouped) == []
    assert "has no qkv" in unexposed(grouped)[""]
    theirs = AttentionRope(8, num_heads=2, num_prefix_tokens=0).eval()
    ours = copy.deepcopy(theirs)
    expose_attention(ours)
    rope = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(ours(tokens(), rope=rope), theirs(tokens(), rope=rope))
    assert not torch.equal(ours(tokens(), rope=rope), ours(tokens()))


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "beit_base_patch16_224", "deit_tiny_patch16_224"]
)
def test_networks_of_timm_answer_the_same(name):
    network = timm.create_model(name, img_size=32, embed_dim=24, num_heads=2, depth=2).eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = network(x)
        exposed = expose_attention(network)
        assert torch.equal(network(x), before)
    told = unexposed(network)
    assert len(exposed) + len(told) == 2
    assert bool(told) == name.startswith("beit")  # of relative positions
