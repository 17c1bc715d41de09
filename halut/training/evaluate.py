"""Evaluation of a bundle: `python evaluate.py run=PATH` and `halut evaluate run=PATH`."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from halut.analysis.bit_operations import bit_figures
from halut.analysis.latency import latency
from halut.analysis.layer_errors import layer_errors
from halut.analysis.memory import memory_figures, prepared_figures
from halut.analysis.network_cost import exact_cost, replaced_cost
from halut.analysis.runtime import check_difference, compare, ways
from halut.bundle import exact_network, load_bundle
from halut.data.loader import BatchLoader
from halut.data.sampler import OrderedBatches
from halut.data.splits import balanced_subset
from halut.errors import SIGPIPE_CODE, HalutError, flush, report_error, silence
from halut.inference import prepare
from halut.io import write_json
from halut.option import without_effect
from halut.sites.plan import Plan
from halut.training.bundle_data import check_fits, data_of, recorded_root
from halut.training.config.command import command
from halut.training.config.evaluate_config import EvaluateConfig, check, register
from halut.training.config.unused_options import refuse, typed
from halut.training.evaluate_show import show
from halut.training.lightning.fit import split_accuracy, split_samples
from halut.training.logging.progress import log, progress_bar, set_up_logging
from halut.training.parallel.distributed import print_error
from halut.training.report import environment

SCHEMA = 1
WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn")
"""Flags of Hydra's that a word follows."""

register()


def with_run(arguments: list[str]) -> list[str]:
    """The command line with run= before a path, and the path in quotes where Hydra needs them."""
    arguments_out: list[str] = []
    for argument in arguments:
        path = argument.removeprefix("run=")
        plain = argument == path
        is_path = os.path.exists(path) if "=" in path or not plain else path[:1] not in "-+~"
        before = arguments_out[-1] if arguments_out else ""
        if (plain and not is_path) or before in ("--help", "-h", *WITH_VALUE) or not path:
            arguments_out.append(argument)
        elif is_path:
            quoted = path.replace("\\", "\\\\").replace("'", "\\'")
            arguments_out.append(f"run='{quoted}'")
        else:
            arguments_out.append(argument)
    if len(runs := [each for each in arguments_out if each.startswith("run='")]) > 1:
        print_error(f"one run at a time is evaluated, got {len(runs)}: {', '.join(runs)}")
        sys.exit(2)
    return arguments_out


@command("evaluate", EvaluateConfig, with_run)
def main(config: DictConfig) -> None:
    """One evaluation; exits with 1 and one message if it cannot be done."""
    try:
        set_up_logging()
        settings = _typed(config)
        check(settings)
        refuse(typed(), without_effect(settings, [k for k in typed() if k.split(".")[0] != "data"]))
        data_options = cast(dict[str, Any], OmegaConf.to_container(config.data, resolve=True))
        figures, plan = evaluate_bundle(settings, data_options, _given())
        show(figures, plan)
        if settings.json is not None:
            _write(Path(settings.json), figures)
        if figures["runtime"] is not None:
            check_difference(figures["runtime"], settings.runtime.tolerance)
        flush()
    except BrokenPipeError:
        silence()
        sys.exit(SIGPIPE_CODE)
    except Exception as error:
        report_error(error, print_error, config.debug.traceback)
        sys.exit(1)
    except KeyboardInterrupt:
        print_error("interrupted")
        sys.exit(130)


def _typed(config: DictConfig) -> EvaluateConfig:
    try:
        return cast(EvaluateConfig, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise HalutError(str(error)) from error


def _given() -> list[str]:
    """Fields of the data group that the command line names."""
    return [key.removeprefix("data.") for key in typed() if key.startswith("data.")]


def evaluate_bundle(
    config: EvaluateConfig, data_options: Mapping[str, Any], keys: Collection[str] = ()
) -> tuple[dict[str, Any], Plan]:
    """The figures of config.run, and its plan; nothing in its folder is changed.

    `data_options` are fields of the data set, of which those in `keys` win over the bundle's own;
    see halut.training.bundle_data. Raises HalutError if the bundle or the data cannot be read.
    """
    check(config)
    assert config.run is not None
    path = Path(config.run)
    if not path.is_dir():
        raise HalutError(f"run={path}: no such folder")
    if config.json is not None and Path(config.json).is_dir():
        raise HalutError(f"json={config.json} is a folder; give a file")
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    network, plan, report = load_bundle(path, config.plugins)
    name = (report.get("data") or {}).get("name")
    if data_options.get("root") is None and data_options.get("name") in (None, name):
        data_options = {**data_options, "root": recorded_root(path, name)}
    data = data_of(report, data_options, keys, config, plan)
    check_fits(data, plan)
    if config.trainer.channels_last:
        _channels_last(network)
    recorded = (report.get("final") or {}).get(f"{config.split}_accuracy")
    figures: dict[str, Any] = {
        "schema": SCHEMA,
        "run": str(path),
        "data": data.config.name,
        "split": config.split,
        "accuracy": split_accuracy(network, data, config.split, config.trainer),
        "recorded": {
            "samples": ((report.get("data") or {}).get("evaluated") or {}).get(config.split),
            "accuracy": recorded,
            "base": (report.get("base") or {}).get(f"{config.split}_accuracy"),
            "baseline": (report.get("baseline") or {}).get(f"{config.split}_accuracy"),
            **{
                name: entry.get(f"{config.split}_accuracy")
                for name, entry in (report.get("ptq") or {}).items()
            },
        },
        "samples": split_samples(data, config.split, config.trainer),
        "layers": _layers(network, plan, data, config),
        "cost": {
            "exact": exact_cost(plan, exact_network(plan)),
            "replaced": replaced_cost(plan, network),
            "bits": bit_figures(plan, network),
        },
        "memory": memory_figures(network),
        **_prepared(network, plan, config),
        "runtime": _runtime(network, plan, config),
        "plan": plan.to_dict(),
        "environment": environment(),
    }
    return figures, plan


def _channels_last(network: nn.Module) -> None:
    """As in training; the exact convolutions only, since tables have four dimensions too."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)


def _prepared(network: nn.Module, plan: Plan, config: EvaluateConfig) -> dict[str, Any]:
    """latency: the prepared network's beside the exact one's; and prepared_figures.

    None where they are not asked for, or the network has no such form. The exact network's weights
    are random: its time does not depend on them.
    """
    figures: dict[str, Any] = {
        "latency": None,
        "prepared_bytes": None,
        "prepared_layout_bytes": None,
    }
    if not config.latency:
        return figures
    exact = exact_network(plan)
    x = torch.randn(config.latency, *plan.model["input_shape"])
    if config.trainer.channels_last:
        _channels_last(exact)
        x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    try:
        prepared = prepare(network.cpu(), x)
    except HalutError as error:
        log.warning("no latency: %s", error)
        return figures
    times = latency({"exact": exact, "prepared": prepared}, x)
    return {"latency": times, **prepared_figures(prepared)}


def _runtime(network: nn.Module, plan: Plan, config: EvaluateConfig) -> dict[str, Any] | None:
    """First-call and warm times of the ways that are asked for, and how far their answers lie."""
    runtime = config.runtime
    if runtime.mode == "none":
        return None
    selected_ways = ways(runtime.mode, runtime.attention)
    shape = list(plan.model["input_shape"])
    latencies = compare(
        network, selected_ways, shape, runtime.batch, runtime.inputs, runtime.rounds
    )
    return {**latencies, "tolerance": runtime.tolerance}


def _layers(
    network: nn.Module, plan: Plan, data: Any, config: EvaluateConfig
) -> list[dict[str, Any]]:
    """Name, operator and errors of every replaced layer, in the plan's order."""
    errors: dict[str, dict[str, float]] = {}
    if config.samples:
        part = data.splits[config.split]
        indices = part.indices[balanced_subset(part.labels, config.samples, seed=0)]
        batches = OrderedBatches(indices, data.config.eval_batch_size, shard=(0, 1))
        with progress_bar(
            "errors of the layers", len(batches), config.trainer.enable_progress_bar
        ) as progress:
            errors = layer_errors(network, BatchLoader(part, batches), progress)
    return [
        {"name": e.site.name, "operator": e.operator, **errors.get(e.site.name, {})}
        for e in plan.replaced
    ]


def _write(path: Path, figures: Mapping[str, Any]) -> None:
    try:
        write_json(path, figures)
    except OSError as error:
        raise HalutError(f"json={path} cannot be written: {error.strerror}") from error
    log.info("figures in %s", path)


if __name__ == "__main__":
    main()
