"""A training step of q, k and v with one encoder beside the same layers apart: time and memory.

`python tests/layers/test_shared_step.py` prints the times.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from halut.ops import cpu
from halut.replace.operator_registry import make_operator
from halut.replace.sharing import share_encoder
from halut.sites.find import find_sites

N, D = 1576, 192
"""Eight images of 197 tokens, the width of ViT-tiny."""


def members(encoder, exact=False):
    """Three layers D -> D with V = 8, K = 16 and one encoder amid the inputs."""
    torch.manual_seed(0)
    layers = []
    for _ in range(3):
        source = nn.Linear(D, D)
        site = find_sites(nn.Sequential(source), torch.zeros(1, D))[0][0]
        layer = source if exact else make_operator(encoder, V=8).build(site, source)
        if layers and not exact:
            share_encoder(layer, layers[0])
        layers.append(layer)
    if not exact:
        with torch.no_grad():
            for layer in layers:
                layer.lut.normal_()
            for parameter in layers[0].encoder.parameters():
                parameter.normal_(std=0.7)
            if encoder == "tree":
                layers[0].encoder.split_dims.add_(torch.tensor([4, 1, 7, 3]))
    return layers


def step(layers, x, grads):
    x = x.detach().requires_grad_()
    for layer in layers:
        layer.zero_grad()
    torch.autograd.backward([layer(x) for layer in layers], grads)


def times(encoder, rounds=15):
    """Milliseconds of processor time of a step on one thread: shared, apart, exact."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shared = members(encoder)
        kinds = {"shared": shared, "apart": [copy.deepcopy(layer) for layer in shared]}
        kinds["exact"] = members(encoder, exact=True)
        x, grads = torch.randn(N, D), [torch.randn(N, D) for _ in shared]
        spent = {kind: [] for kind in kinds}
        for _ in range(rounds):  # interleaved: what slows one slows all
            for kind, layers in kinds.items():
                start = time.process_time()
                step(layers, x, grads)
                spent[kind].append(1e3 * (time.process_time() - start))
        return {kind: sorted(values)[rounds // 2] for kind, values in spent.items()}
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.skipif(not cpu.cpu_capabilities(), reason="no compiled kernels")
@pytest.mark.parametrize("encoder", ["tree", "pq"])
def test_one_encode_costs_less_than_three(encoder):
    durations = times(encoder)
    assert durations["shared"] < 0.9 * durations["apart"], durations


PEAK = """
import copy, re, sys
from pathlib import Path
import torch
sys.path.insert(0, {root!r})
from tests.layers.test_shared_step import D, members, step
torch.set_num_threads(1)
status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
layers = members({encoder!r})
layers = layers if {shared} else [copy.deepcopy(layer) for layer in layers]
x = torch.randn(20000, D)
grads = [torch.randn(len(x), D) for _ in layers]
for count in (100, None):  # a small step first: libraries' own memory is not counted
    if count is None:
        clear.write_text("5")
        before = int(re.search(r"VmRSS:\\s+(\\d+)", status.read_text()).group(1))
    with torch.set_grad_enabled({train}):
        if {train}:
            step(layers, x[:count], [grad[:count] for grad in grads])
        else:
            kept = [layer(x[:count]) for layer in layers]
print(int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text()).group(1)) - before)
"""


def peak(**options):
    """KiB that a step, or an evaluation, adds to a fresh process."""
    code = PEAK.format(root=str(Path(__file__).parents[2]), **options)
    run = [sys.executable, "-c", code]
    return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's peak memory")
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("encoder", ["tree", "pq"])
def test_peak_memory_is_no_more_than_apart(encoder, train):
    shared, apart = (peak(encoder=encoder, train=train, shared=one) for one in (True, False))
    assert apart > 3 * 4 * 20000 * D / 1024  # it saw three answers
    assert shared < 1.1 * apart, (shared, apart)


if __name__ == "__main__":
    for name in ("tree", "pq"):
        print(name, {kind: round(value, 2) for kind, value in times(name, 41).items()})
