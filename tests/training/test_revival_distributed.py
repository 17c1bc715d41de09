"""Two gloo ranks with batches of their own move the same prototypes to the same inputs."""

from __future__ import annotations

import copy
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import halut


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    x = torch.randn(64, 8)
    config = halut.PQ(V=4, K=4, revive_every=2)
    halut.replace_(net, config, [x], keep=["0"], keep_last=False)
    with torch.no_grad():
        net[2].encoder.prototypes[0, 3] = 50.0
    return net.train()


def rank_main(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    address = f"tcp://localhost:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    net = network()
    model = DistributedDataParallel(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    halut.attach(optimizer, net, steps=4)
    batches = torch.randn(4, 32, 8, generator=torch.Generator().manual_seed(rank))
    states = []
    for batch in batches:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        states.append(copy.deepcopy(net.state_dict()))
    torch.save(states, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_stay_alike(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(rank_main, (tmp_path, port), nprocs=2)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for n, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        parameters = dict(network().named_parameters())
        assert all(torch.equal(one[name], other[name]) for name in parameters), n
        moved = bool((one["2.encoder.prototypes"][0, 3] < 40).all())
        assert moved == (n > 0)
