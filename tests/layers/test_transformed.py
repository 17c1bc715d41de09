"""Layers of transformed inputs, against plain layers of the dense product of input and weight."""

import copy

import pytest
import torch
from torch import nn

from halut.configs import PQ, TableConfig, Tree
from halut.encoders import encoders
from halut.errors import HalutError
from halut.layers.matmul import HalutMatmul
from halut.layers.shared_input import SharedInput
from halut.replace.operator_registry import make_operator
from halut.replace.sharing import share_encoder
from halut.sites.find import find_sites
from tests.encoders.test_transform import dense

SITES = {
    "linear": (lambda: nn.Linear(12, 6), (2, 3, 12), {"C": 4}),
    "uneven": (lambda: nn.Linear(11, 5, bias=False), (6, 11), {"C": 3}),
    "pointwise": (lambda: nn.Conv2d(12, 8, 1, 2, 1), (2, 12, 5, 5), {"C": 3}),
    "grouped": (lambda: nn.Conv2d(18, 6, 1, groups=2), (2, 18, 3, 4), {"C": 3}),
}
FORMS = {
    "free": {},
    "float": {"bits": None},
    "derived": {"parameterization": "derived", "ridge": None},
    "derived ridge": {"parameterization": "derived", "ridge": 2.0},
    "identity": {"estimator": "identity", "parameterization": "derived"},
    "blend": {"estimator": "blend", "tau_per": "codebook"},
}
CASES = [(name, form) for name in encoders for form in FORMS]
TRANSFORMS = ("hadamard", "permute")


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(case, encoder, **options):
    """A layer by K = 4 prototypes, empty, and its source."""
    build, shape, own = SITES[case]
    torch.manual_seed(0)
    source = build()
    site = find_sites(nn.Sequential(source), torch.zeros(1, *shape[1:]))[0][0]
    return make_operator(encoder, **{"K": 4, **own, **options}).build(site, source), source


def calibrated(case, encoder, **options):
    layer, source = make(case, encoder, **options)
    layer.calibrate(normal(300, layer.site.groups * layer.site.D, seed=7))
    return layer, source


def dense_map(layer):
    """T [groups * D, groups * D] of x T', written out."""
    D, groups = layer.site.D, layer.site.groups
    if layer.options.transform == "hadamard":
        return torch.block_diag(*[dense(D)] * groups)
    return torch.eye(groups * D)[layer.encoder.transform.order]


def by_dense(T, x):
    """x T' over the last dimension, or over the channels of a map."""
    return torch.einsum("bdhw,ed->behw", x, T) if x.ndim == 4 and x.shape[1] == len(T) else x @ T.T


def plain_twin(layer, case, encoder, T, **options):
    """The layer without a transform that has the other one's state, its weight multiplied by T'."""
    plain, _ = make(case, encoder, **options)
    D, groups = layer.site.D, layer.site.groups
    state = {k: v for k, v in layer.state_dict().items() if "transform" not in k}
    W = state["weight"].view(groups, -1, D)
    blocks = torch.stack([T[g * D : (g + 1) * D, g * D : (g + 1) * D] for g in range(groups)])
    state["weight"] = torch.einsum("gmd,ged->gme", W, blocks).reshape(-1, D)
    plain.load_state_dict(state)
    return plain


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("case", SITES)
@pytest.mark.parametrize(("encoder", "form"), CASES)
def test_answers_and_gradients_are_those_of_dense_maps(encoder, form, case, transform):
    options = FORMS[form]
    layer, _ = calibrated(case, encoder, **options, transform=transform)
    layer.after_step(0.3)
    T = dense_map(layer)
    plain = plain_twin(layer, case, encoder, T, **options)
    x = normal(*SITES[case][1]).requires_grad_()
    mapped = by_dense(T, x.detach()).requires_grad_()
    y, expected = layer(x), plain(mapped)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    losses = [z.mul(normal(*z.shape, seed=3)).sum() for z in (y, expected)]
    losses[0] = losses[0] + layer.table_losses(x, ["reconstruction"])["reconstruction"]
    losses[1] = losses[1] + plain.table_losses(mapped, ["reconstruction"])["reconstruction"]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(x.grad, by_dense(T.T, mapped.grad), rtol=1e-3, atol=1e-4)
    gradients = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in layer.named_parameters():
        theirs = gradients[name]
        if name == "weight" and theirs is not None:
            theirs = unmapped_weight(theirs, T, layer)
        torch.testing.assert_close(parameter.grad, theirs, rtol=1e-3, atol=1e-4)
    assert layer.diagnose(x)["normalized_mse"] == pytest.approx(
        plain.diagnose(mapped)["normalized_mse"], rel=1e-3
    )


def unmapped_weight(grad, T, layer):
    D, groups = layer.site.D, layer.site.groups
    parts = [
        part @ T[g * D : (g + 1) * D, g * D : (g + 1) * D]
        for g, part in enumerate(grad.view(groups, -1, D))
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("options", [{}, {"ridge": 1.0}, {"parameterization": "derived"}], ids=str)
@pytest.mark.parametrize("encoder", [*encoders, "pq by outputs"])
def test_what_is_learned_is_learned_of_dense_maps(encoder, options, transform):
    if encoder == "pq by outputs":
        encoder, options = "pq", {**options, "output_metric": True}
    layer, source = calibrated("grouped", encoder, **options, transform=transform)
    T = dense_map(layer)
    plain, _ = make("grouped", encoder, **options)
    with torch.no_grad():
        plain.weight.copy_(plain_twin(layer, "grouped", encoder, T, **options).weight)
    plain.calibrate(normal(300, 18, seed=7) @ T.T)
    x = normal(20, 18, 3, 4)
    torch.testing.assert_close(layer(x), plain(by_dense(T, x)), rtol=1e-3, atol=1e-3)
    error = (layer(x) - source(x)).square().mean() / source(x).square().mean()
    assert error < 0.6


@pytest.mark.parametrize("case", SITES)
@pytest.mark.parametrize("encoder", list(encoders))
def test_a_transformed_layer_is_saved_and_loaded(encoder, case):
    for transform in TRANSFORMS:
        layer, _ = calibrated(case, encoder, transform=transform)
        empty, _ = make(case, encoder, transform=transform)
        x = normal(*SITES[case][1])
        empty.load_state_dict(layer.state_dict(), strict=True)
        assert torch.equal(empty(x), layer(x))
        assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def error(rows, encoder, **options):
    """normalized_mse on the last third of rows [N, 32] of a layer learned from the others."""
    torch.manual_seed(0)
    source = nn.Linear(32, 16)
    site = find_sites(nn.Sequential(source), torch.zeros(1, 32))[0][0]
    layer = make_operator(encoder, K=16, C=8, ridge=1.0, **options).build(site, source)
    layer.calibrate(rows[: 2 * len(rows) // 3])
    return layer.diagnose(rows[2 * len(rows) // 3 :])["normalized_mse"]


def test_a_rotation_spreads_what_one_codebook_would_have_to_code():
    rows = normal(3000, 32, seed=2)
    rows[:, :4] *= 20
    assert error(rows, "pq", transform="hadamard") < 0.5 * error(rows, "pq")


def test_trees_of_rotated_inputs_lose_less_to_outliers():
    rows = normal(3000, 32, seed=2) ** 3  # kurtosis 46
    assert error(rows, "tree", transform="hadamard") < 0.7 * error(rows, "tree")


@pytest.mark.parametrize("encoder", list(encoders))
def test_inputs_that_go_together_lose_less_in_one_codebook(encoder):
    rows = normal(3000, 8, seed=2)[:, torch.arange(32) % 8] + 0.1 * normal(3000, 32, seed=4)
    assert error(rows, encoder, transform="permute") < 0.5 * error(rows, encoder)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("encoder", list(encoders))
def test_layers_with_one_encoder_have_one_transform(encoder, transform, monkeypatch):
    layers = []
    for _ in range(2):
        layer, _ = make("linear", encoder, transform=transform)
        with torch.no_grad():
            layer.weight.add_(float(len(layers)))
        if layers:
            share_encoder(layer, layers[0])
        layer.calibrate(normal(300, 12, seed=7))
        layers.append(layer)
    alone = [copy.deepcopy(layer) for layer in layers]
    for layer in alone:
        layer.readers = None
    assert layers[0].encoder.transform is layers[1].encoder.transform
    results = []
    for pair in (layers, alone):
        x = normal(5, 12).requires_grad_()
        loss = sum(layer(x).mul(normal(5, 6, seed=3)).sum() for layer in pair)
        loss.backward()
        results.append((loss, x.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)
    assert isinstance(layers[0].readers, SharedInput)


def test_layers_of_other_transforms_share_nothing():
    layers = [make("linear", "tree", transform=name)[0] for name in TRANSFORMS]
    with pytest.raises(HalutError, match="cannot share an encoder"):
        share_encoder(layers[1], layers[0])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_half_precision_and_not_finite_inputs(transform):
    layer, _ = calibrated("linear", "pq", transform=transform)
    x = normal(4, 12)
    y = layer(x.half())
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), layer(x.half().float()), rtol=1e-2, atol=1e-2)
    x[1, 3] = float("inf")
    assert layer(x).isnan().any(1).tolist() == [False, True, False, False]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_compiled_layer_answers_alike(transform):
    layer, _ = calibrated("linear", "tree", transform=transform)
    x = normal(2, 3, 12)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_stand_alone_product(transform):
    A, B = normal(400, 16), normal(16, 5, seed=2)
    product = HalutMatmul(C=4, options=Tree(transform=transform))
    product.learn_offline(A, B)
    assert product.stats(A, B)["normalized_mse"] < 0.35


def test_cost():
    """Stride 2 on 7 x 7 pixels with padding: 9 positions are read."""
    plain, hadamard, permute = (
        make("pointwise", "pq", transform=name)[0].cost() for name in ("none", *TRANSFORMS)
    )
    rows = 16
    assert hadamard["encode_adds"] - plain["encode_adds"] == rows * (8 * 3 + 4 * 2)
    assert hadamard["bops"] - plain["bops"] == 32 * rows * (8 * 3 + 4 * 2)
    assert hadamard["encoder_bytes"] == plain["encoder_bytes"]
    assert permute["encoder_bytes"] == plain["encoder_bytes"] + 4 * 12
    assert permute["bops"] == plain["bops"]
    tree = make("linear", "tree")[0]
    assert make("linear", "tree", transform="permute")[0].cost() == tree.cost()


def test_refusals():
    convolution = nn.Sequential(nn.Conv2d(4, 4, 3))
    site = find_sites(convolution, torch.zeros(1, 4, 5, 5))[0][0]
    for name in ("tree", "pq"):
        for transform in TRANSFORMS:
            with pytest.raises(HalutError, match=r"0 has 9 taps: halut.transform=.* choose none"):
                make_operator(name, transform=transform).build(site)
        make_operator(name, transform="none").build(site)
    linear = find_sites(nn.Sequential(nn.Linear(8, 4)), torch.zeros(1, 8))[0][0]
    for C in (1, 8):
        with pytest.raises(HalutError, match=r"needs 2\.\.7"):
            make_operator("tree", transform="permute", C=C).build(linear)
        make_operator("tree", transform="hadamard", C=C).build(linear)
    with pytest.raises(HalutError, match=r"halut.transform 'fft'.*none, hadamard, permute"):
        PQ(transform="fft")
    assert TableConfig.transform == "none"
