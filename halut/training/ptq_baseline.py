"""Post-training quantization baseline: the exact network at 8 and at 4 bits.

baseline/ptq.json holds the ranges of the inputs and the validation accuracies, so that a resumed
run measures neither again; the networks are made from the exact one and the ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from halut.io import reading
from halut.replace.ptq import (
    AUTO,
    INPUT_BITS,
    MISSING,
    NONE,
    Range,
    available,
    input_ranges,
    quantizable,
    quantized,
    quantized_bytes,
    wider,
)
from halut.training.calibrate import Context, calibration
from halut.training.config.run_config import TrainConfig
from halut.training.lightning.fit import split_accuracy
from halut.training.logging.progress import log, progress_bar
from halut.training.parallel.distributed import (
    all_gather_objects,
    broadcast_from_rank0,
    device_of,
    is_main,
    rank,
    run_on_all_ranks,
    world_size,
)

FILE = "baseline/ptq.json"
DEFAULT = (8, 4)


@dataclass(frozen=True)
class Quantized:
    """The exact network at one width: its figures but for test accuracy, and how to make it."""

    figures: dict[str, Any]
    make: Callable[[], nn.Module]


def quantized_baselines(context: Context) -> dict[str, Quantized]:
    """int8, int4, ...: the widths that `ptq` asks for, the plan's replaced sites quantized.

    Batch norms stay as they are. Attention's two products, which have no weight, stay exact.
    """
    replaced = context.plan.replaced
    entries = quantizable(replaced)
    widths = broadcast_from_rank0(lambda: widths_of(context.config)) if entries else []
    if not widths:
        return {}
    import torchao

    recorded = broadcast_from_rank0(
        lambda: context.folder.read(FILE, {"val_accuracy": dict, "ranges": dict})
    )
    names = [entry.site.name for entry in entries]
    ranges = recorded["ranges"] if recorded else _ranges(context, names)
    with reading(context.folder.path / FILE):
        ranges = {name: (float(ranges[name][0]), float(ranges[name][1])) for name in names}
        for value in (recorded or {"val_accuracy": {}})["val_accuracy"].values():
            float(value)
    recorded = recorded or {"val_accuracy": {}}
    results = {}
    for width in widths:
        name = f"int{width}"
        make = partial(quantized, context.exact, entries, ranges, width)
        accuracy = recorded["val_accuracy"].get(name)
        if accuracy is None:
            accuracy = split_accuracy(make(), context.data, "val", context.config.trainer)
            log.info("%s: the exact network quantized: validation accuracy %.2f", name, accuracy)
            recorded = {
                "ranges": ranges,
                "val_accuracy": {**recorded["val_accuracy"], name: accuracy},
            }
            if is_main():
                context.folder.write(FILE, recorded)
        figures = {
            "library": "torchao",
            "version": torchao.__version__,
            "weight_bits": width,
            "activation_bits": INPUT_BITS,
            "sites": len(entries),
            "macs": sum(entry.site.macs for entry in entries),
            "left_exact": [entry.site.name for entry in replaced if entry not in entries],
            "bytes": quantized_bytes((entry.site for entry in entries), width),
            "val_accuracy": accuracy,
        }
        results[name] = Quantized(figures, make)
    return results


def widths_of(config: TrainConfig, say: bool = True) -> list[int]:
    """The widths of weights that `ptq` asks for; auto without torchao: none, as a line says."""
    choice = config.ptq
    if choice in (NONE, None) or (choice == AUTO and not config.baseline):
        return []
    if choice != AUTO:
        return list(dict.fromkeys(choice))
    if not available():
        if say:
            log.info("%s", MISSING)
        return []
    return list(DEFAULT)


def _ranges(context: Context, names: Sequence[str]) -> dict[str, Range]:
    """Each rank sees its share of the calibration samples; the widest range over all of them."""
    settings = context.config.trainer
    batches, total = calibration(context, (rank(), world_size()))
    context.exact.to(device_of(settings.accelerator))
    with progress_bar("ranges", total, settings.enable_progress_bar) as progress:
        mine = run_on_all_ranks(lambda: input_ranges(context.exact, names, batches, progress))
    every = all_gather_objects(mine)
    return {name: wider([ranges[name] for ranges in every if name in ranges]) for name in names}
