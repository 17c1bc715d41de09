"""CPU cost of a kernel launch: our code and CuPy's, over a driver that does nothing.

python benchmarks/cuda_launch.py       (no GPU needed; a real driver adds its own 2 to 3 us)
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import timeit
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "cuda")]

ROUNDS, CALLS = 9, 5_000


def main() -> None:
    from driver.standin import Driver

    with tempfile.TemporaryDirectory() as folder:
        driver = Driver(Path(folder))
        import torch

        from halut.ops import ConvGeometry
        from halut.ops.core import dispatch
        from halut.ops.cuda import launch

        torch.set_num_threads(1)
        launch.current_stream = lambda index: 1
        launch.current_device = lambda: 0
        torch.cuda.get_device_capability = lambda index: (9, 0)

        device = torch.device("cuda", 0)
        x, taps = torch.randn(8, 64, 14, 14), torch.randint(0, 576, (64 * 4,))
        thresholds, bias = torch.randn(64, 15), torch.zeros(128)
        table = torch.zeros(1, 64, 16, 128, dtype=torch.int8)
        packed, scale = torch.empty(0, dtype=torch.uint8), torch.ones(128)
        codes = torch.zeros(3, 64, dtype=torch.uint8)
        out = torch.empty(3, 128, dtype=torch.int32)
        from halut.ops.cuda.lookup import CHANGING, adding

        window = ConvGeometry((3, 3), padding=(1, 1, 1, 1))
        kernel, grid, args = adding(codes, 3, table, out, None, None, None, 0, None, 1.0)
        bound = launch.bind(device, launch.Call("accumulate", kernel, grid, args, CHANGING))
        addresses = codes.data_ptr(), out.data_ptr(), 0, 1.0, 0
        layer = (taps, thresholds, table, packed, scale, bias, None, torch.float32, window)
        (entry,) = dispatch._candidates("tree_layer", "cuda", "cuda")
        prepared = entry.prepare(x, *layer)

        def allocate() -> None:  # what is torch's own share of a layer
            torch.empty((1568, 64), dtype=torch.uint8)
            torch.empty_strided((8, 128, 14, 14), (25088, 196, 14, 1), dtype=torch.float32)

        cases = {
            "launch": lambda: launch.launch("accumulate", kernel, device, grid, *args),
            "launch, bound": lambda: bound(addresses),
            "tree_layer": lambda: entry.run(x, *layer),
            "tree_layer, prepared": lambda: prepared(x),
            "of which its two tensors": allocate,
        }
        with torch.no_grad():
            times = {name: [] for name in cases}
            for _ in range(ROUNDS):
                for name, run in cases.items():
                    times[name].append(timeit.timeit(run, number=CALLS) / CALLS * 1e6)
        for name, each in times.items():
            print(f"{name:26} {statistics.median(each):6.2f} us   least {min(each):6.2f}")
        assert driver.launches > ROUNDS * CALLS


if __name__ == "__main__":
    main()
