"""report.json and the terminal table of the plan."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from rich.table import Table
from torch import nn

from halut import __version__
from halut.analysis.bit_operations import bit_figures
from halut.analysis.energy import load_energies
from halut.analysis.memory import memory_figures, site_bytes
from halut.analysis.network_cost import exact_cost, layer_costs, macs_outside, replaced_cost
from halut.analysis.plan_cost import EXACT, PLAN, plan_cost
from halut.analysis.site_bytes import (
    SiteBytes,
    bytes_of_site,
    bytes_words,
    plan_bytes,
    warning_lines,
)
from halut.models.build import pretrained_info
from halut.ops import status
from halut.plugins import loading
from halut.replace.operator_registry import make_operator
from halut.sites.plan import Entry, Plan
from halut.training.bundle_data import settings_of
from halut.training.calibrate import Context
from halut.training.config.command import command_line
from halut.training.lightning.callbacks import layer_figures
from halut.training.lightning.fit import split_accuracy, split_samples
from halut.training.logging.git import git_revision
from halut.training.parallel.distributed import world_size
from halut.training.ptq_baseline import Quantized

SCHEMA = 1


def final_report(
    context: Context,
    network: nn.Module,
    stages: list[dict[str, Any]],
    baseline: nn.Module | None,
    at_bits: dict[str, Quantized],
    origin: str,
    base_accuracy: float,
) -> dict[str, Any]:
    """The report; the only place where the test split is read. Accuracies in percent, those on the
    test split None if the configuration leaves it unread."""
    config, data = context.config, context.data
    memory = memory_figures(network)

    def test(model: nn.Module) -> float | None:
        return split_accuracy(model, data, "test", config.trainer) if config.test else None

    return {
        "schema": SCHEMA,
        "base": {
            "origin": origin,
            "val_accuracy": base_accuracy,
            "test_accuracy": test(context.exact),
        },
        "baseline": {
            "epochs": sum(stage["epochs"] for stage in stages) if baseline is not None else 0,
            "val_accuracy": _validation(baseline, context),
            "test_accuracy": test(baseline) if baseline is not None else None,
        },
        "ptq": {
            name: {
                **each.figures,
                **site_bytes(memory),
                "test_accuracy": test(each.make()),
            }
            for name, each in at_bits.items()
        },
        "stages": [{k: v for k, v in s.items() if k != "digests"} for s in stages],
        "final": {
            "val_accuracy": stages[-1]["val_accuracy_after_training"],
            "test_accuracy": test(network),
        },
        "sites": site_figures(context, network),
        "cost": {
            "exact": exact_cost(context.plan, context.exact),
            "replaced": replaced_cost(context.plan, network),
            "bits": bit_figures(context.plan, network),
            **variant_figures(context, network, at_bits),
        },
        "memory": memory,
        "model": {**context.plan.model, "pretrained": _pretrained(context)},
        "data": {
            "name": config.data.name,
            "samples": {split: len(part) for split, part in data.splits.items()},
            "evaluated": {
                split: split_samples(data, split, config.trainer)
                for split in (("val", "test") if config.test else ("val",))
            },
            "settings": settings_of(data),
            "classes": data.class_names,
            "digests": data.digests(),
        },
        "environment": environment(context),
        "seed": config.seed,
        "command": command_line(),
        "configuration": {"loss": asdict(config.loss), "optim": asdict(config.optim)},
    }


def tested(report: Mapping[str, Any]) -> bool:
    """Whether a report has figures of the test split, as all have of runs with test=true."""
    final = report.get("final")
    return not (isinstance(final, Mapping) and final.get("test_accuracy", 0) is None)


def variant_figures(
    context: Context, network: nn.Module, integers: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """energies: the table's name and source; variants: of the exact network, of it with integers at
    the replaced sites and of the run's own ("plan"), what `halut cost` says of them."""
    energies, exact = load_energies(), context.exact
    example = torch.zeros(1, *context.plan.model["input_shape"])
    costs = plan_cost(
        context.plan,
        exact,
        energies,
        (EXACT, *integers, PLAN),
        macs_outside=macs_outside(context.plan, exact, example),
        replaced=network,
    )
    return {
        "energies": {"name": energies.name, "source": energies.source},
        "variants": {cost.variant: dict(cost.figures) for cost in costs},
    }


def _validation(baseline: nn.Module | None, context: Context) -> float | None:
    if baseline is None:
        return None
    return split_accuracy(baseline, context.data, "val", context.config.trainer)


def _pretrained(context: Context) -> dict[str, Any] | None:
    return pretrained_info(context.exact) if context.config.model.pretrained else None


def site_figures(context: Context, network: nn.Module) -> list[dict[str, Any]]:
    """Name, operator, options, errors, code usage and bytes of every replaced site.

    bytes: of the operator; exact_bytes: of the floats in its place; int8_bytes: of INT8 weights.
    """
    batch = next(iter(context.data.calibration_batches(64, seed=context.config.seed)))[0]
    figures = layer_figures(network, batch.to(next(network.parameters()).device))
    costs = dict(layer_costs(network))
    return [
        {
            "name": entry.site.name,
            "operator": entry.operator,
            "options": entry.options,
            "stage": entry.stage,
            **{
                key: figures.get(entry.site.name, {}).get(key)
                for key in ("normalized_mse", "code_perplexity", "dead_prototypes")
            },
            **_bytes(bytes_of_site(entry.site, costs.get(entry.site.name))),
        }
        for entry in context.plan.replaced
    ]


def _bytes(site: SiteBytes) -> dict[str, int]:
    return {"bytes": site.planned, "exact_bytes": site.exact, "int8_bytes": site.int8}


def environment(context: Context | None = None) -> dict[str, Any]:
    """Versions, commit, device, which kernels run, and the plugins with what they registered."""
    import lightning
    import timm
    import torchvision

    cuda = torch.cuda.is_available()
    return {
        "halut": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
        "timm": timm.__version__,
        "commit": git_revision(),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "cpu_kernels": status.cpu_kernels(),
        "cuda_kernels": status.cuda_kernels(),
        "kernels": status.kernels(),
        "plugins": loading.lines(),
    }


def plan_table(plan: Plan) -> Table:
    """Every site: what it becomes and when, or why it stays exact, and its bytes.

    Sites whose tables exceed their INT8 weights are marked, and the caption says what that means.
    """
    by_site = plan_bytes(plan)
    table = Table(title="plan", title_justify="left", caption_justify="left")
    table.caption = "\n".join(warning_lines(plan, by_site)) or None
    for column in (
        "site",
        "kind",
        "rows x D x M",
        "operator",
        "options, or why it stays",
        "bytes",
        "stage",
    ):
        table.add_column(column, overflow="fold")
    for entry in plan:
        site = entry.site
        what = _options(entry) if entry.replaced else entry.reason
        stage = "" if entry.stage is None else f"{entry.stage:02d}"
        shape = f"{site.rows} x {site.D} x {site.M}"
        sizes = bytes_words(by_site[site.name], entry.replaced)
        table.add_row(site.name, site.describe(), shape, entry.operator, what, sizes, stage)
    for name, reason in plan.unsupported.items():
        table.add_row(name, "", "", "keep", reason, "", "")
    return table


def _options(entry: Entry) -> str:
    """What the operator shows of its options."""
    summary = make_operator(entry.operator, **entry.options).summary(entry.site)
    if entry.shares is not None:
        summary["shares"] = entry.shares
    return " ".join(f"{key}={value}" for key, value in summary.items())
