"""The exact network at 8 and at 4 bits, without training: what number formats alone give.

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
from halut.training.logging.progress import bar, log
from halut.training.parallel.distributed import (
    device_of,
    everyones,
    is_main,
    on_main,
    rank,
    together,
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
    widths = on_main(lambda: widths_of(context.config)) if entries else []
    if not widths:
        return {}
    import torchao

    known = on_main(lambda: context.folder.read(FILE, {"val_accuracy": dict, "ranges": dict}))
    names = [entry.site.name for entry in entries]
    ranges = known["ranges"] if known else _ranges(context, names)
    with reading(context.folder.path / FILE):
        ranges = {name: (float(ranges[name][0]), float(ranges[name][1])) for name in names}
        for value in (known or {"val_accuracy": {}})["val_accuracy"].values():
            float(value)
    known = known or {"val_accuracy": {}}
    found = {}
    for width in widths:
        name = f"int{width}"
        make = partial(quantized, context.exact, entries, ranges, width)
        accuracy = known["val_accuracy"].get(name)
        if accuracy is None:
            accuracy = split_accuracy(make(), context.data, "val", context.config.trainer)
            log.info("%s: the exact network quantized: validation accuracy %.2f", name, accuracy)
            known = {"ranges": ranges, "val_accuracy": {**known["val_accuracy"], name: accuracy}}
            if is_main():
                context.folder.write(FILE, known)
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
        found[name] = Quantized(figures, make)
    return found


def widths_of(config: TrainConfig, say: bool = True) -> list[int]:
    """The widths of weights that `ptq` asks for; auto without torchao: none, as a line says."""
    asked = config.ptq
    if asked in (NONE, None) or (asked == AUTO and not config.baseline):
        return []
    if asked != AUTO:
        return list(dict.fromkeys(asked))
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
    with bar("ranges", total, settings.enable_progress_bar) as progress:
        mine = together(lambda: input_ranges(context.exact, names, batches, progress))
    every = everyones(mine)
    return {name: wider([seen[name] for seen in every if name in seen]) for name in names}
