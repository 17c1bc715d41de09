"""What a run folder says: how far it came, its configuration, the figures of its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halut.errors import HalutError, reason
from halut.files import Kind, read_json, reading

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
    "normalised_mse": "mean normalised squared error of a layer",
    "weight_bits": "bits a weight",
    "activation_bits": "bits an activation",
    "bops": "bit operations",
    "weight_bytes": "bytes of weights and tables",
    "seconds": "seconds",
}
"""The figures of a finished run, and what their axis says."""


@dataclass(frozen=True)
class RunRecord:
    """One run folder. `config` is flat, by dotted key, less its section `sweep`, which says how to
    show it; `figures` is empty unless finished."""

    path: Path
    status: str
    config: dict[str, Any]
    shown: dict[str, Any]
    figures: dict[str, float | None]
    subject: str = ""
    error: str | None = None


def run_folders(folder: Path) -> Iterator[Path]:
    """Run folders at and below `folder`, in order of their names; none lies within another."""
    if (folder / "config.json").exists() or (folder / ERROR).exists():
        yield folder
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from run_folders(path)


def read_run(path: Path) -> RunRecord:
    """The record of one run folder; one with damaged files has failed, as its error says."""
    try:
        return _record(path)
    except (HalutError, OSError) as error:
        return RunRecord(path, FAILED, {}, {}, {}, error=reason(error))


def _record(path: Path) -> RunRecord:
    failure = _read(path / ERROR, {"error": str})
    report = _read(path / "report.json", {})
    config = _read(path / "config.json", {}) or (failure or {}).get("config") or {}
    with reading(path / "config.json"):
        shown = _shown(config.pop("sweep", None) or {})
        plain = dict(flat(config))
    if failure is not None:
        return RunRecord(path, FAILED, plain, shown, {}, error=failure["error"])
    if report is None:
        action = (_read(path / "state.json", {}) or {}).get("next", "not begun")
        return RunRecord(path, UNFINISHED, plain, shown, {}, error=f"next: {action}")
    with reading(path / "report.json"):
        subject = f"{report['model']['name']} on {report['data']['name']}"
        figures = {key: _figure(key, value) for key, value in figures_of(report).items()}
    return RunRecord(path, FINISHED, plain, shown, figures, subject)


def _shown(section: dict[str, Any]) -> dict[str, Any]:
    """The section `sweep` of a configuration, if its values can be what they should."""
    words = section.get("words") or {}
    texts = [section.get("x"), section.get("y"), *words, *words.values()]
    if not all(isinstance(text, str | None) for text in texts):
        raise TypeError("sweep must hold texts")
    return section


def _figure(name: str, value: Any) -> float | None:
    if value is None or isinstance(value, int | float):
        return None if value is None else float(value)
    raise TypeError(f"{name} is no number but {value!r}")


def figures_of(report: dict[str, Any]) -> dict[str, float | None]:
    """FIGURES of a report; None where it does not tell."""
    final, cost, stages = report["final"], report["cost"], report["stages"]
    exact, bits = report["base"]["test_accuracy"], cost.get("bits", {})
    errors = [s["normalised_mse"] for s in report["sites"] if s["normalised_mse"] is not None]
    replaced, ptq = cost["replaced"], report.get("ptq", {})  # earlier reports have no ptq
    return {
        "test_accuracy": final["test_accuracy"],
        "val_accuracy": final["val_accuracy"],
        "exact_accuracy": exact,
        "baseline_accuracy": report["baseline"]["test_accuracy"],
        "int8_accuracy": ptq.get("int8", {}).get("test_accuracy"),
        "int4_accuracy": ptq.get("int4", {}).get("test_accuracy"),
        "swapped_accuracy": stages[-1]["val_accuracy_after_swap"],
        "lost": exact - final["test_accuracy"],
        "normalised_mse": sum(errors) / len(errors) if errors else None,
        "weight_bits": bits.get("weight_bits"),
        "activation_bits": bits.get("activation_bits"),
        "bops": bits.get("bops"),
        "weight_bytes": replaced["weight_bytes"] + replaced["table_bytes"],
        "seconds": report.get("seconds"),
    }


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; lists are leaves."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read(path: Path, wanted: Mapping[str, Kind]) -> Any:
    return read_json(path, wanted) if path.exists() else None
