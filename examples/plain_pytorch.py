"""Plain PyTorch, a network and data of one's own: replace, train on, measure, save.

python examples/plain_pytorch.py
"""

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import halut

torch.manual_seed(0)
y = torch.arange(4000) % 10
x = torch.randn(10, 64)[y] + 1.5 * torch.randn(4000, 64)  # ten noisy patterns


def make() -> nn.Module:
    hidden = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(64, 10))


def train(network: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> float:
    for _ in range(epochs):
        for rows in torch.randperm(3000).split(100):
            optimizer.zero_grad()
            cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    return accuracy(network)


def accuracy(network: nn.Module) -> float:
    return 100 * (network(x[3000:]).argmax(1) == y[3000:]).float().mean().item()


network = make()
exact = train(network, torch.optim.AdamW(network.parameters(), lr=1e-3), epochs=5)

plan = halut.replace_(network, halut.Tree(V=4), calibration=x[:3000].split(100), keep_first=False)
replaced_accuracy = accuracy(network)
optimizer = torch.optim.AdamW(halut.param_groups(network, lr=3e-3))
halut.attach(optimizer, network, steps=90)
trained = train(network, optimizer, epochs=3)

errors = halut.errors(network, [x[3000:]])
cost = halut.cost(network, x[:1])
with tempfile.TemporaryDirectory() as folder:
    halut.save(network, Path(folder) / "mine")
    loaded = accuracy(halut.load(Path(folder) / "mine", factory=make))

print(f"accuracy: exact {exact:.1f}, replaced {replaced_accuracy:.1f}, trained {trained:.1f} %")
for name, figures in errors.items():
    print(f"layer {name}: normalized error {figures['normalized_mse']:.3f}")
print(f"multiply-adds: {cost['exact']['macs']} exact, {cost['replaced']['macs']} left")
