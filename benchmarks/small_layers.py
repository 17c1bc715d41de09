"""A training step of fifty tiny table layers: what each costs beside its kernels.

python benchmarks/small_layers.py [--layers 50] [--steps 40]: milliseconds a step, the least and
the median.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from halut.replace.operator_registry import operator_type
from halut.sites.calibration import capture
from halut.sites.find import find_sites


def table_layer(channels: int = 8, size: int = 8) -> nn.Module:
    """A 3x3 convolution by hash trees, learned on random maps."""
    torch.manual_seed(0)
    exact = nn.Conv2d(channels, channels, 3, padding=1)
    network, x = nn.Sequential(exact), torch.randn(8, channels, size, size)
    site = find_sites(network, x[:1])[0][0]
    layer = operator_type("tree")().build(site, exact)
    layer.observe(capture(network, [site], [x], rows=500)[site.name])
    layer.fit()
    return layer


def main() -> None:
    """Print the times of a step."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=50)
    parser.add_argument("--steps", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    network = nn.Sequential(*[table_layer() for _ in range(asked.layers)])
    x = torch.randn(2, 8, 8, 8)
    times = []
    for _ in range(asked.steps + 3):
        network.zero_grad()
        begun = time.perf_counter()
        network(x).sum().backward()
        times.append(1e3 * (time.perf_counter() - begun))
    best, middle = min(times[3:]), statistics.median(times[3:])
    print(f"{asked.layers} layers: {best:.1f} ms a step at least, {middle:.1f} ms in the median")


if __name__ == "__main__":
    main()
