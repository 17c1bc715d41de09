"""Errors per layer: against definitions over everything at once, and streaming."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from halut.analysis import layer_errors as module
from halut.analysis.layer_errors import ErrorSums, layer_errors
from halut.errors import HalutError
from halut.replace import swap
from halut.replace.policy import Rule, resolve
from halut.sites.calibration import capture
from halut.sites.find import find_sites


@pytest.fixture(scope="module")
def images():
    return torch.randn(48, 2, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def replaced(images):
    """A network with a learned tree, a learned pq layer and an exact operator."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(6, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip
    sites, _ = find_sites(net, images[:1])
    rules = [Rule("0", operator="tree"), Rule("4", operator="pq"), Rule("7", operator="exact")]
    exact = copy.deepcopy(net)
    for entry in resolve(sites, rules, "tree", {}).replaced:
        swap.replace_site(net, entry, capture(net, [entry.site], [images])[entry.site.name])
    return net.train(), exact


def definitions(y, e):
    design = torch.stack([y.flatten(), torch.ones(y.numel())], 1).double()
    target = e.flatten().double()
    scale, shift = torch.linalg.lstsq(design, target).solution
    rest = target - design @ torch.stack([scale, shift])
    return {
        "mae": F.l1_loss(y, e),
        "mse": F.mse_loss(y, e),
        "normalized_mse": F.mse_loss(y, e) / F.mse_loss(torch.zeros_like(e), e),
        "cosine": F.cosine_similarity(y.flatten(), e.flatten(), dim=0),
        "scaled_error": rest.square().mean() / target.var(correction=0),
        "scaled_shift": shift / target.std(correction=0),
    }


def test_against_the_definitions_over_all_samples(replaced, images):
    net, exact = replaced
    net.eval()
    with torch.no_grad():
        inputs = {"0": images, "4": net[:4](images)}
        expected = {
            name: definitions(net[int(name)](x), exact[int(name)](x)) for name, x in inputs.items()
        }
    batches = [(part, None) for part in images.split(20)]  # the last one smaller
    figures = layer_errors(net, batches)
    for name, metrics in expected.items():
        assert figures[name] == pytest.approx({k: float(v) for k, v in metrics.items()}, rel=1e-4)
        assert 0 < figures[name]["normalized_mse"] < 1
    zero, one = pytest.approx(0, abs=1e-6), pytest.approx(1)
    assert figures["7"] == {
        **{"mae": 0, "mse": 0, "normalized_mse": 0, "cosine": one},
        **{"scaled_error": zero, "scaled_shift": zero},
    }
    assert list(figures) == ["0", "4", "7"]


def test_a_layers_error_is_its_own(replaced, images):
    """Spoiling the first layer changes the input of the last, which stays exact."""
    net = copy.deepcopy(replaced[0])
    before = layer_errors(net, [images])
    with torch.no_grad():
        net[0].lut.zero_()
    after = layer_errors(net, [images])
    assert after["0"]["normalized_mse"] > 1.2 * before["0"]["normalized_mse"]
    assert after["7"]["mse"] == 0


def test_batches_in_any_cut_give_the_same_and_progress_is_reported(replaced, images):
    net, seen = replaced[0], []
    whole = layer_errors(net, [images])
    parts = layer_errors(net, images.split(7), seen.append)
    assert seen == [1] * 7
    for name in whole:
        assert parts[name] == pytest.approx(whole[name], rel=1e-6)


@pytest.mark.parametrize("block", [1, 7, 100, 2000])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_blocks_and_the_order_in_memory_change_nothing(monkeypatch, block, memory):
    generator = torch.Generator().manual_seed(3)
    y, exact = (torch.randn(5, 3, 4, 6, generator=generator) for _ in range(2))
    monkeypatch.setattr(module, "BLOCK", block)
    sums = ErrorSums()
    sums.add(y.to(memory_format=memory), exact)
    expected = {key: float(value) for key, value in definitions(y, exact).items()}
    assert sums.metrics() == pytest.approx(expected, rel=1e-5)
    assert sums.count == y.numel()


def test_the_network_is_left_as_it_was(replaced, images):
    net = copy.deepcopy(replaced[0]).train()
    net[1].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    layer_errors(net, [images])
    assert net.training
    assert net[3].training
    assert not net[1].training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


def test_a_shared_layer_counts_all_of_its_calls():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    x = torch.randn(30, 4)
    plan = resolve(find_sites(net, x[:1])[0], [Rule(operator="tree")], "tree", {"K": 2})
    entry = plan.replaced[0]
    built = swap.replace_site(net, entry, x)
    with torch.no_grad():
        inner = torch.relu(built(x))
        y, e = torch.cat([built(x), built(inner)]), torch.cat([layer(x), layer(inner)])
    expected = {k: float(v) for k, v in definitions(y, e).items()}
    assert layer_errors(net, [x])["0"] == pytest.approx(expected, rel=1e-4)


def test_nothing_to_measure(replaced):
    with pytest.raises(HalutError, match="at least one batch"):
        layer_errors(replaced[0], [])
    assert layer_errors(nn.Sequential(nn.Linear(2, 2)), [torch.zeros(1, 2)]) == {}


def test_answers_that_are_not_finite_name_the_layer(replaced, images):
    net = copy.deepcopy(replaced[0])
    with torch.no_grad():
        net[4].bias[0] = float("nan")
    with pytest.raises(HalutError, match=r"4: .*NaN or infinite"):
        layer_errors(net, [images])
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("y", "e", "normalized", "cosine"),
    [
        ([0.0, 0.0], [0.0, 0.0], 0.0, 1.0),
        ([1.0, 0.0], [0.0, 0.0], float("inf"), 0.0),
        ([0.0, 0.0], [1.0, 2.0], 1.0, 0.0),
        ([3.0, 6.0], [1.0, 2.0], 4.0, 1.0),
        ([-1.0, -2.0], [1.0, 2.0], 4.0, -1.0),
    ],
)
def test_degenerate_answers(y, e, normalized, cosine):
    sums = ErrorSums()
    sums.add(torch.tensor(y), torch.tensor(e))
    figures = sums.metrics()
    assert (figures["normalized_mse"], figures["cosine"]) == (normalized, pytest.approx(cosine))


@pytest.mark.parametrize(
    ("y", "exact", "error", "shift"),
    [
        ([1.0, 2.0, 3.0], [3.0, 5.0, 7.0], 0.0, 1 / (8 / 3) ** 0.5),  # exact = 2 y + 1
        ([4.0, 4.0], [1.0, 3.0], 1.0, 2.0),  # a constant tells nothing
        ([1.0, 2.0], [0.0, 0.0], 0.0, 0.0),
        ([1.0, 2.0], [5.0, 5.0], 0.0, float("inf")),
    ],
)
def test_what_a_scale_and_a_shift_mend(y, exact, error, shift):
    total = ErrorSums()
    total.add(torch.tensor(y), torch.tensor(exact))
    figures = total.metrics()
    assert figures["scaled_error"] == pytest.approx(error, abs=1e-12)
    assert figures["scaled_shift"] == pytest.approx(shift)


def test_no_metric_hides_an_answer_that_is_not_finite():
    total = ErrorSums()
    total.add(torch.tensor([1.0, float("nan")]), torch.ones(2))
    assert all(value != value for value in total.metrics().values())
