"""Optimizer states by name: every optimizer goes on from what another one of its kind has saved."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from halut.training.parallel.full_state import load_optimizer_state, optimizer_state

OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, weight_decay=0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1),
    "amsgrad": lambda groups: torch.optim.AdamW(groups, lr=0.1, amsgrad=True),
    "nadam": lambda groups: torch.optim.NAdam(groups, lr=0.1),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.1, momentum=0.9, centered=True),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.1),
}


class Network(nn.Module):
    """Two layers that train, one that gets no gradient, one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)
        self.unused, self.plan_options = nn.Linear(2, 2), nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(self.plan_options(x)))


def groups(network: nn.Module) -> list[dict]:
    named = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    return [
        {"params": [p for n, p in named if n.endswith("bias")], "weight_decay": 0.0, "role": "b"},
        {"params": [p for n, p in named if n.endswith("weight")], "role": "w"},
    ]


def train(network: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()


def options(optimizer: Optimizer) -> list[dict]:
    return [
        {k: list(v) if isinstance(v, tuple) else v for k, v in group.items()}
        for group in optimizer.state_dict()["param_groups"]
    ]


def stored(state: dict) -> dict:
    """Through a file, as checkpoints go."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("form", ["named", "numbered"])
def test_goes_on_bit_for_bit(name, form):
    wanted = Network()
    optimizer = OPTIMIZERS[name](groups(wanted))
    train(wanted, optimizer, range(3))
    named = optimizer_state(wanted, optimizer)
    assert {n for group in named["param_groups"] for n in group["params"]} == {
        f"{layer}.{kind}" for layer in ("first", "last", "unused") for kind in ("weight", "bias")
    }
    state = stored(named if form == "named" else optimizer.state_dict())
    found = copy.deepcopy(wanted)
    other = OPTIMIZERS[name](groups(found))
    load_optimizer_state(found, other, state)
    for (key, tensor), (_, before) in zip(
        found.named_parameters(), wanted.named_parameters(), strict=True
    ):
        assert tensor.equal(before), key  # nothing has moved yet
    assert options(other) == options(optimizer)
    assert other.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()
    for network, one in ((wanted, optimizer), (found, other)):
        train(network, one, range(3, 6))
    for key, tensor in wanted.state_dict().items():
        assert tensor.equal(found.state_dict()[key]), key


def test_names_find_their_parameters_in_another_order():
    network = Network()
    optimizer = OPTIMIZERS["adamw"](groups(network))
    train(network, optimizer, range(2))
    turned = [{**group, "params": group["params"][::-1]} for group in groups(network)]
    other = OPTIMIZERS["adamw"](turned)
    load_optimizer_state(network, other, optimizer_state(network, optimizer))
    for parameter, values in optimizer.state.items():
        assert other.state[parameter]["exp_avg"].equal(values["exp_avg"])


def test_the_state_of_other_parameters_is_refused():
    network = Network()
    optimizer = OPTIMIZERS["adamw"](groups(network))
    train(network, optimizer, range(1))
    state = optimizer_state(network, optimizer)
    fewer = OPTIMIZERS["adamw"](groups(network)[:1])
    with pytest.raises(ValueError, match=r"other parameters than here, first\.weight"):
        load_optimizer_state(network, fewer, state)
