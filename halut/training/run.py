"""Stage loop of a run: exact network, plan, stages, baseline, report; every step resumes."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from halut.analysis.sensitivity import Candidate, sensitivity
from halut.bundle import save_bundle, with_plugins
from halut.data import build as build_data
from halut.data.loader import BatchLoader
from halut.data.sampler import OrderedBatches, TrainBatches
from halut.data.uncertainty import chance, near_chance
from halut.errors import HalutError, reason
from halut.io import reading
from halut.models.build import build_from
from halut.ops import status
from halut.replace import schedule
from halut.replace.global_pruning import with_global_pruning
from halut.replace.recalibrate import check_norms
from halut.replace.schedule import Stage
from halut.results.runs import import_runs
from halut.results.store import Store
from halut.sites.plan import Plan
from halut.sites.residual import residual_roles
from halut.training.calibrate import CalibrationBatches, Context
from halut.training.cluster.lock import locked
from halut.training.config.run_config import TrainConfig, plain_values
from halut.training.config.unused_options import check_default_operator, check_effect_on_network
from halut.training.exact_network import load_or_train_exact_network
from halut.training.fine_tuned import tuned_baseline
from halut.training.lightning.fit import split_accuracy
from halut.training.lightning.losses import block_names
from halut.training.logging import run_progress
from halut.training.logging.loggers import make_loggers
from halut.training.logging.metrics import RunLogger
from halut.training.logging.progress import console, log, progress_bar
from halut.training.parallel.distributed import (
    barrier,
    broadcast_from_rank0,
    device_of,
    is_main,
    run_on_all_ranks,
    share_state,
    world_size,
)
from halut.training.planning import make_plan, make_stages, parts_of
from halut.training.pretrained import with_pretrained_preprocessing
from halut.training.ptq_baseline import quantized_baselines, widths_of
from halut.training.report import final_report, plan_table, tested
from halut.training.report_tables import show_report
from halut.training.run_folder import RunFolder, default_path
from halut.training.run_page import write_run_page
from halut.training.stage import check_finite, run_stage
from halut.training.teacher import make_teacher

AfterStage = Callable[[int, float], object]
"""Called with a stage's index and the validation accuracy it ends with; what it raises ends the run
there."""


def run(config: TrainConfig, after_stage: AfterStage = lambda *_: None) -> dict[str, Any]:
    """Train, replace, retrain, report.

    `config` has passed `check`. Raises HalutError, before anything is trained or overwritten, if
    the run cannot be done.
    """
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    if config.trainer.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS' own sums
    torch.use_deterministic_algorithms(config.trainer.deterministic)
    plain = plain_values(config)
    folder = RunFolder(
        Path(broadcast_from_rank0(lambda: str(config.run_dir or default_path(plain))))
    )
    if config.results is not None:
        broadcast_from_rank0(Store(config.results).prepare)
    report = _finished(folder, plain, config.test)  # of a folder that may not be written as well
    if report is None:
        with locked(folder.path):
            report = _finished(folder, plain, config.test) or _unfinished(
                config, plain, folder, after_stage
            )
    if config.results is not None and is_main():
        _store(Store(config.results), folder)
    return report


def _store(store: Store, folder: RunFolder) -> None:
    """Append the run's record, unless the store has it; a warning where that cannot be."""
    try:
        outcome = import_runs(store, [folder.path])
    except (OSError, HalutError) as error:
        problems = [str(reason(error))]
    else:
        problems = outcome.problems
    for problem in problems:
        log.warning(
            "the record of %s is not in %s: %s (`halut results import` tries again)",
            *(folder.path, store.path, problem),
        )
    if not problems:
        log.info("its record is in %s", store.path)


def _finished(folder: RunFolder, plain: dict[str, Any], test: bool) -> dict[str, Any] | None:
    """The report of a run that is finished already, shown again; None if it is not.

    One that left the test split unread is not, where that is to be read.
    """
    broadcast_from_rank0(lambda: folder.check(plain))
    finished = broadcast_from_rank0(lambda: folder.read("report.json", {}))
    if finished is not None and test and not tested(finished):
        return None
    if finished is not None:
        broadcast_from_rank0(folder.begin)
        log.info("%s is finished already", folder.path)
        with reading(folder.path / "report.json"):
            _show(finished)
    return finished


def _unfinished(
    config: TrainConfig, plain: dict[str, Any], folder: RunFolder, after_stage: AfterStage
) -> dict[str, Any]:
    resuming = broadcast_from_rank0(lambda: folder.check(plain))
    broadcast_from_rank0(folder.begin)
    data = build_data_of(config)
    network = build_network_of(config, data)
    plan = make_plan(config, network, data)
    if _trains(config):
        data.check_batch_size("schedule.batch_size", config.stage_batch_size)
        sizes = [
            TrainBatches(data.splits["train"].indices, size, config.seed).batch_size
            for size in (config.data.batch_size, config.stage_batch_size)
        ]
        check_norms(network, torch.zeros(1, *data.input_shape), min(sizes) // world_size())
    check_default_operator(config, plan)
    check_effect_on_network(config, plan, network)
    if config.schedule.order != "by_sensitivity" or config.schedule.stages:
        schedule.assign(plan, [s.sites for s in stages_of(config, plan, network, None)])
    if config.test and not resuming:
        log.info("reading the test samples once, so that a bad file shows now")
        run_on_all_ranks(lambda: data.read_test(config.trainer.limit_test_batches))
    if is_main() and not (resuming and (folder.path / "config.yaml").exists()):
        folder.start(plain)
    broadcast_from_rank0(lambda: _record(folder, data))
    logger = RunLogger(make_loggers(config, plain, folder))
    try:
        return _run(config, plain, folder, data, network, plan, logger, after_stage)
    except Exception as error:
        if is_main():
            folder.fail(error, plain)
        raise
    finally:
        logger.finish()


def _trains(config: TrainConfig) -> bool:
    schedule, untrained = config.schedule, not (config.model.weights or config.model.pretrained)
    stages = schedule.epochs or schedule.final_epochs or schedule.stages
    return bool(stages or (untrained and config.base.epochs))


def data_options(config: TrainConfig) -> dict[str, Any]:
    """The data set's options by name, with the preprocessing of pretrained weights."""
    fields = {name: getattr(config.data, name) for name in config.data.__dataclass_fields__}
    return with_pretrained_preprocessing(fields, config.model)


def build_data_of(config: TrainConfig) -> Any:
    """The data set of a configuration, set up."""
    fields = data_options(config)
    data = build_data(fields.pop("name"), **{**fields, "seed": config.data.seed or config.seed})
    data.prepare_data()
    data.setup()
    return data


def build_network_of(config: TrainConfig, data: Any) -> nn.Module:
    """The exact network for the data set, as yet untrained; seeds every generator before."""
    L.seed_everything(config.seed, verbose=False)
    network = build_from(config.model, data.num_classes, data.input_shape[0])
    if config.trainer.channels_last and len(data.input_shape) == 3:
        network.to(memory_format=torch.channels_last)
    return network


def _record(folder: RunFolder, data: Any) -> None:
    """Keep which samples each split has; HalutError if the run began with others."""
    digests, begun = data.digests(), folder.read("data.json")
    if begun is None:
        files = data.split_files()
        folder.write("data.json", {"digests": digests, **({"files": files} if files else {})})
    elif begun["digests"] != digests:
        raise HalutError(
            f"run_dir={folder.path} was begun with other samples: data.root, or what is in it, has "
            "changed. Give another run_dir, or the same data to resume"
        )


def _warn_near_chance(config: TrainConfig, data: Any, accuracy: float) -> None:
    """Say so if weights that were given do no better than guessing."""
    if not (config.model.weights or config.model.pretrained):
        return
    labels, batches = data.splits["val"].labels, config.trainer.limit_val_batches
    if batches is not None:
        labels = labels[: batches * data.config.eval_batch_size]
    if len(labels) and near_chance(accuracy, labels):
        log.warning(
            "the given weights score %.2f %% on %d validation samples, and guessing %.2f %%: are "
            "they of these classes, in this order, and of images prepared like these?",
            *(accuracy, len(labels), chance(labels)),
        )


def stages_of(
    config: TrainConfig, plan: Plan, network: nn.Module, accuracy_loss: dict[str, float] | None
) -> list[Stage]:
    """The stages of a run; `accuracy_loss` has the points that each site loses alone, for an order
    by sensitivity."""
    names = [entry.site.name for entry in plan]
    blocks = config.schedule.blocks or block_names(network, names)
    context: dict[str, Any] = {"blocks": blocks, "sensitivity": accuracy_loss}
    if config.schedule.order == "inner_first" and not config.schedule.stages:
        example = torch.zeros(1, *plan.model["input_shape"])
        context["residual"] = residual_roles(network, example, names)
    return make_stages(config.schedule, plan, context)


def _run(
    config: TrainConfig,
    plain: dict[str, Any],
    folder: RunFolder,
    data: Any,
    network: nn.Module,
    plan: Plan,
    logger: RunLogger,
    after_stage: AfterStage,
) -> dict[str, Any]:
    begun = time.monotonic()
    lost = dict.fromkeys((entry.site.name for entry in plan.replaced), 0.0)  # to count stages by
    expected = stages_of(config, plan, network, lost)
    run_progress.run.begin(parts_of(config, data, expected, len(widths_of(config, say=False))))
    log.info("kernels: %s on the CPU; CUDA: %s", status.cpu_kernels(), status.cuda_kernels())
    origin = load_or_train_exact_network(network, data, folder, config, plain, logger)
    share_state(network)
    exact = copy.deepcopy(network).eval().requires_grad_(False)
    base_accuracy = split_accuracy(network, data, "val", config.trainer)
    log.info("base (%s): validation accuracy %.2f", origin, base_accuracy)
    _warn_near_chance(config, data, base_accuracy)
    plan = with_global_pruning(plan, exact, config.seed)
    check_finite(network, plan, data)
    teacher = make_teacher(network, data, config.loss)
    context = Context(config, folder, data, plan, exact, teacher, logger)
    stages = stages_of(config, plan, network, _sensitivity(context))
    plan = schedule.assign(plan, [stage.sites for stage in stages])
    plan = with_plugins(plan, config.data.name)
    context = replace(context, plan=plan)
    if is_main():
        plan.save(folder.path / "plan.json")
        console.print(plan_table(plan))
    results, latest = [], base_accuracy
    for index, stage in enumerate(stages):
        results.append(run_stage(context, network, index, stage, latest))
        latest = results[-1]["val_accuracy_after_training"]
        log.info("stage_%02d: accuracy %.2f after training", index, latest)
        after_stage(index, latest)
    baseline = tuned_baseline(context, sum(stage.epochs for stage in stages))
    with run_progress.run.part("ptq"):
        at_bits = quantized_baselines(context)
    with run_progress.run.part("test"):
        report = final_report(context, network, results, baseline, at_bits, origin, base_accuracy)
    report["seconds"] = time.monotonic() - begun
    if is_main():
        try:
            save_bundle(folder.path / "bundle", network, plan, report)
            logger.log_bundle(folder.path / "bundle", report)
            folder.write("report.json", report)
            write_run_page(context, network)
            folder.next_action("nothing: finished")
        finally:
            _show(report)  # also where the disk is full
        log.info("everything is in %s", folder.path)
    barrier()
    return report


def _show(report: dict[str, Any]) -> None:
    if is_main():
        show_report(report)


def _sensitivity(context: Context) -> dict[str, float] | None:
    """Accuracy lost per site, measured once per run, where the schedule asks for it."""
    settings = context.config.schedule
    if settings.order != "by_sensitivity" or settings.stages:
        return None
    fields = dict.fromkeys((e.site.name for e in context.plan.replaced), (int, float))
    folder = context.folder
    return broadcast_from_rank0(
        lambda: folder.read("sensitivity.json", fields) or _measured(context)
    )


def _measured(context: Context) -> dict[str, float]:
    config, part = context.config, context.data.splits["val"]
    indices = part.indices[:: max(1, len(part) // config.schedule.sensitivity_samples)]
    size = context.data.config.eval_batch_size
    lost: dict[str, float] = {}
    with progress_bar(
        "sensitivity", len(context.plan.replaced), config.trainer.enable_progress_bar
    ) as progress:
        for each in sensitivity(
            context.exact.to(device_of(config.trainer.accelerator)),
            [Candidate(entry) for entry in context.plan.replaced],
            CalibrationBatches(context.data, config.capture.samples, config.seed),
            BatchLoader(part, OrderedBatches(indices, size, shard=(0, 1))),
            scores=("measured",),
            rows=config.capture.rows,
            memory=int(config.capture.memory_gib * 2**30),
            seed=config.seed,
        ):
            if each.reason is not None:
                raise HalutError(each.reason)
            lost[each.candidate.site.name] = each.figures["lost"]
            progress(1)
    context.folder.write("sensitivity.json", lost)
    return lost
