"""NaN and infinite inputs are never answered by a plausible number, and never learned from."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from halut.errors import HalutError
from halut.inference import prepare
from halut.ops.core.finite import all_finite, marked
from halut.ops.geometry import ConvGeometry
from halut.replace import swap
from halut.replace.operator_registry import make_operator, operator_names
from halut.sites.calibration import capture
from halut.sites.find import find_sites
from halut.sites.plan import Entry

NETWORKS = {
    "linear": (lambda: nn.Linear(12, 8), (12,)),
    "tokens": (lambda: nn.Linear(12, 8), (3, 12)),
    "conv": (lambda: nn.Conv2d(4, 8, 3, padding=1, stride=2), (4, 6, 6)),
    "grouped": (lambda: nn.Conv2d(4, 8, 3, groups=2, dilation=2, bias=False), (4, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, padding="same", groups=4), (4, 6, 6)),
}
MORE = [
    ("tree", {"bits": None}),
    ("tree", {"scale": "codebook"}),
    ("tree", {"estimator": "identity"}),
    ("tree", {"parameterization": "derived"}),
    ("pq", {"metric": "l1"}),
    ("pq", {"metric": "chebyshev"}),
    ("pq", {"output_metric": True}),
    ("pq", {"estimator": "rotation"}),
    ("binary", {"contraction": "popcount"}),
    ("lqnet", {"contraction": "popcount"}),
    ("abcnet", {"contraction": "popcount"}),
    ("binary_residual", {"contraction": "popcount"}),
]


def network(name):
    torch.manual_seed(0)
    made, shape = NETWORKS[name]
    return nn.Sequential(made()).eval(), torch.randn(16, *shape)


def replaced(exact, x, operator, options, rows=None):
    net = copy.deepcopy(exact)
    site = find_sites(net, x[:1])[0][0]
    kind = make_operator(operator, **options)
    entry = Entry(site, operator, kind.plan_options(site), 0)
    swap.replace_site(net, entry, capture(net, [site], [x])[site.name] if rows is None else rows)
    return net


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("operator", "options"), [*((o, {}) for o in operator_names()), *MORE])
def test_a_bad_input_affects_the_outputs_of_the_exact_product_and_no_others(
    operator, options, name
):
    exact, x = network(name)
    if (operator, options.get("output_metric")) == ("pq", True) and name == "depthwise":
        options = {**options, "C": 1}
    net = replaced(exact, x, operator, options)
    place = (1, *(n // 2 for n in x.shape[1:]))
    for value in (float("nan"), float("inf"), -float("inf")):
        bad = x.clone()
        bad[place] = value
        with torch.no_grad():
            spoiled = ~torch.isfinite(exact(bad))
            assert spoiled.any()
            assert not spoiled[0].any()
            for run in (net, prepare(net, x[:1])):
                clean, y = run(x), run(bad)
                assert torch.isfinite(clean).all()
                if value != value:
                    assert torch.equal(y.isnan(), spoiled)
                else:
                    assert torch.equal(~torch.isfinite(y), spoiled)
                assert torch.equal(y[~spoiled], clean[~spoiled])


@pytest.mark.parametrize("operator", ["tree", "integer", "lqnet"])
def test_training_sees_the_nan_and_the_loss_is_one(operator):
    exact, x = network("conv")
    net = replaced(exact, x, operator, {}).train()
    x[1, 0, 2, 2] = float("nan")
    assert net(x).square().mean().isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_floats(dtype):
    exact, x = network("conv")
    ready = prepare(replaced(exact, x, "tree", {}), x[:1])
    x[1, 0, 2, 2] = float("inf")
    with torch.no_grad():
        y = ready(x.to(dtype))
    assert y.dtype == dtype
    assert torch.equal(y.isnan(), ~torch.isfinite(exact(x)))


def test_strided_and_channels_last_maps():
    exact, x = network("conv")
    ready = prepare(replaced(exact, x, "tree", {}), x[:1])
    x[1, 0, 2, 2] = float("nan")
    expected = exact(x).isnan()
    with torch.no_grad():
        assert torch.equal(ready(x.to(memory_format=torch.channels_last)).isnan(), expected)
        wide = torch.zeros(16, 4, 6, 12)
        wide[..., ::2] = x
        assert torch.equal(ready(wide[..., ::2]).isnan(), expected)


def test_compiled_and_exported_layers_mark_without_looking():
    exact, x = network("conv")
    net = replaced(exact, x, "tree", {})
    bad = x.clone()
    bad[1, 0, 2, 2] = float("nan")
    expected = exact(bad).isnan()
    exported = torch.export.export(prepare(net, x[:1]), (x,)).module()
    with torch.no_grad():
        assert torch.equal(exported(bad).isnan(), expected)
        assert torch.equal(exported(x), prepare(net, x[:1])(x))
        assert torch.equal(torch.vmap(net[0])(bad[:, None])[:, 0].isnan(), expected)


def test_bytes_which_have_no_nan_refuse_it():
    torch.manual_seed(0)
    exact = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)).eval()
    x = torch.randn(16, 4, 6, 6)
    for net in (exact, replaced(exact, x, "tree", {})):
        ready = prepare(net, calibration=x)
        bad = x.clone()
        bad[3, 1, 2, 2] = float("nan")
        with torch.no_grad():
            assert torch.isfinite(ready(x)).all()
            with pytest.raises(HalutError, match="NaN or infinit"):
                ready(bad)


def test_attention_of_quantized_factors():
    from halut.codecs import Layout, codecs
    from halut.layers.codec_attention import quantized

    codec = codecs["integer"](Layout("activation", (1, 4)))
    x = torch.randn(5, 4)
    codec.calibrate(x[:, None])
    x[2, 1] = float("nan")
    assert torch.equal(quantized(codec, x).isnan(), x.isnan())


@pytest.mark.parametrize("operator", [o for o in operator_names() if o not in ("exact", "prune")])
def test_nothing_is_learned_from_rows_or_weights_that_are_no_numbers(operator):
    exact, x = network("linear")
    rows = x.clone()
    rows[3, 3] = float("nan")
    with pytest.raises(HalutError, match=r"^0: .*NaN or infinite"):
        replaced(exact, x, operator, {}, rows)
    with torch.no_grad():
        exact[0].weight[2, 2] = float("inf")
    with pytest.raises(HalutError, match=r"^0: the weight holds NaN or infinite"):
        replaced(exact, x, operator, {}, x)


def test_marked_reads_windows_and_groups():
    x = torch.zeros(1, 4, 5, 5)
    x[0, 3, 0, 0] = float("nan")
    geometry = ConvGeometry((2, 3), (2, 2), (1, 0, 1, 0))
    y = torch.zeros(1, 6, *geometry.output_size(5, 5))
    bad = marked(y, x, geometry, 2)
    weight = torch.ones(6, 2, 2, 3)
    padded = nn.functional.pad(x, geometry.padding)
    assert torch.equal(bad.isnan(), nn.functional.conv2d(padded, weight, None, 2, 0, 1, 2).isnan())
    assert marked(y, torch.zeros_like(x), geometry, 2) is y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [0, 1, 5, 63, 64, 1000])
def test_all_finite_is_what_isfinite_says(dtype, size):
    x = torch.full((size,), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite(x)
    assert all_finite(-x)
    for value in (float("nan"), -float("nan"), float("inf"), -float("inf")):
        for at in {0, size // 2, size - 1} if size else ():
            bad = x.clone()
            bad[at] = value
            assert not all_finite(bad)


def test_all_finite_of_many_values_on_several_threads():
    x = torch.zeros(300_001)
    assert all_finite(x)
    x[-1] = float("inf")
    assert not all_finite(x)
