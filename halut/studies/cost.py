"""The program `halut cost`: operations, bytes and energy of a plan before anything is learned."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch import nn

from halut import bundle
from halut.analysis.energy import DEFAULT, EnergyTable, energy_tables, load_energies
from halut.analysis.network_cost import macs_outside
from halut.analysis.plan_cost import VariantCost, plan_cost, with_latency
from halut.analysis.plan_latency import plan_latency
from halut.analysis.variants import counted
from halut.data import datasets
from halut.errors import HalutError
from halut.io import read_json, write_bytes, write_json
from halut.models.build import build_from
from halut.replace.global_pruning import with_global_pruning
from halut.results.record import Record
from halut.results.store import Store
from halut.sites.plan import Entry, Plan
from halut.studies import cost_tables
from halut.studies.measuring import at_least, check_file, shape_of, writable_store
from halut.studies.subject import compose, context
from halut.training.config.run_config import TrainConfig
from halut.training.config.unused_options import check_default_operator, check_effect_on_network
from halut.training.logging.progress import log, progress_bar, set_up_logging
from halut.training.planning import make_plan
from halut.training.run import build_data_of, data_options

DESCRIPTION = """\
What a network costs for one sample, exact and as its plan replaces it, beside integers of 8 and of
4-bit weights (and 8-bit inputs) at the same sites. Nothing is learned: neither weights nor data are
needed.

  halut cost model=resnet50 policy=conv3x3 halut.C=32
  halut cost model=tiny_vit halut=pq halut.V=8 --energy 7nm --json cost.json
  halut cost model=resnet50 policy=conv3x3 halut.C=32 --latency --threads 2
  halut cost runs/mine                        a run's plan, or a file: runs/mine/plan.json

Energy is that of operations and of reads from on-chip memories, by the table --energy; DRAM, the
energy of reading all weights and tables once from there, is a column of its own. Not counted:
writes, registers, norms and activation functions, addresses, control, leakage. Products that are no
sites count as float32 in every variant."""


@dataclass(frozen=True)
class Planned:
    """An exact network of random weights, the plan for it, and what identifies both in records."""

    network: nn.Module
    plan: Plan
    data: str | None
    settings: dict[str, Any]
    run: str | None = None

    @property
    def macs_outside(self) -> int:
        """See halut.analysis.network_cost.macs_outside."""
        example = torch.zeros(1, *self.plan.model["input_shape"])
        return macs_outside(self.plan, self.network, example)


def parser() -> argparse.ArgumentParser:
    """The options of `halut cost`."""
    parser = argparse.ArgumentParser(
        prog="halut cost",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "subject", nargs="*", help="options as of train.py, or a run folder, or a plan.json"
    )
    parser.add_argument(
        "--shape", type=_shape, help="C,H,W of the input, where the data set does not tell"
    )
    parser.add_argument("--classes", type=at_least(1), help="classes, likewise")
    names = ", ".join(energy_tables())
    parser.add_argument(
        "--energy",
        default=DEFAULT,
        help=f"energies of operations: {names}, or a YAML file like these (default {DEFAULT})",
    )
    parser.add_argument(
        "--reuse",
        type=at_least(1),
        help="rows that a weight serves once it is read (default: all of a sample's)",
    )
    parser.add_argument(
        "--bank",
        type=at_least(1),
        help="bytes of the banks that memories consist of (default: one memory per site)",
    )
    parser.add_argument(
        "--latency",
        action="store_true",
        help="measure here: float32, INT8 and the plan, the networks and every replaced layer",
    )
    parser.add_argument(
        "--batch", type=at_least(1), help="samples of a measured batch, with --latency (default 1)"
    )
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--csv", type=Path, help="write a row for every site and variant")
    parser.add_argument(
        "--results", type=Path, help="append records to this store (folder) of results"
    )
    parser.add_argument("--threads", type=at_least(1), help="threads of torch")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_args(arguments)
    set_up_logging()
    _check(options)
    begun = time.monotonic()
    if options.threads:
        torch.set_num_threads(options.threads)
    energies = load_energies(options.energy)
    planned = planned_of(options.subject, options.shape, options.classes)
    costs = plan_cost(
        planned.plan,
        planned.network,
        energies,
        reuse=options.reuse,
        bank=options.bank,
        macs_outside=planned.macs_outside,
    )
    times = None
    if options.latency:
        with progress_bar("latency", len(planned.plan.replaced)) as progress:
            batch = options.batch or 1
            times = plan_latency(planned.network, planned.plan, batch, progress=progress)
        costs = with_latency(costs, times)
    cost_tables.show(planned.plan, costs, energies, times)
    if options.json is not None:
        write_json(options.json, _content(planned, costs, energies, options, times))
        log.info("figures in %s", options.json)
    if options.csv is not None:
        write_bytes(options.csv, cost_tables.csv_of(costs, times).encode())
        log.info("a row for every site and variant in %s", options.csv)
    if options.results is not None:
        seconds = time.monotonic() - begun
        added = append(Store(options.results), planned, costs, energies, options, seconds, times)
        log.info("%s added to %s", counted(added, "record"), options.results)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raise HalutError for what has no effect and for what could not be written at the end."""
    if options.batch and not options.latency:
        raise HalutError("--batch is that of what is timed: it needs --latency")
    for flag, path in (("--json", options.json), ("--csv", options.csv)):
        if path is not None:
            check_file(path, flag)
    if options.results is not None:
        writable_store(options.results)


def planned_of(
    subject: Sequence[str],
    shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
) -> Planned:
    """The network and the plan that the command line means; nothing is read but their files.

    `subject`: a run folder or a plan.json, alone, or overrides of train.yaml. The input's shape and
    the number of classes are those given, else those that the data set's options decide, else those
    of its files. Raises HalutError where the configuration, the network or the plan do not do.
    """
    paths = [each for each in subject if "=" not in each and Path(each).exists()]
    if paths:
        if len(subject) > 1:
            others = " ".join(each for each in subject if each != paths[0])
            raise HalutError(f"{paths[0]} is a plan, which says all: leave out {others}")
        if shape is not None or classes is not None:
            raise HalutError(
                f"{paths[0]} is a plan, which says all: leave out "
                f"{'--classes' if shape is None else '--shape'}"
            )
        return _of_file(Path(paths[0]))
    config = compose(subject)
    data = _data(config, shape, classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = replace(config.model, pretrained=False, weights=None)
        network = build_from(model, data.num_classes, data.input_shape[0])
        plan = make_plan(config, network, data)
    check_default_operator(config, plan)
    check_effect_on_network(config, plan, network)
    plan = with_global_pruning(plan, network, config.seed)
    return Planned(network, plan, config.data.name, _settings(subject))


def _settings(overrides: Sequence[str]) -> dict[str, Any]:
    """Overrides by their keys, values as YAML reads them; those of Hydra's own language as text."""
    settings: dict[str, Any] = {}
    for each in overrides:
        key, _, text = each.lstrip("+").partition("=")
        try:
            settings[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            settings[key] = text
    return settings


def _of_file(path: Path) -> Planned:
    """The plan of a run folder, a bundle or a plan.json, and the network it names."""
    file = path
    if path.is_dir():
        places = [folder / "plan.json" for folder in (path, path / "bundle")]
        file = next((place for place in places if place.is_file()), path)
        if file is path:
            raise HalutError(f"{path} has no plan.json: it is no run, or has not come that far")
    plan = bundle.plan_of_file(file)
    if not plan.model:
        raise HalutError(f"{file} names no network: give one, model=NAME plan={file}")
    data, run = None, None
    if (path / "config.json").is_file():
        fields = read_json(path / "config.json", {"data": dict})
        data, run = fields["data"].get("name"), str(path)
    return Planned(bundle.exact_network(plan), plan, data, {}, run)


def _data(
    config: TrainConfig, shape: tuple[int, int, int] | None, classes: int | None
) -> SimpleNamespace:
    """input_shape and num_classes, as make_plan asks a data set for them."""
    fields = data_options(config)
    expected = datasets[fields["name"]].Config.of(fields).expected_shape()
    if expected is None and (shape is None or classes is None):
        try:
            data = build_data_of(config)
        except HalutError as error:
            raise HalutError(f"{error}; or give --shape C,H,W and --classes N") from error
        expected = data.input_shape, data.num_classes
    known_shape, known_classes = expected or ((0, 0, 0), 0)
    return SimpleNamespace(input_shape=shape or known_shape, num_classes=classes or known_classes)


def append(
    store: Store,
    planned: Planned,
    costs: Sequence[VariantCost],
    energies: EnergyTable,
    options: argparse.Namespace,
    seconds: float | None = None,
    times: Mapping[str, Any] | None = None,
) -> int:
    """Append a record for every network and site to the store, less those that it has with the same
    figures: not what was timed anew, nor what another version counted otherwise.

    Returns how many were added.
    """
    store.prepare()
    known = {record.key: record.figures for record in store.read().records}
    fresh = []
    for record in records(planned, costs, energies, options, seconds, times):
        if times is not None or not record.figures.items() <= known.get(record.key, {}).items():
            fresh.append(record)
    for record in fresh:
        store.append(record)
    return len(fresh)


def records(
    planned: Planned,
    costs: Sequence[VariantCost],
    energies: EnergyTable,
    options: argparse.Namespace,
    seconds: float | None = None,
    times: Mapping[str, Any] | None = None,
) -> list[Record]:
    """Records of kind "cost": one of each variant for the network, and one for each site; their
    detail says what was timed, or why nothing was."""

    def note(variant: str, entry: Entry | None = None) -> dict[str, Any]:
        if times is None:
            return {}
        return {"latency_of": cost_tables.latency_note(times, variant, entry)}

    model = planned.plan.model
    network = {"model": model.get("name"), "options": model.get("options", {}), "weights": None}
    data = {
        "name": planned.data,
        "split": None,
        "samples": 0,
        "digest": None,
        "input_shape": model.get("input_shape"),
    }
    origin = context(seconds, planned.run)
    made = []
    for cost in costs:
        settings = {
            **planned.settings,
            "variant": cost.variant,
            "plan": planned.plan.digest,
            "energies": _named(energies),
            "reuse": options.reuse,
            "bank": options.bank,
        }
        whole = Record(
            "cost",
            network,
            data,
            cost.figures,
            settings=settings,
            detail=note(cost.variant),
            context=origin,
        )
        made.append(whole)
        for site in cost.sites:
            entry = site.entry
            made.append(
                replace(
                    whole,
                    figures=site.figures,
                    site=entry.site.name,
                    operator=entry.operator,
                    options=entry.options,
                    detail={
                        "shape": shape_of(entry.site),
                        "stage": None,
                        **note(cost.variant, entry),
                    },
                )
            )
    return made


def _named(energies: EnergyTable) -> str:
    """The table's name; of one that is not halut's own with a digest of what it says."""
    if energies.name in energy_tables() and energies == load_energies(energies.name):
        return energies.name
    content = json.dumps(vars(energies), sort_keys=True, default=dict).encode()
    return f"{energies.name}-{hashlib.sha256(content).hexdigest()[:8]}"


def _content(
    planned: Planned,
    costs: Sequence[VariantCost],
    energies: EnergyTable,
    options: argparse.Namespace,
    times: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What --json holds."""
    return {
        "schema": 1,
        "model": planned.plan.model,
        "settings": {**planned.settings, "reuse": options.reuse, "bank": options.bank},
        "energies": vars(energies),
        "variants": [cost_tables.content_of(cost) for cost in costs],
        "latency": times,
        "unsupported": planned.plan.unsupported,
        "context": context(),
    }


def _shape(text: str) -> tuple[int, int, int]:
    sizes = text.replace("x", ",").split(",")
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
        raise argparse.ArgumentTypeError(f"three numbers C,H,W are wanted, got {text!r}")
    channels, height, width = map(int, sizes)
    return channels, height, width
