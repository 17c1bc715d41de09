"""Calibration of a stage's operators, distributed over the ranks.

Every rank captures from its share of the calibration batches; the reservoirs merge into the one
that a single process would have drawn. Sites that wait for each other are learned by all ranks
together, codebook by codebook; sites that do not, each by one rank.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from halut.layers.lut import LUTLayer
from halut.layers.relearn import can_relearn, relearn
from halut.prototypes.codebooks import shared_out
from halut.replace import swap
from halut.replace.refit import behind, refit
from halut.sites.calibration import Reservoir, expected_memory, reservoirs_of, sampled_rows
from halut.sites.plan import Entry, Plan
from halut.training.config.run_config import TrainConfig
from halut.training.logging.metrics import RunLogger
from halut.training.logging.progress import progress_bar
from halut.training.parallel.distributed import (
    broadcast_from_rank0,
    device_of,
    rank,
    run_on_all_ranks,
    share_state,
    world_size,
)
from halut.training.parallel.gather import codebook_ranks, merged
from halut.training.run_folder import RunFolder


@dataclass
class Context:
    """What every stage of a run works with. `exact` is the base network, frozen."""

    config: TrainConfig
    folder: RunFolder
    data: Any
    plan: Plan
    exact: nn.Module
    teacher: nn.Module | None
    logger: RunLogger


def learn(context: Context, network: nn.Module, entries: Sequence[Entry], calibrate: str) -> None:
    """Swap the entries' sites for operators learned from captured rows; all ranks call it.

    "replaced": site after site on the network as it then stands, its codebooks dealt to the ranks;
    "original": all of them from the exact network's activations, the sites dealt to the ranks;
    "asymmetric": as "replaced", and tables answer what the network did before, whose rows of the
    same places are their targets. Where schedule.refit says so, kept layers behind the first tables
    are fitted to it in their turn.
    """
    device = device_of(context.config.trainer.accelerator)
    network.to(device)
    tables = [entry for entry in entries if entry.has_tables]
    kept = behind(context.plan, tables) if context.config.schedule.refit and tables else []
    before = copy.deepcopy(network) if kept or (calibrate == "asymmetric" and tables) else network
    if calibrate == "original":
        context.exact.to(device)
        for group in _within_memory(entries, context.config):
            rows = captured(context, context.exact, group)
            calibrate_in_parallel(context, network, group, rows)
        _in_turn(context, network, before, kept, calibrate)
        return
    names = {entry.site.name for entry in (*entries, *kept)}
    todo = [entry for entry in context.plan if entry.site.name in names]
    _in_turn(context, network, before, todo, calibrate)


def _in_turn(
    context: Context,
    network: nn.Module,
    before: nn.Module,
    entries: Sequence[Entry],
    calibrate: str,
) -> None:
    """Learn replaced sites and refit kept ones, in turn, on the network as it then stands.

    `before`: the network before any of them, whose answers are the targets.
    """
    for group in _within_memory(entries, context.config):
        fitted = [
            e for e in group if not e.replaced or (calibrate == "asymmetric" and e.has_tables)
        ]
        targets = captured(context, before, fitted) if fitted else {}
        for entry in group:
            name = entry.site.name
            rows = captured(context, network, [entry])[name]  # of the same places: by one seed
            target_rows = targets.pop(name, None)
            if entry.replaced:
                with shared_out(codebook_ranks()):
                    _learn_site(context, network, entry, rows, target_rows)
                continue
            layer, own = network.get_submodule(name), before.get_submodule(name)
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            assert target_rows is not None
            refit(layer, entry.site, rows, target_rows, cast(torch.Tensor, own.weight))


def relearn_encoders(context: Context, network: nn.Module, entries: Sequence[Entry]) -> list[str]:
    """Learn the encoders of replaced sites again; names of those that have another one now.

    One after the other, each from rows that are captured on the network as it then stands, its
    codebooks dealt to the ranks; all ranks call it. Layers that share an encoder learn it together,
    from the rows of the first.
    """
    network.to(device_of(context.config.trainer.accelerator))
    groups: dict[int, list[Entry]] = {}
    for entry in entries:
        layer = network.get_submodule(entry.site.name)
        if can_relearn(layer):
            groups.setdefault(id(layer.encoder), []).append(entry)
    changed: list[str] = []
    for members in groups.values():
        first = members[0]
        rows = captured(context, network, [first])[first.site.name]
        layers = [cast(LUTLayer, network.get_submodule(e.site.name)) for e in members]
        show = context.config.trainer.enable_progress_bar
        total = layers[0].blocks.total
        with (
            progress_bar(f"learn {first.site.name} again", total, show) as progress,
            shared_out(codebook_ranks()),
        ):
            if relearn(layers, rows, seed=context.config.seed, progress=progress):
                changed += [entry.site.name for entry in members]
        for entry in members:
            share_state(network.get_submodule(entry.site.name))
    return broadcast_from_rank0(lambda: changed)


def assign_sites_to_ranks(entries: Sequence[Entry], ranks: int) -> dict[str, int]:
    """The rank that learns each site: the largest first, each to whom has least so far.

    Sites that share an encoder go to one rank. Size: inputs times outputs.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.shares or entry.site.name, []).append(entry)
    sizes = {
        name: sum(e.site.D * (e.site.M + e.site.groups) for e in members)
        for name, members in groups.items()
    }
    load = [0] * ranks
    rank_of_site = {}
    for name in sorted(groups, key=lambda name: -sizes[name]):
        least = load.index(min(load))
        load[least] += sizes[name]
        rank_of_site.update({e.site.name: least for e in groups[name]})
    return rank_of_site


def calibrate_in_parallel(
    context: Context, network: nn.Module, entries: Sequence[Entry], rows: dict[str, torch.Tensor]
) -> None:
    """Every rank learns its own sites; then all have them."""
    owner = assign_sites_to_ranks(entries, world_size())

    def mine() -> None:
        for entry in entries:
            site_rows = rows.pop(entry.site.name)
            if owner[entry.site.name] == rank():
                _learn_site(context, network, entry, site_rows)
            else:
                swap.swap(network, entry, swap.build(network, entry))

    run_on_all_ranks(mine)
    for entry in entries:
        name = entry.site.name
        share_state(network.get_submodule(name), owner[name])


def _within_memory(entries: Sequence[Entry], config: TrainConfig) -> list[list[Entry]]:
    """Neighbors whose full reservoirs fit into memory together: one pass over the data each."""
    bound = config.capture.memory_gib * 2**30
    groups: list[list[Entry]] = []
    used = 0
    for entry in entries:
        size = expected_memory([entry.site], config.capture.rows)
        if not groups or used + size > bound:
            groups.append([])
            used = 0
        groups[-1].append(entry)
        used += size
    return groups


def calibration(context: Context, shard: tuple[int, int]) -> tuple[Iterator[Any], int]:
    """Every n-th calibration batch from the r-th on, shard = (r, n), and about how many."""
    samples, data = context.config.capture.samples, context.data
    batches = data.calibration_batches(samples, seed=context.config.seed, shard=shard)
    return batches, -(-samples // (data.config.eval_batch_size * shard[1]))


class CalibrationBatches:
    """All calibration batches of a data set, as often as they are asked for."""

    def __init__(self, data: Any, samples: int, seed: int) -> None:
        self.data, self.samples, self.seed = data, samples, seed

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data.calibration_batches(self.samples, seed=self.seed))


def captured(
    context: Context, network: nn.Module, entries: Sequence[Entry]
) -> dict[str, torch.Tensor]:
    """Calibration rows of the entries' sites; all ranks take part."""
    settings = context.config.capture
    shard = (rank(), world_size())
    batches, total = calibration(context, shard)
    progress_shown = context.config.trainer.enable_progress_bar
    with progress_bar(f"capture {entries[0].site.name}", total, progress_shown) as progress:

        def fill() -> dict[str, Reservoir]:
            return reservoirs_of(
                network,
                [entry.site for entry in entries],
                batches,
                settings.rows,
                int(settings.memory_gib * 2**30),
                context.config.seed,
                progress,
                shard,
            )

        reservoirs = run_on_all_ranks(fill)
        return sampled_rows({name: merged(reservoir) for name, reservoir in reservoirs.items()})


def _learn_site(
    context: Context,
    network: nn.Module,
    entry: Entry,
    rows: torch.Tensor,
    target_rows: torch.Tensor | None = None,
) -> None:
    stages = 1 + entry.options.get("residual", 0)
    codebooks = (entry.options.get("C") or 1) * stages * entry.site.groups
    with progress_bar(
        f"learn {entry.site.name}", codebooks, context.config.trainer.enable_progress_bar
    ) as progress:
        swap.replace_site(network, entry, rows, context.config.seed, progress, target_rows)
