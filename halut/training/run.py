"""The life of a run: base, plan, stages, baseline, report. Every step can be resumed."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from data import build as build_data
from data.loader import BatchLoader
from data.sampler import OrderedBatches
from halut import schedule
from halut.analysis.sensitivity import accuracy, sensitivity
from halut.bundle import save_bundle
from halut.global_pruning import with_global_pruning
from halut.models.build import build_from
from halut.ops import status
from halut.plan import Plan
from halut.schedule import Stage
from halut.training import whole_run
from halut.training.base import obtain_base
from halut.training.baseline import tuned_baseline
from halut.training.config import TrainConfig
from halut.training.distributed import barrier, device_of, is_main, on_main, share_state
from halut.training.effect import check_default_operator
from halut.training.fit import evaluate
from halut.training.learning import Context, captured
from halut.training.losses import block_names
from halut.training.metrics import RunLogger
from halut.training.planning import make_plan, make_stages
from halut.training.pretrained import completed
from halut.training.progress import bar, console, log
from halut.training.ptq import quantised_baselines, widths_of
from halut.training.report import final_report, plan_table, report_table
from halut.training.run_folder import RunFolder, default_path
from halut.training.sinks import make_sinks
from halut.training.stage import check_finite, run_stage
from halut.training.teacher import make_teacher
from halut.training.whole_run import parts_of


def run(config: TrainConfig, plain: dict[str, Any], yaml: str) -> dict[str, Any]:
    """Train, replace, retrain, report. `plain` and `yaml` are the configuration as written down.

    `config` has passed `check`. Raises HalutError, before anything is trained or overwritten, if
    the run cannot be done.
    """
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    folder = RunFolder(Path(on_main(lambda: str(config.run_dir or default_path(plain)))))
    resuming = on_main(lambda: folder.check(plain))
    on_main(folder.begin)
    finished = on_main(lambda: folder.read("report.json"))
    if finished is not None:
        log.info("%s is finished already", folder.path)
        _show(finished)
        return dict(finished)
    data = _data(config)
    L.seed_everything(config.seed, verbose=False)
    network = build_from(config.model, data.num_classes, data.input_shape[0])
    if config.trainer.channels_last and len(data.input_shape) == 3:
        network.to(memory_format=torch.channels_last)
    options = {k: v for k, v in plain["halut"].items() if k != "name"}
    plan = make_plan(config, options, network, data)
    check_default_operator(config, plan)
    if config.schedule.order != "by_sensitivity" or config.schedule.stages:
        schedule.assign(plan, [s.sites for s in _stages(config, plan, network, None)])
    if is_main() and not resuming:
        folder.start(plain, yaml)
    barrier()
    logger = RunLogger(make_sinks(config, plain, folder))
    try:
        return _run(config, plain, folder, data, network, plan, logger)
    except Exception as error:
        if is_main():
            folder.fail(error, plain)
        raise
    finally:
        logger.finish()


def _data(config: TrainConfig) -> Any:
    fields = {name: getattr(config.data, name) for name in config.data.__dataclass_fields__}
    fields = completed(fields, config.model)
    data = build_data(fields.pop("name"), **{**fields, "seed": config.data.seed or config.seed})
    data.prepare_data()
    data.setup()
    return data


def _stages(
    config: TrainConfig, plan: Plan, network: nn.Module, lost: dict[str, float] | None
) -> list[Stage]:
    names = [entry.site.name for entry in plan]
    blocks = config.schedule.blocks or block_names(network, names)
    return make_stages(config.schedule, plan, {"blocks": blocks, "sensitivity": lost})


def _run(
    config: TrainConfig,
    plain: dict[str, Any],
    folder: RunFolder,
    data: Any,
    network: nn.Module,
    plan: Plan,
    logger: RunLogger,
) -> dict[str, Any]:
    begun = time.monotonic()
    lost = dict.fromkeys((entry.site.name for entry in plan.replaced), 0.0)  # to count stages by
    expected = _stages(config, plan, network, lost)
    whole_run.run.begin(parts_of(config, data, expected, len(widths_of(config, say=False))))
    log.info("kernels: %s on the CPU; CUDA: %s", status.cpu_kernels(), status.cuda_kernels())
    origin = obtain_base(network, data, folder, config, plain, logger)
    share_state(network)
    exact = copy.deepcopy(network).eval().requires_grad_(False)
    base_accuracy = evaluate(network, data, "val", config.trainer)
    log.info("base (%s): validation accuracy %.2f", origin, base_accuracy)
    plan = with_global_pruning(plan, exact, config.seed)
    check_finite(network, plan, data)
    teacher = make_teacher(network, data, config.loss)
    context = Context(config, folder, data, plan, exact, teacher, logger)
    stages = _stages(config, plan, network, _sensitivity(context))
    plan = schedule.assign(plan, [stage.sites for stage in stages])
    context = replace(context, plan=plan)
    if is_main():
        plan.save(folder.path / "plan.json")
        console.print(plan_table(plan))
    results, latest = [], base_accuracy
    for index, stage in enumerate(stages):
        results.append(run_stage(context, network, index, stage, latest))
        latest = results[-1]["val_accuracy_after_training"]
        log.info("stage_%02d: accuracy %.2f after training", index, latest)
    baseline = tuned_baseline(context, sum(stage.epochs for stage in stages))
    with whole_run.run.part("ptq"):
        at_bits = quantised_baselines(context)
    with whole_run.run.part("test"):
        report = final_report(context, network, results, baseline, at_bits, origin, base_accuracy)
    report["seconds"] = time.monotonic() - begun
    if is_main():
        save_bundle(folder.path / "bundle", network, plan, report)
        for sink in logger.sinks:
            if hasattr(sink, "log_bundle"):
                sink.log_bundle(folder.path / "bundle", report)
        folder.write("report.json", report)
        folder.next_action("nothing: finished")
        _show(report)
        log.info("everything is in %s", folder.path)
    barrier()
    return report


def _show(report: dict[str, Any]) -> None:
    if is_main():
        console.print(report_table(report))


def _sensitivity(context: Context) -> dict[str, float] | None:
    """Accuracy lost per site, measured once per run, where the schedule asks for it."""
    settings = context.config.schedule
    if settings.order != "by_sensitivity" or settings.stages:
        return None
    return on_main(lambda: context.folder.read("sensitivity.json") or _measured(context))


def _measured(context: Context) -> dict[str, float]:
    config, part = context.config, context.data.splits["val"]
    chosen = part.indices[:: max(1, len(part) // config.schedule.sensitivity_samples)]
    size = context.data.config.eval_batch_size

    def score(network: nn.Module) -> float:
        return accuracy(network, BatchLoader(part, OrderedBatches(chosen, size, shard=(0, 1))))

    with bar("sensitivity", len(context.plan.replaced), config.trainer.progress) as progress:
        lost = sensitivity(
            context.exact.to(device_of(config.trainer.accelerator)),
            context.plan,
            lambda entry: captured(context, context.exact, [entry], alone=True)[entry.site.name],
            score,
            config.seed,
            progress,
        )
    context.folder.write("sensitivity.json", lost)
    return lost
