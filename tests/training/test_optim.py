"""Optimizer roles, what they decay, what they freeze, and the schedule's values."""

from __future__ import annotations

import math

import pytest
import timm
import torch

from halut.errors import HalutError
from halut.models.build import build_model
from halut.replace import swap
from halut.replace.param_groups import by_role
from halut.replace.policy import Rule, resolve
from halut.replace.schedule import ROLES
from halut.sites.find import find_sites
from halut.training.optim.lr_schedules import make_schedule
from halut.training.optim.optimizers import make_optimizer

LR = {role: 10.0**-i for i, role in enumerate(ROLES)}
DECAY = {role: i + 1.0 for i, role in enumerate(ROLES)}


def replaced(operator="tree", name="stack*.conv*", **options):
    """A narrow ResNet-8 with empty tables at the named sites."""
    network = build_model("resnet8", 10, 1, width=8)
    sites, _ = find_sites(network, torch.zeros(1, 1, 8, 8))
    rules = [Rule(name=name, operator=operator, options=options)]
    return swap.apply(network, resolve(sites, rules, operator, {}))


def roles_of(network):
    """Role of every parameter that some role holds, by name."""
    names = {id(p): name for name, p in network.named_parameters()}
    return {names[id(p)]: role for role, parameters in by_role(network).items() for p in parameters}


def groups_of(network, **options):
    """The optimizer's group of every parameter it trains, by name."""
    optimizer = make_optimizer(network, "adamw", LR, DECAY, **options)
    names = {id(p): name for name, p in network.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("operator", ["tree", "decision_tree", "pq", "exact"])
@pytest.mark.parametrize("parameterization", ["free", "derived"])
def test_every_parameter_has_exactly_one_role(operator, parameterization):
    options = {} if operator == "exact" else {"parameterization": parameterization}
    network = replaced(operator, **options)
    parameters = [id(p) for members in by_role(network).values() for p in members]
    assert sorted(parameters) == sorted(id(p) for p in network.parameters())
    assert len(parameters) == len(set(parameters))


def test_roles_of_a_free_table():
    roles = roles_of(replaced("tree", "stack1.conv1"))
    table = {n.rpartition("conv1.")[2]: r for n, r in roles.items() if "stack1.conv1." in n}
    assert table == {"lut": "table", "encoder.thresholds": "thresholds", "tau": "temperature"}
    assert {r for n, r in roles.items() if "stack1.conv1." not in n} == {"rest"}


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("tree", {"weight": "rest", "prototypes": "prototypes", "tau": "temperature"}),
        ("pq", {"weight": "rest", "encoder.prototypes": "prototypes", "tau": "temperature"}),
    ],
)
def test_roles_of_a_derived_table(operator, expected):
    ridge = 1.0 if operator == "tree" else None
    roles = roles_of(replaced(operator, "stack1.conv1", parameterization="derived", ridge=ridge))
    actual = {n.rpartition("conv1.")[2]: r for n, r in roles.items() if "stack1.conv1." in n}
    assert actual == expected | ({"encoder.thresholds": "thresholds"} if operator == "tree" else {})


@pytest.mark.parametrize(
    ("operator", "own"),
    [
        ("binary_residual", {"weight_codec.g": "basis", "activation_codec.g": "basis"}),
        ("abcnet", {"activation_codec.beta": "basis", "activation_codec.v": "thresholds"}),
        ("integer", {}),
    ],
)
def test_factors_and_bases_of_codecs_have_roles_of_their_own(operator, own):
    network = replaced(operator, "stack1.conv1")
    roles = roles_of(network)
    layer = {n.rpartition("conv1.")[2]: r for n, r in roles.items() if "stack1.conv1." in n}
    assert layer.pop("weight") == "rest"
    assert layer == own
    group = groups_of(network)
    for name, role in own.items():
        assert group[f"stack1.conv1.{name}"]["lr"] == LR[role]


def test_a_parameter_that_two_layers_share_is_trained_once():
    network = replaced("exact", "stack1.conv?")
    network.stack1.conv2.weight = network.stack1.conv1.weight
    members = [p for parameters in by_role(network).values() for p in parameters]
    assert sum(p is network.stack1.conv1.weight for p in members) == 1


def test_what_does_not_train_has_no_role():
    network = replaced()
    network.fc.requires_grad_(False)
    assert not {"fc.weight", "fc.bias"} & set(roles_of(network))


def test_every_role_has_its_own_rate_and_decay():
    groups = groups_of(replaced("tree", tau_per="codebook"))
    for name, group in groups.items():
        assert group["lr"] == LR[group["role"]], name
    for name, role in [
        ("stack1.conv1.lut", "table"),
        ("stack1.conv1.encoder.thresholds", "thresholds"),
        ("conv1.weight", "rest"),
    ]:
        assert groups[name]["role"] == role
        assert groups[name]["weight_decay"] == DECAY[role]


def test_biases_norms_and_temperatures_are_not_decayed():
    groups = groups_of(replaced("tree", tau_per="codebook"))
    for name in ("fc.bias", "bn1.weight", "bn1.bias", "stack1.conv1.tau"):
        assert groups[name]["weight_decay"] == 0.0, name
    assert groups["bn1.weight"]["lr"] == LR["rest"]
    assert groups["stack1.conv1.tau"]["lr"] == LR["temperature"]
    assert groups["fc.weight"]["weight_decay"] == DECAY["rest"]


def test_places_and_affine_layers_of_transformers_are_not_decayed():
    with torch.device("meta"):
        vit = timm.create_model("deit_tiny_patch16_224")
        mlp = timm.create_model("resmlp_12_224")
    groups = groups_of(vit)
    for name in ("cls_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.bias"):
        assert groups[name]["weight_decay"] == 0.0, name
    assert groups["blocks.0.attn.qkv.weight"]["weight_decay"] == DECAY["rest"]
    groups = groups_of(mlp)
    for name in ("blocks.0.norm1.alpha", "blocks.0.ls1", "norm.beta"):  # alpha is [1, 1, 384]
        assert groups[name]["weight_decay"] == 0.0, name
    assert groups["blocks.0.linear_tokens.weight"]["weight_decay"] == DECAY["rest"]


def test_a_weight_of_one_output_is_decayed():
    network = build_model("resnet8", 1, 1, width=8)
    assert groups_of(network)["fc.weight"]["weight_decay"] == DECAY["rest"]


@pytest.mark.parametrize("frozen", [["rest"], ["table", "thresholds"]])
def test_frozen_roles_do_not_move_and_train_again_in_the_next_fit(frozen):
    network = replaced("tree", bits=None)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    roles = roles_of(network)
    rates = dict.fromkeys(ROLES, 0.1)
    optimizer = make_optimizer(network, "sgd", rates, dict.fromkeys(ROLES, 0.1), 0.0, frozen)
    sum((p**2).sum() for p in network.parameters()).backward()
    optimizer.step()
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]) == (roles[name] in frozen), name
    assert roles_of(network) == roles


def test_a_layer_swapped_in_after_a_frozen_stage_trains():
    network = replaced("tree", "stack1.conv1")
    make_optimizer(network, "adamw", LR, DECAY, freeze=["rest"])
    sites, _ = find_sites(build_model("resnet8", 10, 1, width=8), torch.zeros(1, 1, 8, 8))
    plan = resolve(sites, [Rule(name="stack1.conv?", operator="tree")], "tree", {})
    swap.apply(network, plan)
    assert groups_of(network)["stack1.conv2.lut"]["role"] == "table"


def test_nothing_left_to_train_is_an_error():
    network = build_model("resnet8", 10, 1, width=8)
    with pytest.raises(HalutError, match="nothing is left to train: rest, table frozen"):
        make_optimizer(network, "adamw", LR, DECAY, freeze=["rest", "table"])


def test_sgd_has_nesterov_momentum_and_adamw_none():
    network = replaced()
    sgd = make_optimizer(network, "sgd", LR, DECAY, 0.8)
    assert {(g["momentum"], g["nesterov"]) for g in sgd.param_groups} == {(0.8, True)}
    assert make_optimizer(network, "sgd", LR, DECAY, 0.0).param_groups[0]["nesterov"] is False
    assert isinstance(make_optimizer(network, "adamw", LR, DECAY), torch.optim.AdamW)


# -- the schedule ---------------------------------------------------------------------------------


def factors(steps, warmup, kind, floor):
    """The factor on the rate of each step."""
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=2.0)
    schedule = make_schedule(optimizer, steps, warmup, kind, floor)
    results = []
    for _ in range(steps):
        results.append(optimizer.param_groups[0]["lr"] / 2.0)
        optimizer.step()
        schedule.step()
    return results


def test_warm_up_rises_by_equal_steps_to_the_full_rate():
    rates = factors(100, 0.2, "constant", 0.0)
    assert rates[:20] == pytest.approx([(i + 1) / 21 for i in range(20)])
    assert rates[20:] == [1.0] * 80


def test_cosine_falls_from_one_to_the_floor():
    rates = factors(100, 0.2, "cosine", 0.1)
    assert rates[20] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.1 + 0.9 / 2)  # half way
    quarter = 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2
    assert rates[40] == pytest.approx(quarter)
    assert 0.1 < rates[99] < 0.102
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_no_warm_up_begins_at_the_full_rate():
    assert factors(10, 0.0, "cosine", 0.0)[0] == 1.0
    assert factors(1, 0.5, "cosine", 0.0) == [1.0]


def test_the_schedule_scales_every_roles_rate_alike():
    optimizer = make_optimizer(replaced(), "adamw", LR, DECAY)
    make_schedule(optimizer, 100, 0.1, "cosine", 0.0)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(LR[group["role"]] / 11)
