"""Collectives used during calibration."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from halut.prototypes.codebooks import Ranks
from halut.sites.calibration import Reservoir
from halut.training.parallel.distributed import (
    all_gather_objects,
    comm_device,
    rank,
    run_on_all_ranks,
    world_size,
)


def merged(reservoir: Reservoir) -> Reservoir:
    """The reservoir of the whole stream, on every rank, from those of the ranks' parts of it.

    Keys travel first; of the rows only those that stay.
    """
    if world_size() == 1:
        return reservoir
    keys = [keys[:, 0] for keys in gathered(reservoir.keys[:, None])]
    every = torch.cat(keys)
    bound = every.max()
    if len(every) > reservoir.capacity:
        bound = every.kthvalue(reservoir.capacity).values
    stays = reservoir.keys <= bound
    sample = reservoir.rows if reservoir.rows is not None else torch.empty(0, reservoir.width)
    rows = gathered(sample[: len(stays)][stays])
    whole = Reservoir(reservoir.capacity, reservoir.width, reservoir.seed)
    for theirs, of_rank in zip(keys, rows, strict=True):
        whole.add(of_rank, theirs[theirs <= bound])
    return whole


def gathered(mine: Tensor) -> list[Tensor]:
    """Every rank's tensor [n, width] of that rank's own n, on the CPU."""
    device = comm_device()
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(mine)], device=device))
    most = max(int(count) for count in counts)
    padded = torch.zeros(most, mine.shape[1], dtype=mine.dtype, device=device)
    padded[: len(mine)] = mine.to(device)
    every = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(every, padded)
    return [part[: int(count)].cpu() for part, count in zip(every, counts, strict=True)]


def codebook_ranks() -> Ranks:
    """The ranks, to share out codebooks over; an error of one is raised on all."""
    return Ranks(rank(), world_size(), lambda learn: all_gather_objects(run_on_all_ranks(learn)))
