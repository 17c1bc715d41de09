"""What is exported at one CPU capability runs at others, with the same integers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import halut
from halut.ops import cpu

NETWORK = """
from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(216, 12), nn.ReLU(), nn.Linear(12, 5),
    )
"""
PROGRAM = """
import hashlib, sys
import torch
import halut
from halut.replace.swap import replaced_layers
from mine import build

network = halut.load(sys.argv[1], build)
assert not {"hydra", "lightning"} & set(sys.modules), "a bundle loads without them"
inputs = {}
for name, layer in replaced_layers(network):
    layer.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0].shape}))
network(torch.zeros(4, 3, 8, 8))
draw = torch.Generator().manual_seed(0)
for name, layer in replaced_layers(network):
    x = torch.randn(inputs[name], generator=draw)  # what comes before it may round otherwise
    prepared = halut.prepare(torch.nn.Sequential(layer).eval(), x)
    for values in (layer.codes(x), prepared(x)):
        print(name, hashlib.sha256(values.detach().contiguous().numpy().tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("machines")
    (folder / "mine.py").write_text(NETWORK)
    torch.manual_seed(0)
    space: dict[str, object] = {}
    exec(NETWORK, space)
    network = space["build"]()
    assert isinstance(network, nn.Module)
    x = torch.randn(64, 3, 8, 8)
    flags = {"keep_first": False, "keep_last": False}
    halut.replace_(network, halut.Tree(V=9, K=16), [x], rules=[("2", halut.PQ(V=9))], **flags)
    halut.export(network.eval(), x[:4], to="bundle", folder=folder / "bundle")
    return folder


def integers(folder, capability):
    """Digests of every layer's codes and sums, in a new process of that capability."""
    environment = {**os.environ, cpu.VARIABLE: capability}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", ".")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "bundle")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def best(exported):
    return integers(exported, cpu.cpu_capability())


def test_there_are_codes_and_sums_of_every_layer(best):
    assert len(best) == 8
    assert len({line.split()[1] for line in best}) == 8


@pytest.mark.parametrize("capability", ["torch", *cpu.cpu_capabilities()])
def test_a_bundle_has_the_same_integers_at_every_capability(exported, best, capability):
    assert integers(exported, capability) == best
