"""`halut scaling`: speed-up with the number of ranks, measured, and extrapolated.

The same work, a global batch and a calibration set, is shared out over 1, 2, ... ranks of this
machine, each with a thread or a GPU of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from halut.bench import machine
from halut.bench.main import number, numbers
from halut.errors import HalutError
from halut.io import write_json
from halut.models.build import build_model
from halut.plugins import loading
from halut.prototypes.codebooks import shared_out
from halut.replace import swap
from halut.replace.policy import resolve, simple_rules
from halut.sites.calibration import reservoirs_of, sampled_rows
from halut.sites.find import find_sites
from halut.training.logging.git import git_revision
from halut.training.parallel.distributed import rank, share_state, world_size
from halut.training.parallel.gather import codebook_ranks, merged

ROWS = 4096
CALIBRATION = 8
"""Batches of 64 images."""


def main(arguments: Sequence[str]) -> int:
    """Exit code 0; prints and saves a JSON file."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.batch < max(options.ranks):
        parser.error(f"--batch {options.batch} leaves some of {max(options.ranks)} ranks no image")
    if options.device == "cuda" and torch.cuda.device_count() < max(options.ranks):
        raise HalutError(
            f"--ranks {max(options.ranks)} --device cuda: torch finds "
            f"{torch.cuda.device_count()} GPUs here"
        )
    build_model(options.model, 10, 3)  # an unknown name is refused before ranks start
    measured = [_run(ranks, options) for ranks in options.ranks]
    for entry in measured:
        # What a rank would take had it a core of its own, whatever else this machine does.
        if entry["ranks"] > 1:
            part = argparse.Namespace(**vars(options) | {"batch": options.batch // entry["ranks"]})
            entry["share_alone_seconds"] = _run(1, part, learn=False)["step_seconds"]
    document = {
        "schema": 1,
        "machine": machine.describe(),
        "commit": git_revision(),
        "command": shlex.join(["halut", "scaling", *arguments]),
        "load": os.getloadavg()[0],
        "work": f"{options.model} on 32 x 32, trees of K = 16; {options.batch} images a step over "
        f"all ranks; capture of {64 * CALIBRATION} images and learning of every site",
        "measured": measured,
        "computed": computed(measured),
    }
    name = f"scaling-{options.device}-{machine.slug(machine.cpu_model())}.json"
    path = Path(options.json or f"benchmarks/{name}")
    write_json(path, document)
    print(json.dumps({key: document[key] for key in ("measured", "computed")}, indent=2))
    print(f"saved: {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="halut scaling", description=main.__doc__)
    p.add_argument("--ranks", type=numbers, default=[1, 2], metavar="1,2")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--model", default="resnet20")
    p.add_argument(
        "--batch", type=number, default=128, help="images of a step over all ranks (128)"
    )
    p.add_argument("--steps", type=number, default=20)
    p.add_argument("--json", metavar="FILE", help="where to save")
    return p


def _run(ranks: int, options: argparse.Namespace, learn: bool = True) -> dict[str, Any]:
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        result_path = Path(folder) / "found.json"
        plugins = list(loading.described())
        mp.start_processes(
            _rank,
            (ranks, port, vars(options) | {"learn": learn, "plugins": plugins}, str(result_path)),
            nprocs=ranks,
            start_method="spawn",
        )
        return {"ranks": ranks, **json.loads(result_path.read_text())}


def _rank(index: int, ranks: int, port: int, options: dict[str, Any], result_path: str) -> None:
    torch.set_num_threads(1)
    cuda = options["device"] == "cuda"
    if cuda:
        torch.cuda.set_device(index)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("nccl" if cuda else "gloo", address, rank=index, world_size=ranks)
    device = torch.device("cuda", index) if cuda else torch.device("cpu")
    torch.manual_seed(0)
    loading.load(options["plugins"])
    network = build_model(options["model"], 10, 3).to(device)
    learning = _learn(network, device, CALIBRATION if options["learn"] else 1)
    step, reduced = _train(network, device, options)
    if index == 0:
        size = 4 * sum(p.numel() for p in network.parameters() if p.requires_grad)
        figures = {"step_seconds": step, "learning_seconds": learning}
        write_json(
            Path(result_path), {**figures, "all_reduce_seconds": reduced, "gradient_bytes": size}
        )
    dist.destroy_process_group()


def _learn(network: nn.Module, device: torch.device, count: int) -> float:
    """Seconds to capture `count` batches and learn every site, one after the other."""
    begun = time.perf_counter()
    sites, unsupported = find_sites(network, torch.zeros(1, 3, 32, 32, device=device))
    plan = resolve(sites, simple_rules(sites), "tree", {"K": 16}, unsupported)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(64, 3, 32, 32, generator=generator) for _ in range(count)]
    shard = (rank(), world_size())
    for entry in plan.replaced:
        mine = batches[shard[0] :: shard[1]]
        part = reservoirs_of(network, [entry.site], mine, ROWS, 1 << 30, 0, shard=shard)
        rows = sampled_rows({name: merged(reservoir) for name, reservoir in part.items()})
        with shared_out(codebook_ranks()):
            swap.replace_site(network, entry, rows[entry.site.name])
    share_state(network)
    return time.perf_counter() - begun


def _train(
    network: nn.Module, device: torch.device, options: dict[str, Any]
) -> tuple[float, float]:
    """Median seconds of a training step, and of adding up its gradients alone."""
    model = DistributedDataParallel(network.train())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    share = options["batch"] // world_size()
    x = torch.randn(share, 3, 32, 32, device=device)
    target = torch.arange(share, device=device) % 10
    gradients = torch.zeros(
        sum(p.numel() for p in network.parameters() if p.requires_grad), device=device
    )

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), target).backward()
        optimizer.step()

    return _median(step, options["steps"]), _median(lambda: _add_up(gradients), options["steps"])


def _add_up(gradients: torch.Tensor) -> None:
    dist.all_reduce(gradients)


def _median(work: Callable[[], Any], times: int) -> float:
    durations = []
    for _ in range(times + 2):
        dist.barrier()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - begun)
    return statistics.median(durations[2:])


def computed(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Ratios of what was measured, and steps of more ranks by a model.

    step(n) = step(1) / n + 2 (n - 1) / n * b: work shared out evenly, then a ring that moves the
    gradients at the rate seen between two ranks here, b seconds, with nothing overlapped.
    """
    by_ranks = {entry["ranks"]: entry for entry in measured}
    if 1 not in by_ranks:
        return {}
    one = by_ranks[1]
    ratios = {
        str(n): {
            key: one[f"{key}_seconds"] / entry[f"{key}_seconds"] for key in ("step", "learning")
        }
        for n, entry in by_ranks.items()
    }
    figures: dict[str, Any] = {"speed_up": ratios}
    if 2 in by_ranks:
        wire = by_ranks[2]["all_reduce_seconds"]
        figures["model_of_step_seconds"] = {
            str(n): one["step_seconds"] / n + 2 * (n - 1) / n * wire for n in (2, 4, 8)
        }
        figures["model"] = "even shares and a ring of this machine's own speed: not measured"
    return figures
