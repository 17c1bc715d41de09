"""Gradients of table layers: the relaxation's definition, written with one-hot tensors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from halut.encoders import encoders
from halut.ops.power_of_two import normalized_mse
from tests.layers.lut_oracle import LAYERS, inputs_of, make
from tests.oracles.im2col import im2col_reference

ENCODERS = list(encoders)
RELAXED = [(name, encoders[name].estimators[0]) for name in ENCODERS]


def definition(layer, x):
    """The layer by autograd over one-hot codes: [N, GC, K] times the table, straight through."""
    G, C, K = layer.site.groups, layer.blocks.C, layer.options.K
    inputs = layer.encoder.gather_columns(im2col_reference(x, layer.site.geometry))
    lut = layer.full_lut()
    hard = F.one_hot(layer.encoder.encode(inputs.detach()).long(), K).to(lut.dtype)
    soft = layer.encoder.assign(inputs, layer.tau)
    relaxed = (soft - soft.detach()).view(-1, G, C, K)
    hard = hard.view(-1, G, C, K)
    y = torch.einsum("ngck,gckm->ngm", hard, lut)
    y = y + torch.einsum("ngck,gckm->ngm", relaxed, lut.detach())
    y = y.flatten(1)
    return layer.reshape_output(y if layer.bias is None else y + layer.bias, x)


def gradients(layer, x, forward, seed=3):
    """Gradients of <forward(x), fixed random> to x and every parameter, by name."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    y = forward(x)
    generator = torch.Generator().manual_seed(seed)
    (y * torch.randn(y.shape, generator=generator)).sum().backward()
    actual = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"x": x.grad, **{name: grad.clone() for name, grad in actual.items()}}


def assert_alike(actual, expected, rtol=2e-3, atol=2e-4):
    assert set(actual) == set(expected)
    for name, grad in expected.items():
        size = float(grad.abs().max())
        torch.testing.assert_close(actual[name], grad, rtol=rtol, atol=atol * max(size, 1e-3),
                                   msg=lambda text, name=name: f"{name}: {text}")  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("tau_per", ["layer", "codebook"])
@pytest.mark.parametrize("parameterization", ["free", "derived"])
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("case", ["linear", "grouped", "same"])
def test_relaxed_gradients_are_as_defined(case, encoder, parameterization, tau_per):
    options = {"bits": None, "parameterization": parameterization, "tau_per": tau_per}
    layer, _ = make(case, encoder, **options)
    x = inputs_of(LAYERS[case][1])
    actual = gradients(layer, x, layer)
    assert_alike(actual, gradients(layer, x, lambda x: definition(layer, x)))
    assert all(bool(grad.any()) for grad in actual.values())
    learned = {id(p) for role in layer.param_groups().values() for p in role}
    assert {name for name, p in layer.named_parameters() if id(p) in learned} == set(actual) - {"x"}


@pytest.mark.parametrize("scale", ["layer", "channel", "codebook"])
@pytest.mark.parametrize(("encoder", "estimator"), RELAXED)
@pytest.mark.parametrize("parameterization", ["free", "derived"])
def test_quantization_leaves_the_gradients_as_they_are(encoder, estimator, parameterization, scale):
    options = {"estimator": estimator, "parameterization": parameterization}
    exact, _ = make("grouped", encoder, bits=None, **options)
    quantized, _ = make("grouped", encoder, bits=8, scale=scale, calibrated=False, **options)
    quantized.load_state_dict(exact.state_dict(), strict=True)
    x = inputs_of(LAYERS["grouped"][1])
    assert not torch.equal(exact(x), quantized(x))
    assert_alike(gradients(quantized, x, quantized), gradients(exact, x, exact), atol=1e-3)


def test_the_tables_gradient_is_a_scatter_add():
    layer, _ = make("grouped", bits=8)
    x = inputs_of(LAYERS["grouped"][1])
    upstream = torch.randn(layer(x).shape, generator=torch.Generator().manual_seed(3))
    rows = upstream.permute(0, 2, 3, 1).reshape(-1, layer.site.M)
    codes = layer.encoder.codes(im2col_reference(x, layer.site.geometry))
    G, C, K, M = layer.lut.shape
    expected = torch.zeros(G, C, K, M)
    for n in range(len(rows)):
        for g in range(G):
            for c in range(C):
                expected[g, c, int(codes[n, g * C + c])] += rows[n, g * M : (g + 1) * M]
    torch.testing.assert_close(gradients(layer, x, layer)["lut"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", list(LAYERS))
def test_identity_hands_on_the_exact_gradient(case):
    layer, source = make(case, "tree", estimator="identity")
    x = inputs_of(LAYERS[case][1])
    actual, expected = gradients(layer, x, layer), gradients(source, x, source)
    torch.testing.assert_close(actual["x"], expected["x"], rtol=1e-4, atol=1e-4)
    assert set(actual) <= {"x", "lut", "bias"}  # codes are not learned through
    if layer.bias is not None:
        torch.testing.assert_close(actual["bias"], expected["bias"], rtol=1e-4, atol=1e-4)


def test_identity_with_derived_tables_gives_the_weight_the_dense_gradient():
    """dW = G' x_hat with the reconstructed inputs x_hat."""
    derived = {"parameterization": "derived", "ridge": None, "bits": None}
    layer, _ = make("linear", "pq", estimator="identity", **derived)
    x = inputs_of(LAYERS["linear"][1])
    actual = gradients(layer, x, layer)
    assert set(actual) == {"x", "weight", "bias"}
    blocks, codes = layer.blocks, layer.encoder.codes(x.view(-1, 11))
    x_hat = torch.cat(
        [layer.encoder.prototypes[c, codes[:, c].long(), : blocks.widths[c]]
         for c in range(blocks.C)], dim=1)  # fmt: skip
    y = layer(x)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).view(-1, 6)
    torch.testing.assert_close(actual["weight"], upstream.T @ x_hat, rtol=1e-4, atol=1e-4)


def carried(layer, x):
    """The layer by autograd over its prototypes, their path to the inputs, and one-hot codes."""
    G, C, K, D = layer.site.groups, layer.blocks.C, layer.options.K, layer.site.D
    rows = layer.encoder.in_units(im2col_reference(x, layer.site.geometry))
    codes = layer.encoder.encode(rows.detach()).long()
    blocks, P = layer.blocks.split(rows), layer.encoder.prototypes
    q = P[torch.arange(G * C), codes]
    if layer.estimator == "diveq":
        size = (q - blocks).norm(dim=-1, keepdim=True)
        path = blocks + size * ((q - blocks) / size).detach()
    else:
        a, b = (F.normalize(one, dim=-1).detach() for one in (blocks, q))
        r = F.normalize(a + b, dim=-1)
        turned = blocks - 2 * r * (r * blocks).sum(-1, keepdim=True)
        turned = turned + 2 * b * (a * blocks).sum(-1, keepdim=True)
        ratio = q.norm(dim=-1, keepdim=True) / blocks.norm(dim=-1, keepdim=True)
        path = turned * ratio.detach()
        # A window of padding alone has no direction.
        path = torch.where(blocks.eq(0).all(-1, keepdim=True), blocks, path)
    path = layer.encoder.times_unit(layer.blocks.join(path).view(-1, G, D))
    W = layer.weight.detach().view(G, -1, D)
    y = torch.einsum("ngd,gmd->ngm", path - path.detach(), W)
    hard = F.one_hot(codes, K).to(rows.dtype).view(-1, G, C, K)
    y = (y + torch.einsum("ngck,gckm->ngm", hard, layer.full_lut())).flatten(1)
    return layer.reshape_output(y if layer.bias is None else y + layer.bias, x)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"parameterization": "derived", "ridge": None},
        {"parameterization": "derived", "ridge": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("estimator", ["rotation", "diveq"])
@pytest.mark.parametrize("case", ["linear", "grouped", "same"])
def test_the_gradient_at_the_prototypes_is_carried_to_the_inputs(case, estimator, options):
    layer, _ = make(case, "pq", estimator=estimator, **{"bits": None, **options})
    layer.encoder.unit.fill_(0.5)
    x = inputs_of(LAYERS[case][1])
    actual, expected = gradients(layer, x, layer), gradients(layer, x, lambda x: carried(layer, x))
    assert_alike(actual, expected)
    prototypes = "encoder.prototypes"
    derived_shared = options.get("parameterization") == "derived" and options["ridge"] is None
    assert (prototypes in actual) == (estimator == "diveq" or derived_shared)
    assert all(bool(grad.any()) for grad in actual.values())


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_blend_moves_from_the_relaxed_to_the_exact_gradient(encoder, share):
    relaxed, source = make("3x3", encoder)
    blend, _ = make("3x3", encoder, calibrated=False, estimator="blend")
    blend.load_state_dict(relaxed.state_dict())
    blend.after_step(share)
    x = inputs_of(LAYERS["3x3"][1])
    actual, soft = gradients(blend, x, blend), gradients(relaxed, x, relaxed)
    dense = gradients(source, x, source)["x"]
    expected = (1 - share) * soft["x"] + share * dense
    torch.testing.assert_close(actual["x"], expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(actual["lut"], soft["lut"])


@pytest.mark.parametrize("case", ["linear", "grouped"])
@pytest.mark.parametrize("parameterization", ["free", "derived"])
@pytest.mark.parametrize("estimator", ["tree", "identity"])
def test_reconstruction_is_the_normalized_error_and_trains_the_table(
    case, parameterization, estimator
):
    options = {"estimator": estimator, "parameterization": parameterization, "bits": None}
    layer, source = make(case, "tree", **options)
    x = inputs_of(LAYERS[case][1]).requires_grad_()
    loss = layer.table_losses(x, ["reconstruction"])["reconstruction"]
    without = source(x).detach() - _bias(source, x)
    torch.testing.assert_close(loss, normalized_mse(layer(x) - _bias(layer, x), without))
    loss.backward()
    assert x.grad is None
    assert layer.encoder.thresholds.grad is None
    table = layer.lut if parameterization == "free" else layer.prototypes
    before = float(loss.detach())
    with torch.no_grad():
        table -= 1e-3 * table.grad / table.grad.norm()
    assert float(layer.table_losses(x, ["reconstruction"])["reconstruction"].detach()) < before


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", ["linear", "grouped", "same"])
@pytest.mark.parametrize("parameterization", ["free", "derived"])
@pytest.mark.parametrize("names", [["commitment"], ["reconstruction", "commitment"]])
def test_commitment_pulls_the_exact_answer_to_the_tables(case, parameterization, names):
    """The gradient of ||sg(y_hat) - y||^2 over a constant power, by autograd."""
    layer, source = make(case, "pq", bits=None, parameterization=parameterization)
    x = inputs_of(LAYERS[case][1])
    layer.zero_grad()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    losses = layer.table_losses(a, names)
    with torch.no_grad():
        table = layer(b) - _bias(layer, b)
    exact = source(b) - _bias(source, b)
    expected = (table - exact).square().sum() / exact.detach().square().sum()
    expected.backward()
    losses["commitment"].backward()
    torch.testing.assert_close(losses["commitment"], expected)
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)
    assert bool(a.grad.any())
    trained = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    assert set(trained) == ({"weight"} if parameterization == "derived" else set())
    for grad in trained.values():
        dense = source.weight.grad.reshape(grad.shape)
        torch.testing.assert_close(grad, dense, rtol=1e-4, atol=1e-7)


def test_both_losses_together_give_the_sum_of_their_gradients():
    layer, _ = make("3x3", "pq", bits=None, parameterization="derived", ridge=None)
    shape = LAYERS["3x3"][1]

    def of(*names):
        def total(x):
            return sum(layer.table_losses(x, names).values())

        return gradients(layer, inputs_of(shape), total)

    together, table, exact = (
        of("reconstruction", "commitment"),
        of("reconstruction"),
        of("commitment"),
    )
    assert table["x"] is None
    torch.testing.assert_close(together["x"], exact["x"])
    torch.testing.assert_close(together["weight"], table["weight"] + exact["weight"])
    prototypes = "encoder.prototypes"
    torch.testing.assert_close(together[prototypes], table[prototypes])


def _bias(layer, x):
    shape = (-1, 1, 1) if x.ndim == 4 else (-1,)
    return layer.bias.detach().view(shape)


@pytest.mark.parametrize(
    ("encoder", "estimator"),
    [*RELAXED, ("pq", "identity"), ("pq", "rotation"), ("pq", "diveq"), ("tree", "blend")],
)
def test_gradient_descent_mends_a_disturbed_table(encoder, estimator):
    layer, source = make("linear", encoder, estimator=estimator)
    x = inputs_of((256, 11), seed=5)
    expected = source(x).detach()
    with torch.no_grad():
        layer.lut += 0.3 * inputs_of(layer.lut.shape)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    first = float(normalized_mse(layer(x), expected).detach())
    for step in range(40):
        optimizer.zero_grad()
        normalized_mse(layer(x), expected).backward()
        optimizer.step()
        layer.after_step(step / 40)
    assert float(normalized_mse(layer(x), expected).detach()) < 0.85 * first


def test_without_gradients_nothing_is_recorded():
    layer, _ = make("3x3", estimator="identity")
    with torch.no_grad():
        assert not layer(inputs_of(LAYERS["3x3"][1])).requires_grad
