"""A training step of a table layer beside the exact layer's: time and peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from halut.ops import cpu
from halut.replace.operator_registry import make_operator
from halut.sites.find import find_sites

pytestmark = pytest.mark.skipif(not cpu.cpu_capabilities(), reason="no compiled kernels")


def pair(channels, outputs, side, images):
    """An exact 3x3 convolution, a table layer for it with thresholds amid the inputs, and x."""
    torch.manual_seed(0)
    exact = nn.Conv2d(channels, outputs, 3, padding=1)
    x = torch.randn(images, channels, side, side)
    site = find_sites(nn.Sequential(exact), x[:1])[0][0]
    layer = make_operator("tree").build(site, exact)
    with torch.no_grad():
        layer.encoder.thresholds.normal_(std=0.7)
        layer.encoder.split_dims.add_(torch.tensor([4, 1, 7, 3]))
        layer.lut.normal_()
    return exact, layer, x


def step(layer, x, grad):
    layer.zero_grad()
    x.grad = None
    layer(x).backward(grad)


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "outputs"), [(64, 128), (128, 128), (256, 256)])
def test_at_most_twice_an_exact_step(channels, outputs, set_threads):
    """In the processor time of one thread, which neighbors on a shared machine disturb least."""
    set_threads(1)
    exact, layer, x = pair(channels, outputs, 16, 8)
    runs = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        grad = torch.randn(8, outputs, 16, 16).contiguous(memory_format=layout)
        for name, module in (("exact", exact), ("tables", layer)):
            own = x.contiguous(memory_format=layout).detach().requires_grad_()
            runs[name, layout] = module, own, grad
    times = {key: [] for key in runs}
    for _ in range(15):  # interleaved: what slows one slows all
        for key, (module, own, grad) in runs.items():
            start = time.process_time()
            step(module, own, grad)
            times[key].append(time.process_time() - start)
    median = {key: sorted(values)[len(values) // 2] for key, values in times.items()}
    least = {
        name: min(value for (actual, _), value in median.items() if actual == name)
        for name in ("exact", "tables")
    }
    assert least["tables"] < 2 * least["exact"], median


PEAK = """
import re, sys
from pathlib import Path
import torch
sys.path.insert(0, {root!r})
from tests.layers.test_train_step import pair, step
torch.set_num_threads(1)
status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
exact, layer, x = pair({channels}, {outputs}, {side}, {images})
layer = layer if {tables} else exact
network = torch.nn.Sequential(*[layer] * 4)  # activations of several layers are alive
grad = torch.randn({images}, {outputs}, {side}, {side})
for count in (1, None):  # a small step first: libraries' own memory is not counted
    if count is None:
        clear.write_text("5")
        before = int(re.search(r"VmRSS:\\s+(\\d+)", status.read_text()).group(1))
    step(network, x[:count].detach().requires_grad_(), grad[:count])
print(int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text()).group(1)) - before)
"""


def peak(tables, **shape):
    """KiB that a step adds to a fresh process."""
    code = PEAK.format(tables=tables, root=str(Path(__file__).parents[2]), **shape)
    run = [sys.executable, "-c", code]
    # Memory goes back when it is freed: what a heap keeps in pieces differs from run to run.
    fixed = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return int(subprocess.run(run, check=True, capture_output=True, text=True, env=fixed).stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's peak memory")
@pytest.mark.parametrize(("channels", "side", "images"), [(32, 28, 64), (64, 14, 64)])
def test_peak_memory_at_most_half_more_than_exact(channels, side, images):
    shape = {"channels": channels, "outputs": channels, "side": side, "images": images}
    exact, tables = peak(False, **shape), peak(True, **shape)
    assert exact > 4 * 4 * channels * side**2 * images / 1024  # it saw four activations
    assert tables < 1.5 * exact, (tables, exact)
