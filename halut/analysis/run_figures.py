"""Figures of a run folder: progress, configuration and report."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from halut.analysis.network_cost import operations
from halut.errors import HalutError
from halut.io import read_json, reading
from halut.option import with_new_names

ERROR = "error.json"
"""Why the last attempt at a run failed; removed when another gets under way."""

FINISHED, FAILED, UNFINISHED = "finished", "failed", "unfinished"

FIGURES = {
    "test_accuracy": "test accuracy in %",
    "val_accuracy": "validation accuracy in %",
    "exact_accuracy": "test accuracy of the exact network in %",
    "baseline_accuracy": "test accuracy of the exact network, fine-tuned as long, in %",
    "int8_accuracy": "test accuracy of the exact network in 8 bits, post-training, in %",
    "int4_accuracy": "test accuracy of the exact network in 4-bit weights, post-training, in %",
    "swapped_accuracy": "validation accuracy before retraining in %",
    "lost": "test accuracy lost in points",
    "normalized_mse": "mean normalized squared error of a layer",
    "weight_bits": "bits a weight",
    "activation_bits": "bits an activation",
    "bops": "bit operations",
    "energy": "energy of a sample in joules",
    "operations": "operations: multiply-adds, compares, look-ups with their adds",
    "macs": "multiply-adds",
    "encode_compares": "compares of encoders",
    "encode_macs": "multiply-adds of encoders",
    "lookups": "look-ups and adds",
    "bytes": "bytes of the network",
    "table_bytes": "bytes of tables",
    "weight_bytes": "bytes of weights and tables",
    "seconds": "seconds",
}
"""The figures of a finished run, and what their axis says."""

OURS = "cost.variants.plan."
"""Where reports have what the run's own network costs; earlier ones have it in other places."""
OF_ALL = ("weight_bits", "activation_bits", "bops", "energy", "operations", "macs", "bytes")
"""Figures that are those of all of the network there, what is no site included."""

SECTIONS = ("base", "baseline", "ptq", "final", "cost", "memory")
"""Sections of a report whose numbers are figures as well, by their dotted path."""


@dataclass(frozen=True)
class RunRecord:
    """One run folder. `config` is flat, by dotted key, less its section `sweep`, which says how to
    show it; `figures` is empty unless finished."""

    path: Path
    status: str
    config: dict[str, Any]
    display: dict[str, Any]
    figures: dict[str, float | None]
    subject: str = ""
    error: str | None = None


def run_folders(folder: Path) -> Iterator[Path]:
    """Run folders at and below `folder`, in order of their names; none lies within another.

    What is no run, such as a model with a config.json of its own, is looked into; folders that
    cannot be read, and those seen before by another name, are passed over.
    """
    paths_seen: set[str] = set()

    def below(path: Path) -> Iterator[Path]:
        real = os.path.realpath(path)
        if real in paths_seen:
            return
        paths_seen.add(real)
        if is_run(path):
            yield path
            return
        try:
            inner = sorted(path.iterdir())
        except OSError:
            return
        for each in inner:
            if os.path.isdir(each):
                yield from below(each)

    yield from below(folder)


def is_run(path: Path) -> bool:
    """True if a run was begun in the folder, or refused before that."""

    def has(name: str) -> bool:
        return os.path.isfile(path / name)

    begun = has("config.json") and any(map(has, ("config.yaml", "state.json", "report.json")))
    return begun or has(ERROR)


def read_run(path: Path) -> RunRecord:
    """The record of one run folder; failed, with the file and the reason, if it is damaged."""
    plain: dict[str, Any] = {}
    display: dict[str, Any] = {}
    try:
        failure, config = _read(path / ERROR), _read(path / "config.json")
        config = config or mapping((failure or {}).get("config"))
        display = mapping(config.pop("sweep", None))
        plain = dict(flat(with_new_names(config)))
        if failure is not None:
            message = " ".join(str(failure.get("error", "it is not said why")).split())
            return RunRecord(path, FAILED, plain, display, {}, error=message)
        report = _read(path / "report.json")
        if report is None:
            action = (_read(path / "state.json") or {}).get("next", "not begun")
            return RunRecord(path, UNFINISHED, plain, display, {}, error=f"next: {action}")
        with reading(Path("report.json")):
            figures = figures_of(report)
        if figures["test_accuracy"] is None and "test_accuracy" not in mapping(report.get("final")):
            raise HalutError("report.json: damaged, or of another version: no final.test_accuracy")
    except HalutError as error:
        return RunRecord(path, FAILED, plain, display, {}, error=str(error))
    names = (mapping(report.get(key)).get("name") for key in ("model", "data"))
    subject = " on ".join(str(name) for name in names if name)
    return RunRecord(path, FINISHED, plain, display, figures, subject)


def normalized_mse_of(site: Mapping[str, Any]) -> Any:
    """A layer's error in a report; version 0.1 spelled it normalised_mse."""
    return site.get("normalized_mse", site.get("normalised_mse"))


def figures_of(report: dict[str, Any]) -> dict[str, float | None]:
    """FIGURES of a report, None where it does not tell; and the numbers of its SECTIONS."""
    numbers = {
        key: float(value)
        for key, value in flat({name: report.get(name) for name in SECTIONS})
        if is_number(value)
    }
    sites, stages = mappings(report.get("sites")), mappings(report.get("stages"))
    errors = [e for e in map(normalized_mse_of, sites) if is_number(e)]
    swap_accuracy = stages[-1].get("val_accuracy_after_swap") if stages else None
    exact, test = numbers.get("base.test_accuracy"), numbers.get("final.test_accuracy")
    counts = {k: v for k, v in numbers.items() if k.startswith("cost.replaced.")}
    replaced = {key.rpartition(".")[2]: value for key, value in counts.items()}
    whole = {k.removeprefix(OURS): v for k, v in numbers.items() if k.startswith(OURS)}
    weights = [replaced.get(key) for key in ("weight_bytes", "table_bytes")]
    seconds = report.get("seconds")
    return {
        **numbers,
        "test_accuracy": test,
        "val_accuracy": numbers.get("final.val_accuracy"),
        "exact_accuracy": exact,
        "baseline_accuracy": numbers.get("baseline.test_accuracy"),
        "int8_accuracy": numbers.get("ptq.int8.test_accuracy"),
        "int4_accuracy": numbers.get("ptq.int4.test_accuracy"),
        "swapped_accuracy": float(swap_accuracy) if is_number(swap_accuracy) else None,
        "lost": None if exact is None or test is None else exact - test,
        "normalized_mse": sum(errors) / len(errors) if errors else None,
        **{k: numbers.get(f"cost.bits.{k}") for k in ("weight_bits", "activation_bits", "bops")},
        "operations": operations(replaced) if "lookups" in replaced else None,
        **{k: replaced.get(k) for k in ("macs", "encode_compares", "encode_macs", "lookups")},
        "bytes": numbers.get("memory.after.total"),
        "energy": None,
        **{key: whole[key] for key in OF_ALL if key in whole},
        "table_bytes": replaced.get("table_bytes"),
        "weight_bytes": None if None in weights else sum(w for w in weights if w is not None),
        "seconds": float(seconds) if is_number(seconds) else None,
    }


def check_figure(option: str, name: str, keys: Collection[str] = (), options: str = "") -> None:
    """Raise HalutError unless `name` is a figure, may be a number of a report, or is among `keys`.

    Which numbers a report has, it alone tells: of those the section is checked here. `options` are
    the keys in words.
    """
    section, _, rest = name.partition(".")
    if name not in FIGURES and name not in keys and not (rest and section in SECTIONS):
        raise HalutError(f"{option}={name} is unknown; choose from: {choices(options)}")


def choices(prefix: str = "") -> str:
    """What an axis of a picture can be, in words: options as `prefix`, then figures."""
    options = f"{prefix}; " if prefix else ""
    return (
        f"{options}{', '.join(FIGURES)}; or a number of report.json by its path, such as "
        "memory.after.tables"
    )


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; lists are leaves."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`: keys with dots as mappings in mappings."""
    groups: dict[str, Any] = {}
    for key, value in config.items():
        *names, last = key.split(".")
        place = groups
        for name in names:
            place = place.setdefault(name, {})
        place[last] = value
    return groups


def is_number(value: Any) -> TypeGuard[float]:
    """True for finite numbers, which True and False are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def mapping(value: Any) -> dict[str, Any]:
    """The value of a file of JSON, if it is an object; {} for all else."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[dict[str, Any]]:
    """The objects of a list in a file of JSON; [] for all else."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None if there is no such file."""
    try:
        return read_json(path, {})
    except FileNotFoundError:
        return None
    except HalutError as error:  # told beside the run's own name
        raise HalutError(str(error).replace(str(path), path.name)) from error
    except OSError as error:
        raise HalutError(f"{path.name}: cannot be read: {error.strerror}") from error
