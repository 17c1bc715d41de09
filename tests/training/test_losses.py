"""Losses against loops; features and those of tables gathered when, and only when, they train."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import nn

from halut.errors import HalutError
from halut.models.build import build_model
from halut.replace.policy import Rule, resolve
from halut.replace.swap import replaced_layers
from halut.sites.find import find_sites
from halut.training.config.run_config import LossConfig
from halut.training.lightning.losses import (
    Features,
    TableLosses,
    block_names,
    check_blocks,
    distillation,
    feature_loss,
)
from halut.training.teacher import check_loss, make_teacher
from tests.training.learned_layers import with_learned


def replaced(name="stack*.conv*", operator="tree", **options):
    """A narrow ResNet-8 with learned tables at the named sites, and images for it."""
    torch.manual_seed(0)
    network = build_model("resnet8", 10, 1, width=8)
    x = torch.randn(6, 1, 8, 8)
    sites, _ = find_sites(network, x[:1])
    plan = resolve(sites, [Rule(name=name, operator=operator, options=options)], operator, {})
    return with_learned(network, plan, x, rows=256), x


# -- distillation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_is_the_mean_over_the_batch_of_each_samples_divergence(temperature):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(7, 11), 3 * torch.randn(7, 11)
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        q = [math.exp(v / temperature) for v in s]
        p = [math.exp(v / temperature) for v in t]
        q, p = [v / sum(q) for v in q], [v / sum(p) for v in p]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    expected = temperature**2 * total / 7
    assert float(distillation(student, teacher, temperature)) == pytest.approx(expected, rel=1e-5)


def test_distillation_does_not_shrink_with_the_number_of_samples_or_classes():
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    one = distillation(student, teacher, 1.0)
    assert torch.allclose(distillation(student.repeat(64, 1), teacher.repeat(64, 1), 1.0), one)
    unused = torch.full((1, 998), -80.0)  # classes that neither believes in
    wide = distillation(torch.cat([student, unused], 1), torch.cat([teacher, unused], 1), 1.0)
    assert torch.allclose(wide, one)


def test_distillation_teaches_the_student_only():
    student = torch.randn(4, 5, requires_grad=True)
    teacher = torch.randn(4, 5)
    distillation(student, teacher, 2.0).backward()
    assert student.grad.abs().max() > 0
    assert torch.allclose(student.grad.sum(dim=1), torch.zeros(4), atol=1e-6)
    assert float(distillation(teacher, teacher, 2.0)) == pytest.approx(0.0, abs=1e-6)


# -- features -------------------------------------------------------------------------------------


def test_feature_loss_is_the_mean_over_blocks_of_the_relative_squared_error():
    torch.manual_seed(0)
    student, teacher = (build_model("resnet8", 10, 1, width=8).eval() for _ in range(2))
    names = ["stack1", "stack3"]
    features = Features(student, names), Features(teacher, names)
    x = torch.randn(3, 1, 8, 8)
    student(x), teacher(x)
    expected = []
    for net in (student, teacher):
        net.requires_grad_(False)
    a, b = (net.act1(net.bn1(net.conv1(x))) for net in (student, teacher))
    for name in ("stack1", "stack2", "stack3"):
        a, b = student.get_submodule(name)(a), teacher.get_submodule(name)(b)
        if name in names:
            expected.append(float(((a - b) ** 2).sum() / (b**2).sum()))
    assert float(feature_loss(*features)) == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert min(expected) > 0


def test_feature_loss_of_equals_is_zero_and_reaches_no_teacher():
    network = build_model("resnet8", 10, 1, width=8).eval()
    twin = build_model("resnet8", 10, 1, width=8).eval()
    twin.load_state_dict(network.state_dict())
    features = Features(network, ["stack2"]), Features(twin, ["stack2"])
    x = torch.randn(2, 1, 8, 8)
    network(x), twin(x)
    assert feature_loss(*features).item() == 0.0
    network(x + 0.1)
    feature_loss(*features).backward()
    assert network.get_parameter("stack1.conv1.weight").grad.abs().max() > 0
    assert twin.get_parameter("stack1.conv1.weight").grad is None


def test_removed_features_watch_no_longer():
    network = build_model("resnet8", 10, 1, width=8).eval()
    features = Features(network, ["stack1"])
    features.remove()
    network(torch.randn(1, 1, 8, 8))
    assert features.values == {}


def test_an_unknown_block_is_named_with_those_near_it():
    network = build_model("resnet8", 10, 1, width=8)
    with pytest.raises(HalutError, match=r"no module 'stack9'; among its modules: .*stack1"):
        Features(network, ["stack1", "stack9"])
    assert not network.stack1._forward_hooks
    with pytest.raises(HalutError, match="no module ''"):
        check_blocks(network, [""])


# -- reconstruction and commitment ----------------------------------------------------------------

BOTH = ("reconstruction", "commitment")


@pytest.mark.parametrize("names", [BOTH, BOTH[:1], BOTH[1:]])
def test_losses_of_tables_are_the_mean_over_layers_of_their_own(names):
    network, x = replaced(parameterization="derived", estimator="identity")
    gather = TableLosses(network, names)
    seen = {}
    for name, layer in replaced_layers(network):
        layer.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
    network.train()(x)
    layers = replaced_layers(network)
    expected = [layer.table_losses(seen[name], names) for name, layer in layers]
    assert len(expected) == 6
    losses = gather.take()
    assert tuple(losses) == names
    for name, loss in losses.items():
        assert float(loss.detach()) > 0
        assert torch.allclose(loss, torch.stack([one[name] for one in expected]).mean())
    assert not any(map(float, gather.take().values()))  # taken


def test_losses_of_tables_are_gathered_in_training_only():
    network, x = replaced("stack1.conv1")
    gather = TableLosses(network, BOTH)
    network.eval()(x)
    with torch.no_grad():
        network.train()(x)
    assert gather.terms == []
    network(x)
    assert len(gather.terms) == 1


def test_removed_losses_of_tables_gather_no_longer():
    network, x = replaced("stack1.conv1")
    old = TableLosses(network, BOTH)
    network.train()(x)
    old.remove()
    network(x)
    assert old.terms == []
    assert not any(layer._forward_hooks for _, layer in replaced_layers(network))


def test_losses_of_no_tables_are_zero():
    losses = TableLosses(build_model("resnet8", 10, 1, width=8), BOTH).take()
    assert {name: float(loss) for name, loss in losses.items()} == dict.fromkeys(BOTH, 0.0)


# -- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        ("resnet18", (3, 64, 64), ["act1", "layer1", "layer2", "layer3", "layer4"]),
        ("deit_tiny_patch16_224", (3, 224, 224), [f"blocks.{i}" for i in range(12)]),
        ("levit_128s", (3, 224, 224), ["stages.0", "stages.1", "stages.2"]),
    ],
)
def test_blocks_of_timms_networks_are_its_feature_blocks(network, shape, expected):
    with torch.device("meta"):
        network = timm.create_model(network)
        sites, _ = find_sites(network, torch.zeros(1, *shape))
    assert block_names(network, [site.name for site in sites]) == expected


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("resnet8", (1, 8, 8), ["stack1", "stack2", "stack3"]),
        ("tiny_vit", (1, 8, 8), ["patch_embed", *(f"blocks.{i}" for i in range(4))]),
        ("ds_cnn", (1, 49, 10), [f"blocks.{i}" for i in range(4)]),
    ],
)
def test_blocks_of_local_networks_are_the_parts_that_hold_sites(name, shape, expected):
    network = build_model(name, 10, 1)
    sites, _ = find_sites(network, torch.zeros(1, *shape))
    assert block_names(network, [site.name for site in sites]) == expected


# -- teachers -------------------------------------------------------------------------------------


class Digits:
    num_classes = 10
    input_shape = (1, 8, 8)


def test_the_teacher_is_the_network_itself_frozen_or_nobody():
    network = build_model("resnet8", 10, 1, width=8).train()
    assert make_teacher(network, Digits, LossConfig(distill=0.0)) is None
    teacher = make_teacher(network, Digits, LossConfig(distill=0.5))
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(teacher(x), network.eval()(x))
    with torch.no_grad():
        network.fc.weight.add_(1.0)
    assert not torch.equal(teacher(x), network(x))


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (LossConfig(teacher="resnet9"), "resnet9 has no published weights: give loss.teacher_w"),
        (LossConfig(teacher="resnet7"), "unknown model 'resnet7'"),
        (LossConfig(teacher="resnet8", features=1.0), "leave loss.teacher out"),
        (LossConfig(teacher="resnet8", teacher_weights="/no/such"), "/no/such is no file"),
        (LossConfig(features=1.0, feature_blocks=["stack1", "stake2"]), "no module 'stake2'"),
    ],
)
def test_a_loss_that_cannot_be_had_is_refused(loss, says):
    with pytest.raises(HalutError, match=says):
        check_loss(build_model("resnet8", 10, 1, width=8), loss)


def test_unused_settings_of_a_teacher_do_no_harm():
    loss = LossConfig(distill=0.0, teacher="resnet9", feature_blocks=["nowhere"])
    check_loss(nn.Identity(), loss)
