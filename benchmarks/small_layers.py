"""Training step of fifty tiny table layers: the overhead beside the kernels.

python benchmarks/small_layers.py [--layers 50] [--steps 40]: milliseconds a step, the least and
the median.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from halut.nn import LUTConv2d


def main() -> None:
    """Print the times of a step."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=50)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = nn.Sequential(*[LUTConv2d(8, 8, 3, padding=1) for _ in range(options.layers)])
    x = torch.randn(2, 8, 8, 8)
    times = []
    for _ in range(options.steps + 3):
        network.zero_grad()
        begun = time.perf_counter()
        network(x).sum().backward()
        times.append(1e3 * (time.perf_counter() - begun))
    best, middle = min(times[3:]), statistics.median(times[3:])
    print(f"{options.layers} layers: {best:.1f} ms a step at least, {middle:.1f} ms in the median")


if __name__ == "__main__":
    main()
