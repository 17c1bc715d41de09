"""What stands in a layer's place is what answers, or the layer is kept and the reason named."""

from __future__ import annotations

import copy
import functools

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from halut.analysis.layer_errors import layer_errors
from halut.errors import HalutError
from halut.inference import prepare
from halut.replace import swap
from halut.replace.liveness import prove
from halut.sites.calibration import capture
from halut.sites.find import find_sites
from halut.sites.plan import Entry, Plan
from tests.replace.zoo import plan_of


class Two(nn.Module):
    """Two Linear layers, used as `use` says."""

    def __init__(self, use):
        super().__init__()
        self.use, self.a, self.b = use, nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.use(self, x)


def plain(net, x):
    return net.b(net.a(x))


def two(use=plain, change=None):
    torch.manual_seed(0)
    net = Two(use).eval()
    if change is not None:
        change(net)
    return net


def replaced(network, x, operator="exact", **options):
    """The network with all of its sites replaced, learned from x where there is something to."""
    network = copy.deepcopy(network)
    plan = plan_of(network, x[:1], operator, options)
    rows = capture(network, [e.site for e in plan.replaced], [x], rows=4096)
    for entry in plan.replaced:
        swap.replace_site(network, entry, rows[entry.site.name])
    return network, plan


def kept(network, x):
    return {u.name: u.reason for u in find_sites(network, x[:1])[1]}


def doubles(module, inputs, output):
    return 2 * output


def halves(module, inputs):
    return (inputs[0] / 2,)


def wide(net, x):
    """Reads what a Linear tells of itself."""
    a = net.a
    assert a.weight.shape == (a.out_features, a.in_features)
    return net.b(a(x.to(a.weight.dtype).to(a.weight.device))) * a.out_features


@pytest.fixture
def rows():
    return torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("operator", ["exact", "tree", "integer"])
@pytest.mark.parametrize(
    ("use", "change"),
    [
        (lambda net, x: net.b(input=net.a(input=x)), None),
        (wide, None),
        (plain, lambda net: net.a.register_forward_hook(doubles)),
        (plain, lambda net: net.b.register_forward_pre_hook(halves)),
        (plain, lambda net: setattr(net.a, "factor", 3)),
        (lambda net, x: net.b(net.a(x)) + net.a(x.flip(0)), None),
        (lambda net, x: (net.b(net.a(x)), {"also": x}), None),
        (plain, lambda net: net.requires_grad_(False)),
        (lambda net, x: net.b.forward(net.a.forward(x)), None),
    ],
    ids=["keyword", "attributes", "hook", "pre-hook", "own", "twice", "tuple", "frozen", "forward"],
)
def test_sites_work_in_any_use(rows, operator, use, change):
    network = two(use, change)
    options = {"tree": {"K": 4, "bits": None}}.get(operator, {})
    lut_network, plan = replaced(network, rows, operator, **options)
    assert [e.site.name for e in plan.replaced] == ["a", "b"]
    prove(lut_network, rows[:4])
    with torch.no_grad():
        expected, got, ready = (
            net(rows) for net in (network, lut_network, _prepared(lut_network, rows, use))
        )
    expected, got, ready = (y[0] if isinstance(y, tuple) else y for y in (expected, got, ready))
    if operator == "exact":
        assert torch.equal(got, expected)
    assert (
        0
        <= (got - expected).square().sum() / expected.square().sum()
        < {"tree": 1}.get(operator, 1e-3)
    )
    torch.testing.assert_close(ready, got, rtol=1e-5, atol=1e-5)


def _prepared(network, rows, use):
    return network if use is wide else prepare(network, rows[:2])  # tables have no weight left


def test_handles_still_remove_their_hooks(rows):
    network = two()
    handle = network.a.register_forward_hook(doubles)
    swap.apply(network, plan_of(network, rows[:1]))
    with torch.no_grad():
        doubled = network.a(rows)
        handle.remove()
        assert torch.equal(network.a(rows), doubled / 2)


def test_errors_of_a_layer_are_without_its_hooks(rows):
    network = two(change=lambda net: net.a.register_forward_hook(doubles))
    lut_network, _ = replaced(network, rows)
    assert layer_errors(lut_network, [rows])["a"]["normalized_mse"] == 0
    assert lut_network.a.diagnose(rows)["normalized_mse"] == 0


def tied(net):
    net.b.weight = net.a.weight


def under_two_names(net):
    net.again = net.b = net.a


def aliased(net):
    net.use = functools.partial(_by_reference, [net.a])


def _by_reference(holder, net, x):
    return net.b(holder[0](x))


class Scaled(nn.Linear):
    def forward(self, input):
        return super().forward(input) * 2


class Noisy(nn.Linear):
    def forward(self, input):
        y = super().forward(input)
        return y + torch.randn_like(y) if self.training else y


class Straight(nn.Linear):
    """The answer is a Linear's, the gradient is none."""

    def forward(self, input):
        return super().forward(input).detach()


class Adapted(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.low_rank = nn.Parameter(torch.zeros(8, 8))


@pytest.mark.parametrize(
    ("use", "change", "reason"),
    [
        (lambda net, x: net.b(net.a(x)) @ net.a.weight, None, "outside of its own forward"),
        (lambda net, x: net.b(x @ net.a.weight.T), None, "without calling it"),
        (plain, lambda net: weight_norm(net.a), "weight_norm"),
        (plain, lambda net: spectral_norm(net.a), "spectral_norm"),
        (plain, lambda net: parametrizations.weight_norm(net.a), "parametrization"),
        (plain, lambda net: parametrizations.orthogonal(net.a), "parametrization"),
        (plain, lambda net: prune.l1_unstructured(net.a, "weight", 0.5), "pruning"),
        (plain, aliased, "no submodule"),
        (plain, lambda net: setattr(net, "a", Scaled(8, 8)), "computes otherwise"),
        (plain, lambda net: setattr(net, "a", Noisy(8, 8)), "computes otherwise"),
        (plain, lambda net: setattr(net, "a", Straight(8, 8)), "computes otherwise"),
        (plain, lambda net: setattr(net, "a", Adapted(8, 8)), "of its own"),
        (plain, lambda net: setattr(net.a, "forward", torch.relu), "replaced by another function"),
        (lambda net, x: (net.a(x), net.b(x))[1], None, "does not depend on it"),
        (lambda net, x: net.b(x) if isinstance(net.a, nn.Linear) else x, None, "not called"),
        (
            lambda net, x: net.b(net.a(x)) * (2 if type(net.a) is nn.Linear else 1),
            None,
            "answers otherwise",
        ),
    ],
)
def test_what_would_not_answer_is_kept_and_the_rest_stays_exact(rows, use, change, reason):
    network = two(use, change).eval()
    with torch.no_grad():
        expected = network(rows)
    assert reason in kept(network, rows)["a"]
    with torch.no_grad():
        swap.apply(network, plan_of(network, rows[:1]), example=rows[:4])
        assert torch.equal(network(rows), expected)


class Tidy(nn.Linear):
    """Overrides what does not matter."""

    def reset_parameters(self):
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input):
        return nn.functional.linear(input, self.weight, self.bias)


@pytest.mark.parametrize("kind", [Tidy, timm.layers.Linear])
def test_subclasses_that_compute_the_same_are_sites(rows, kind):
    network = two(change=lambda net: setattr(net, "a", kind(8, 8)))
    with torch.no_grad():
        expected = network(rows)
        lut_network, plan = replaced(network, rows)
        assert [e.site.name for e in plan.replaced] == ["a", "b"]
        assert torch.equal(lut_network(rows), expected)


def test_layers_of_one_weight_are_kept(rows):
    reasons = kept(two(change=tied), rows)
    assert reasons == {
        "a": "its weight is that of b too: tied layers stay as they are",
        "b": "its weight is that of a too: tied layers stay as they are",
    }


def test_a_head_tied_to_its_embedding_is_kept():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.middle = nn.Embedding(7, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, 7, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.middle(self.embedding(tokens)))

    sites, unsupported = find_sites(Language(), torch.tensor([[1, 2, 3]]))
    assert [site.name for site in sites] == ["middle"]
    assert unsupported[0].reason.startswith("its weight is that of embedding too")


def test_one_layer_under_two_names_is_one_site(rows):
    network = two(change=under_two_names)
    assert [site.name for site in find_sites(network, rows[:1])[0]] == ["a"]
    lut_network, _ = replaced(network, rows, "tree", K=4)
    assert lut_network.a is lut_network.b is lut_network.again


@pytest.mark.parametrize("nested", [False, True])
def test_torchs_fused_encoder_layers_are_kept(nested):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
    network = nn.Sequential(encoder, nn.Linear(8, 4)).eval()
    x = torch.randn(4, 5, 8)
    lut_network, plan = replaced(network, x, "tree", K=2)
    assert [e.site.name for e in plan.replaced] == ["1"]
    assert "without calling it" in kept(network, x)["0.layers.0.linear1"]
    with torch.no_grad():
        fast = lut_network(x)
    slow = lut_network(x.requires_grad_()).detach()
    torch.testing.assert_close(fast, slow)


def test_a_decoder_layer_has_no_fused_path_and_is_replaced():
    torch.manual_seed(0)

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

        def forward(self, x):
            return self.layer(x, x)

    network, x = Decoder().eval(), torch.randn(4, 5, 8)
    lut_network, plan = replaced(network, x, "tree", K=2)
    assert [e.site.name for e in plan.replaced] == ["layer.linear1", "layer.linear2"]
    prove(lut_network, x)


def test_the_proof_names_layers_that_are_passed_by():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    network, x = nn.Sequential(layer, nn.Linear(8, 4)).eval(), torch.randn(2, 5, 8)
    site = find_sites(nn.Sequential(nn.Linear(8, 16)), x[:1])[0][0]
    entry = Entry(copy.copy(site), "exact", stage=0)
    object.__setattr__(entry.site, "name", "0.linear1")
    swap.swap(network, entry, swap.build(network, entry))
    with pytest.raises(HalutError, match=r"0\.linear1: in evaluation .* does not call"):
        prove(network, x)
    with pytest.raises(HalutError, match=r"policy\.keep=\[0\.linear1\]"):
        swap.apply(network, Plan((entry,)), example=x)


def test_the_proof_names_layers_whose_answer_is_thrown_away(rows):
    network = two()
    swap.apply(network, plan_of(network, rows[:1]), example=rows[:2])
    network.use = lambda net, x: (net.a(x), net.b(x))[1]
    with pytest.raises(HalutError, match=r"^a: the network's answer does not depend"):
        prove(network, rows[:2])
    assert "forward" not in vars(network.a)


def test_a_factor_of_zero_does_not_hide_a_layer(rows):
    network = two(lambda net, x: x + 0 * net.b(net.a(x)))  # as residual branches start
    swap.apply(network, plan_of(network, rows[:1]), example=rows[:2])
    assert len(list(swap.replaced_layers(network))) == 2


def test_a_plan_cannot_name_what_is_no_site(rows):
    network = two()
    plan = plan_of(network, rows[:1])
    parametrizations.weight_norm(network.a)
    with pytest.raises(HalutError, match="a cannot be replaced: its weight is computed"):
        swap.apply(network, plan)


def test_finding_sites_leaves_no_trace(rows):
    network = two()
    before = [list(vars(m)) for m in network.modules()]
    a = network.a
    find_sites(network, rows[:1])
    assert [list(vars(m)) for m in network.modules()] == before
    assert network.a is a


def test_wrapped_and_copied_networks(rows):
    network = nn.DataParallel(two())
    assert [site.name for site in find_sites(network, rows[:1])[0]] == ["module.a", "module.b"]
    lut_network, _ = replaced(network, rows, "tree", K=4)
    prove(copy.deepcopy(lut_network), rows[:2])


def test_maps_without_a_batch_are_no_site():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(0), nn.Linear(16, 3))
    x = torch.randn(1, 4, 4)
    assert [site.name for site in find_sites(network, x)[0]] == ["2"]
    assert "takes maps [B, C, H, W]" in find_sites(network, x)[1][0].reason
