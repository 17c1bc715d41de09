"""Stores and run folders that no network was trained for, with figures that follow a rule."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from halut.results.record import Record
from halut.results.store import Store

NETWORK = {"model": "resnet8", "options": {"width": 16}, "weights": "0123abcd"}
DATA = {"name": "fashion_mnist", "split": "val", "samples": 1000, "digest": "d1"}
EXACT = 92.0
HOSTILE = "</script><img src=x onerror=\"document.title='taken'\">"
"""A site's name that is text on the page and nothing else."""


def sensitivity(
    site: str, operator: str, seed: int = 0, lost: float = 1.0, **options: Any
) -> Record:
    """A record of one site replaced alone."""
    figures = {"accuracy": EXACT - lost, "exact_accuracy": EXACT, "lost": lost}
    figures |= {"normalized_mse": lost / 10, "code_perplexity": 8.0, "bytes": 1000.0}
    return Record(
        "sensitivity",
        NETWORK,
        DATA,
        figures,
        site=site,
        operator=operator,
        options=options,
        seed=seed,
        calibration=512,
        score="measured",
        detail={"shape": {"kind": "conv2d", "rows": 49, "D": 144, "M": 16, "groups": 1}},
        context={"command": f"halut sensitivity --seed {seed}", "time": "2026-01-01T00:00:00Z"},
    )


def layers(sites: int, seeds: int = 1) -> Iterator[Record]:
    """Records of `sites` sites, ten options each, for every seed: losses drawn by a fixed seed."""
    draw = random.Random(0)
    for site in range(sites):
        for operator in ("tree", "pq"):
            for C in (8, 16, 32, 48, 64):
                for seed in range(seeds):
                    lost = draw.random() * (1 + site % 7) * 16 / C
                    yield sensitivity(f"block{site}.conv", operator, seed, lost, C=C, K=16, bits=8)


def convergence(site: str = "block0.conv") -> Iterator[Record]:
    """Accuracy over 16 to 1,024 samples, three draws."""
    for samples in (16, 64, 256, 1024):
        for seed in range(3):
            accuracy = EXACT - 40 / samples**0.5 + seed / 10
            yield Record(
                "convergence",
                NETWORK,
                DATA,
                {"accuracy": accuracy, "lost": EXACT - accuracy},
                site=site,
                operator="tree",
                options={"C": 16, "K": 16},
                seed=seed,
                calibration=samples,
            )


def network(C: int, seed: int, test: float) -> Record:
    """A record of a whole network with tables of C codebooks."""
    figures = {"test_accuracy": test, "val_accuracy": test + 1, "exact_accuracy": EXACT}
    figures |= {"int8_accuracy": EXACT - 0.1, "bytes": 1000.0 * C, "operations": 5000.0 * C}
    return Record(
        "run",
        NETWORK,
        {**DATA, "split": "test"},
        figures,
        seed=seed,
        settings={"halut.C": C, "halut.name": "tree"},
        context={"command": f"python train.py halut.C={C} seed={seed}"},
    )


def networks() -> Iterator[Record]:
    """Three sizes, three seeds each."""
    for C, accuracy in ((8, 85.0), (16, 89.0), (32, 91.0)):
        for seed in range(3):
            yield network(C, seed, accuracy + seed)


def store(path: Path, *records: Record) -> Path:
    """A store of these records; one that is there gets them as well."""
    path.mkdir(parents=True, exist_ok=True)
    writer = Store(path)
    lines = [record.line() + "\n" for record in records[1:]]
    if records:
        writer.append(records[0])
        next(path.glob("*.jsonl")).open("a").writelines(lines)  # one flush for all of them
    return path


def run(path: Path, seed: int = 0, test: float = 90.0, site: str = "conv2") -> Path:
    """A finished run of two sites, one kept; weights of a tree and of prototypes."""
    path.mkdir(parents=True)
    options = {"C": 4, "V": None, "K": 4, "bits": 8, "clip": "none", "learn_rows": 1000 + seed}
    geometry = {"kernel": [3, 3], "stride": [1, 1], "padding": [1, 1, 1, 1], "dilation": [1, 1]}
    common = {"kind": "conv2d", "D": 36, "M": 8, "groups": 1, "bias": False, "rows": 49}
    entries = [
        {
            "site": {"name": name, **common, "geometry": geometry},
            "operator": operator,
            "options": options if operator != "keep" else {},
            "stage": 0 if operator != "keep" else None,
            "reason": "first layer (policy.keep_first)" if operator == "keep" else "",
            "shares": None,
        }
        for name, operator in (("conv1", "keep"), (site, "tree"))
    ]
    model = {"name": "tiny", "source": "local", "options": {}, "num_classes": 3, "in_channels": 1}
    write(path / "plan.json", {"version": 1, "model": model, "entries": entries, "unsupported": {}})
    config = {"seed": seed, "run_dir": str(path), "halut": {"name": "tree", **options}}
    config |= {"model": {"name": "tiny"}, "data": {"name": "digits"}}
    write(path / "config.json", config)
    write(path / "state.json", {"next": "nothing: finished"})
    write(path / "report.json", _report(seed, test, site, options, model))
    lines = ["step,stage,key,value"]
    for stage, first in (("base", 0), ("stage_00", 40)):
        for step in range(first, first + 40):
            lines.append(f"{step},{stage},train/loss,{2 - step / 80}")
    lines += [f"79,stage_00,val/accuracy,{test}", f"79,stage_00,layers/{site}/clipping_rate,0.25"]
    (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    counts = [[10, 20, 30, 4], [64, 0, 0, 0], [16, 16, 16, 16], [1, 1, 1, 61]]
    errors = {"counts": [1, 5, 20, 5, 1], "low": -3.0, "high": 3.0, "outside": 0}
    detail = {"codes": {"counts": counts, "rows": 64, "codebooks": 4}, "errors": errors}
    confusion = {"counts": [[30, 1, 0], [2, 28, 1], [0, 0, 31]], "classes": ["a", "b", "c"]}
    write(path / "inspection.json", {"sites": {site: detail}, "confusion": confusion, "worst": []})
    (path / "bundle").mkdir()
    draw = np.random.default_rng(0)
    tensors = {
        f"{site}.encoder.thresholds": draw.normal(size=(4, 3)).astype(np.float32),
        f"{site}.encoder.split_dims": np.array([[0, 8], [9, 10], [20, 26], [27, 35]]),
        f"{site}.encoder.prototypes": draw.normal(size=(4, 4, 9)).astype(np.float32),
    }
    save_file(tensors, path / "bundle" / "model.safetensors")
    return path


def _report(
    seed: int, test: float, site: str, options: dict[str, Any], model: dict[str, Any]
) -> dict[str, Any]:
    stage = {"sites": [site], "val_accuracy_before": 95.0, "val_accuracy_after_swap": 70.0}
    return {
        "base": {"val_accuracy": 95.0, "test_accuracy": 94.0},
        "baseline": {"val_accuracy": 95.5, "test_accuracy": 94.5},
        "ptq": {},
        "stages": [{**stage, "val_accuracy_after_training": test, "epochs": 1, "steps": 40}],
        "final": {"val_accuracy": test, "test_accuracy": test},
        "sites": [
            {
                "name": site,
                "operator": "tree",
                "options": options,
                "normalized_mse": 0.125,
                "code_perplexity": 3.5,
                "dead_prototypes": 3.0,
                "bytes": 400,
                "exact_bytes": 1152,
                "int8_bytes": 288,
            }
        ],
        "cost": {
            "exact": {"macs": 100000},
            "replaced": {"macs": 1000, "encode_compares": 500, "lookups": 900, "adds": 900},
            "bits": {"weight_bits": 12.0, "activation_bits": 32.0, "bops": 1000000},
        },
        "memory": {"before": {"total": 20000}, "after": {"total": 9000}},
        "model": model,
        "data": {"name": "digits", "classes": ["a", "b", "c"]},
        "seed": seed,
        "command": f"python train.py data=digits seed={seed}",
        "seconds": 12.5,
    }


def write(path: Path, content: Any) -> None:
    """A JSON file."""
    path.write_text(json.dumps(content))
